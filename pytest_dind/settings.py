"""Every option, declared once: command line, ini, marker and `Settings` all come from this table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import checks
from .checks import KEEP
from .errors import SettingsError


@dataclass(frozen=True)
class Option:
    """One option: `--dind-NAME`, ini `dind_NAME` and the field `NAME` of Settings."""

    name: str
    parse: Callable[[object, str], Any]
    help: str
    metavar: str = ""
    #: Given any number of times; the field is a tuple.
    many: bool = False
    #: Read when neither command line nor marker says anything.
    variable: str = ""
    #: Whether a marker may say it for one test's daemon.
    marker: bool = True

    @property
    def flag(self) -> str:
        """The command line's word."""
        return "--dind-" + self.name.replace("_", "-")

    @property
    def ini(self) -> str:
        """The ini file's word."""
        return f"dind_{self.name}"

    def check(self, value: object, where: str) -> Any:
        """Return `value` as the field holds it.

        :raises SettingsError: it is no such thing.
        """
        if not self.many:
            # None means "not limited", "not set", and only where that is the default.
            return None if value is None and getattr(Settings, self.name) is None else self.parse(value, where)
        if isinstance(value, (str, Path)) or not isinstance(value, Iterable):
            raise SettingsError(where, value, "is not a list; give one, such as ['busybox']")
        return tuple(self.parse(part, where) for part in value)


OPTIONS = (
    Option(
        "image",
        checks.image,
        "Image of the daemons, or '{version}' in it for the host engine's version "
        "(default: docker:dind). Given several times, the suite runs on each.",
        "IMAGE",
        variable="PYTEST_DIND_IMAGE",
    ),
    Option(
        "preload",
        checks.image,
        "Image that every daemon has inside from the start: streamed from the host engine, or "
        "pulled inside where that has not got it. May be given several times.",
        "IMAGE",
        many=True,
    ),
    Option(
        "daemon_arg",
        checks.daemon_arg,
        "Further argument of dockerd, such as --dind-daemon-arg=--mtu=1400. May be given several times.",
        "ARG",
        many=True,
    ),
    Option("config", checks.daemon_config, "A daemon.json for the daemons.", "FILE"),
    Option(
        "mount",
        checks.mount,
        "Path of this machine that every daemon sees at the same place, for bind mounts of inner "
        "containers; pytest's base temp directory always is. May be given several times.",
        "PATH",
        many=True,
    ),
    Option(
        "keep",
        checks.keep,
        "Leave daemons running after the run, to look into: never (default), failed (those that a "
        "failed test used) or always. How to reach and remove them is printed.",
        "|".join(KEEP),
    ),
    Option("start_timeout", checks.seconds, "Seconds that a daemon may take to answer (default: 120).", "SECONDS"),
    Option(
        "memory",
        checks.size,
        "Most memory of a daemon with all that runs in it, such as 2g (default: no limit).",
        "SIZE",
    ),
    Option(
        "cpus",
        checks.cpus,
        "Most CPUs of a daemon with all that runs in it, such as 1.5 (default: no limit).",
        "NUMBER",
    ),
    Option("pids", checks.count, "Most processes of a daemon with all that run in it (default: no limit).", "NUMBER"),
    Option(
        "runtime",
        checks.text,
        "Runtime of the host engine for the daemons' containers. One of sysbox runs them without --privileged.",
        "NAME",
    ),
    Option(
        "network", checks.network, "Network of the host engine that the daemons join (default: its bridge).", "NAME"
    ),
    Option(
        "environ",
        checks.switch,
        "The whole test process sees the worker's daemon as its Docker: it is up, and in "
        "os.environ, before the first test module is imported. For suites that know nothing of this plugin.",
        marker=False,
    ),
)

_BY_NAME = {option.name: option for option in OPTIONS}
#: Words of markers and dind_factory that are not the name of the field.
_PLURALS = {"daemon_args": "daemon_arg", "mounts": "mount"}


@dataclass(frozen=True)
class Settings:
    """How a daemon is to be: the options of the same names. Checked when made.

    :raises SettingsError: a value cannot be used; the message names it and the rule.
    """

    image: str = "docker:dind"
    preload: tuple[str, ...] = ()
    daemon_arg: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None
    mount: tuple[Path, ...] = ()
    keep: str = "never"
    start_timeout: float = 120.0
    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    runtime: str | None = None
    network: str | None = None
    environ: bool = False

    def __post_init__(self) -> None:
        for option in OPTIONS:
            checked = option.check(getattr(self, option.name), f"Settings({option.name}=…)")
            object.__setattr__(self, option.name, checked)

    def changed(self, where: str, **changes: Any) -> Settings:
        """Return these settings with some changed; `where` is named when a change cannot be used.

        :raises SettingsError: an unknown name, or a value that cannot be used.
        """
        checked = {}
        for word, value in changes.items():
            option = _BY_NAME.get(_PLURALS.get(word, word))
            if option is None or not option.marker:
                known = ", ".join(sorted({*_BY_NAME, *_PLURALS} - {o.name for o in OPTIONS if not o.marker}))
                raise SettingsError(where, word, f"is not a setting of a daemon; there are {known}")
            checked[option.name] = option.check(value, f"{where}, {word}")
        return dataclasses.replace(self, **checked)

    @property
    def privileged(self) -> bool:
        """Whether the container is privileged: always, but for a runtime that nests without it."""
        # "--privileged does not work with Sysbox": https://github.com/nestybox/sysbox/blob/master/docs/user-guide/limitations.md
        return self.runtime is None or "sysbox" not in self.runtime
