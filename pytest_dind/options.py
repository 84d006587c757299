"""What pytest was told: every option on its command line and in its ini file, and the settings that come of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from . import checks, sources
from .errors import SettingsError
from .table import OPTIONS, Option

if TYPE_CHECKING:
    from .settings import Settings

#: With these pytest shows something and runs no test.
_SHOWS = ("help", "version", "showfixtures", "show_fixtures_per_test", "markers", "cacheshow")


def add_options(parser: pytest.Parser) -> None:
    """Declare `--dind`, and each option with its ini value."""
    group = parser.getgroup("dind", "real Docker daemons for tests (pytest-dind)")
    group.addoption("--dind", action="store_true", default=None,
                    help="Give tests real Docker daemons: starts privileged containers on this machine's Docker. "
                    "Without it, tests that ask for one are skipped.")  # fmt: skip
    parser.addini("dind", "As if --dind were given.", type="bool", default=None)
    for option in OPTIONS:
        help_text = option.help + (f" Also: environment {option.variable}." if option.variable else "")
        repeated = option.many or option.name == "image"
        if option.parse is checks.switch:
            group.addoption(option.flag, action="store_true", default=None, help=help_text)
            parser.addini(option.ini, f"The same as {option.flag}.", type="bool", default=None)
        else:
            kind: Literal["linelist", "string"] = "linelist" if repeated else "string"
            group.addoption(option.flag, action="append" if repeated else "store", default=None,
                            metavar=option.metavar, help=help_text)  # fmt: skip
            parser.addini(option.ini, f"The same as {option.flag}.", kind, default=None)


def is_wanted(config: pytest.Config, namespace: Any = None) -> bool:
    """Whether the run was asked for daemons: `--dind` or ini `dind = true`.

    :raises pytest.UsageError: the ini value is neither, or `--dind-environ` was given alone.
    """
    options = config.option if namespace is None else namespace
    said = getattr(options, "dind", None)
    try:
        wanted = bool(_ini(config, "dind") if said is None else said)
    except SettingsError as error:
        raise pytest.UsageError(f"pytest-dind: {error}") from error
    if getattr(options, "dind_environ", None) and not wanted:
        # Without a word, a suite that is to run on a daemon of its own would run on the user's own Docker.
        raise pytest.UsageError("pytest-dind: --dind-environ does nothing without --dind; give both, or neither")
    return wanted


def resolve(config: pytest.Config, namespace: Any = None) -> tuple[Settings, ...]:
    """Return the run's settings, one for each image: command line, then environment, then ini, then default.

    :param namespace:
        Where the command line's values are, when it is too early to find them in `config`.
    :raises SettingsError: a value cannot be used; the message names where it was given.
    """
    from .settings import Settings  # noqa: PLC0415 (only a run with daemons has some)

    values = {}
    for option in OPTIONS:
        given = _given(config, config.option if namespace is None else namespace, option)
        if given is not None:
            values[option.name] = given
    images = values.pop("image", (Settings.image,))
    if values.get("environ") and len(images) > 1:
        rule = "are several, and --dind-environ gives a whole process one daemon; leave all but one out"
        raise SettingsError("--dind-image", list(images), rule)
    return tuple(Settings(image=image, **values) for image in images)


def _given(config: pytest.Config, namespace: Any, option: Option) -> Any:
    """What was said about an option, checked; None where nothing was."""
    images = option.name == "image"
    said = getattr(namespace, option.flag[2:].replace("-", "_"), None)
    where = option.flag
    if said is None and option.variable and os.environ.get(option.variable):
        said, where = os.environ[option.variable], f"environment {option.variable}"
        said = [said] if images else said
    if said is None:
        said, where = _ini(config, option.ini), f"ini {option.ini}"
        if said in ("", []):
            return None
        said = _beside_the_ini_file(config, option, said)
    if said is None:
        return None
    if images:
        return tuple(option.parse(part, where) for part in said)
    return option.check(said, where)


def _ini(config: pytest.Config, name: str) -> Any:
    """Return an ini value; pytest itself says of a switch that is none only that, not which."""
    try:
        return config.getini(name)
    except (ValueError, pytest.UsageError) as error:  # the latter from pytest 9 on
        said, _, value = str(error).partition("invalid truth value ")
        if said or not value:
            raise
        raise SettingsError(f"ini {name}", value.strip("'"), "is neither true nor false") from error
    except TypeError as error:  # of [tool.pytest], where 2 is no "2"; from 9.1 on pytest makes it a UsageError itself
        raise pytest.UsageError(str(error)) from error


def _beside_the_ini_file(config: pytest.Config, option: Option, said: Any) -> Any:
    """Paths in an ini file count from where that lies, as pytest's own do; `~` is the user's home."""
    if said is None or config.inipath is None:
        return said
    folder = config.inipath.parent

    def beside(part: str) -> Any:
        if option.parse is sources.build:
            return sources.build(part, f"ini {option.ini}", folder)
        if option.parse in (checks.mount, checks.daemon_config, checks.log_dir) or (
            option.parse is sources.preload and sources.is_file(part)
        ):
            return str(folder / os.path.expanduser(part))  # noqa: PTH111 (raises nothing without a home)
        return part

    return [beside(part) for part in said] if option.many else beside(said)


def shows_only(options: Any) -> bool:
    """Whether pytest was asked to show something, and not even to collect tests for their own sake."""
    return any(getattr(options, name, None) for name in _SHOWS)


def marked(item: pytest.Item, settings: Settings) -> Settings:
    """Return settings as a test's markers change them; the nearest marker wins.

    :raises SettingsError: a marker cannot be used; the message names the test.
    """
    for marker in reversed(list(item.iter_markers("dind"))):
        where = f"{item.nodeid}, @pytest.mark.dind"
        if marker.args:
            raise SettingsError(
                where, marker.args[0], "is not named; the marker takes keywords only, such as memory='2g'"
            )
        settings = settings.changed(where, **marker.kwargs)
    return settings


def image_of(item: pytest.Item, otherwise: str) -> str:
    """Return the image that a test runs on, where `--dind-image` names several; else another."""
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return str(parameters.get("_dind_image", otherwise))


def preloads(item: pytest.Item) -> list[str | Path]:
    """Return the images that a test's markers ask for.

    :raises SettingsError: a marker cannot be used.
    """
    from .settings import Settings  # noqa: PLC0415 (as above)

    return [
        image
        for marker in item.iter_markers("dind")
        for image in Settings().changed(item.nodeid, preload=marker.kwargs.get("preload", ())).preload
    ]
