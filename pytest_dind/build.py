"""What to build: a directory, its Dockerfile and how that is to be used. Where and how it is built is in builder.py."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import SettingsError

#: https://github.com/distribution/reference/blob/main/regexp.go, without a digest: a build cannot have one. Texts, and
#: compiled where they are needed: this module is imported by every run of pytest.
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?/)?"
_TAG = rf"{_DOMAIN}{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?"
_ARGUMENT = r"[A-Za-z_][A-Za-z0-9_]*"
_ID = r"[A-Za-z0-9_.-]+"
_STAGE = r"[A-Za-z0-9_.-]+"


@dataclass(frozen=True, init=False)
class Build:
    """An image to build. Checked when made; its paths are absolute then.

    It is built anew when anything changes that it is made of. What its steps fetch over the network is not known.

    :raises SettingsError: a value cannot be used; the message names it and the rule.
    """

    #: The directory that is the build's context, less what its .dockerignore leaves out.
    path: Path
    #: The image's name in the daemons; without one it is known by its id.
    tag: str | None
    #: The Dockerfile; given relative to `path`, and it may lie outside.
    dockerfile: Path
    #: Values for the Dockerfile's ARG.
    buildargs: Mapping[str, str] = field(hash=False)
    #: The stage to build; the last one where nothing is said.
    target: str | None
    #: Files for `RUN --mount=type=secret,id=…`, by id. They do not decide whether an image is built anew.
    secrets: Mapping[str, Path] = field(hash=False)

    def __init__(  # noqa: PLR0913 (as many as docker build has)
        self,
        path: str | os.PathLike[str],
        *,
        tag: str | None = None,
        dockerfile: str | os.PathLike[str] | None = None,
        buildargs: Mapping[str, str] | None = None,
        target: str | None = None,
        secrets: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> None:
        where = "Build({}=…)".format
        context = _absolute(path, where("path"))
        if not context.is_dir():
            rule = "is not a directory; give the one with what is to be built"
            raise SettingsError(where("path"), str(context), rule)
        file = _absolute(context / ("Dockerfile" if dockerfile is None else dockerfile), where("dockerfile"))
        if not file.is_file():
            rule = "is not a file; give the Dockerfile's name, relative to the directory that is built"
            raise SettingsError(where("dockerfile"), str(file), rule)
        checked = {
            "path": context,
            "tag": _matching(_TAG, tag, where("tag"), "is not a name for an image; give one such as app:test"),
            "dockerfile": file,
            "buildargs": _arguments(buildargs, where("buildargs")),
            "target": _matching(_STAGE, target, where("target"), "is not the name of a stage; see FROM … AS NAME"),
            "secrets": _secrets(secrets, where("secrets")),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        return self.tag or str(self.path)


def _matching(pattern: str, value: object, where: str, rule: str) -> str | None:
    if value is not None and not (isinstance(value, str) and re.fullmatch(pattern, value)):
        raise SettingsError(where, value, rule)
    return value


def _absolute(value: object, where: str) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise SettingsError(where, value, "is not a path")
    return Path(os.path.abspath(os.path.expanduser(value)))  # noqa: PTH100, PTH111 (keeps links)


def _arguments(value: object, where: str) -> dict[str, str]:
    found = {}
    for name, argument in _items(value, where):
        if not re.fullmatch(_ARGUMENT, name):
            raise SettingsError(where, name, "is not the name of a build argument; see ARG in the Dockerfile")
        if not isinstance(argument, str):
            raise SettingsError(where, argument, f"is not a text, as the build argument {name} must be")
        found[name] = argument
    return found


def _secrets(value: object, where: str) -> dict[str, Path]:
    found = {}
    for name, source in _items(value, where):
        if not re.fullmatch(_ID, name):
            raise SettingsError(where, name, "is not the id of a secret; see RUN --mount=type=secret,id=…")
        found[name] = _absolute(source, where)
        if not found[name].is_file():
            raise SettingsError(where, str(found[name]), f"is not a file, as the secret {name} must be")
    return found


def _items(value: object, where: str) -> list[tuple[str, object]]:
    if value is None:
        return []
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise SettingsError(where, value, "is not a mapping of names to values")
    return list(value.items())


def declared(text: str, where: str, base: Path | None = None) -> Build:
    """Read one line of ini `dind_builds`: TAG PATH [dockerfile=…] [target=…] [buildargs.NAME=VALUE]….

    :param where: Named in the error when it cannot be used.
    :param base: What PATH is relative to; the current directory where nothing is said.
    :raises SettingsError: it is no such line, or what it says cannot be used.
    """
    form = "TAG PATH [dockerfile=NAME] [target=STAGE] [buildargs.NAME=VALUE]…"
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SettingsError(where, text, f"cannot be read ({error}); give {form}") from error
    if len(words) < 2 or any("=" in word for word in words[:2]) or not all("=" in word for word in words[2:]):  # noqa: PLR2004
        raise SettingsError(where, text, f"is not a build; give {form}")
    buildargs: dict[str, str] = {}
    said: dict[str, str] = {}
    for word in words[2:]:
        name, _, value = word.partition("=")
        kind, dot, argument = name.partition(".")
        if kind == "buildargs" and dot:
            buildargs[argument] = value
        elif name in ("dockerfile", "target"):
            said[name] = value
        else:
            raise SettingsError(where, text, f"says {name}, which is not known; give {form}")
    try:
        path, dockerfile, target = (base or Path()) / words[1], said.get("dockerfile"), said.get("target")
        return Build(path, tag=words[0], dockerfile=dockerfile, buildargs=buildargs, target=target)
    except SettingsError as error:
        raise SettingsError(f"{where}, {error.where}", error.value, error.rule) from error
