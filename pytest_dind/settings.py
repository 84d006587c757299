"""Every option, declared once: command line, ini, marker and `Settings` all come from this table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import checks, sources
from .checks import KEEP
from .errors import SettingsError
from .sources import PULL

if TYPE_CHECKING:
    from .build import Build


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
        sources.preload,
        "Image that every daemon has inside from the start: streamed from the host engine, or pulled inside where that "
        "has not got it; or a file of docker save, such as ./app.tar. May be given several times.",
        "IMAGE|FILE",
        many=True,
    ),
    Option(
        "builds",
        sources.build,
        "Image that is built once and then inside every daemon: 'TAG PATH [dockerfile=NAME] [target=STAGE] "
        "[buildargs.NAME=VALUE]…'. May be given several times.",
        "BUILD",
        many=True,
        marker=False,
    ),
    Option(
        "pull",
        sources.pull,
        "When the images to preload are pulled inside, with your log-ins: those that the host engine has not got "
        "(missing, the default), always anew in each run, or never.",
        "|".join(PULL),
        marker=False,
    ),
    Option(
        "registry_mirror",
        sources.registry_mirror,
        "Mirror of Docker Hub that the daemons pull from, such as http://mirror.example:5000. "
        "May be given several times.",
        "URL",
        many=True,
    ),
    Option(
        "insecure_registry",
        sources.insecure_registry,
        "Registry, or range of addresses, that the daemons use without TLS, or without checking its certificate. "
        "May be given several times.",
        "HOST[:PORT]|CIDR",
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
        "lock_timeout",
        checks.seconds,
        "Seconds to wait for another process that fills an image store or builds an image (default: 900).",
        "SECONDS",
        marker=False,
    ),
    Option("build_timeout", checks.seconds, "Seconds that a build may take (default: 1800).", "SECONDS", marker=False),
    Option(
        "store_keep",
        checks.days,
        "Days after which an image store that no run has used is removed, at the end of a run (default: 7); "
        "with 0 none outlives its run.",
        "DAYS",
        marker=False,
    ),
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
_PLURALS = {
    "daemon_args": "daemon_arg",
    "insecure_registries": "insecure_registry",
    "mounts": "mount",
    "registry_mirrors": "registry_mirror",
}
#: What dockerd takes from its command line or from daemon.json, and refuses to take from both.
_IN_ONE_PLACE = {"registry_mirror": "registry-mirrors", "insecure_registry": "insecure-registries"}


@dataclass(frozen=True)
class Settings:
    """How a daemon is to be: the options of the same names. Checked when made.

    :raises SettingsError: a value cannot be used; the message names it and the rule.
    """

    image: str = "docker:dind"
    preload: tuple[str | Path, ...] = ()
    builds: tuple[Build, ...] = ()
    pull: str = "missing"
    registry_mirror: tuple[str, ...] = ()
    insecure_registry: tuple[str, ...] = ()
    daemon_arg: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None
    mount: tuple[Path, ...] = ()
    keep: str = "never"
    start_timeout: float = 120.0
    lock_timeout: float = 900.0
    build_timeout: float = 1800.0
    store_keep: float = 7.0
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
        for name, key in _IN_ONE_PLACE.items():
            if getattr(self, name) and key in (self.config or {}):
                flag = _BY_NAME[name].flag
                raise SettingsError(
                    "Settings(config=…)", key, f"is said by {flag}, too, and dockerd takes it from one place only"
                )

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

    def having(self, where: str, wanted: Iterable[object]) -> Settings:
        """Return these settings with more images: names, files and builds; `where` is named when one is none of them.

        :raises SettingsError: one is none of them.
        """
        from .build import Build  # noqa: PLC0415 (as in sources.py)

        builds = [one for one in wanted if isinstance(one, Build)]
        others = [_BY_NAME["preload"].parse(one, where) for one in wanted if not isinstance(one, Build)]
        return dataclasses.replace(self, preload=(*self.preload, *others), builds=(*self.builds, *builds))

    @property
    def privileged(self) -> bool:
        """Whether the container is privileged: always, but for a runtime that nests without it."""
        # "--privileged does not work with Sysbox": https://github.com/nestybox/sysbox/blob/master/docs/user-guide/limitations.md
        return self.runtime is None or "sysbox" not in self.runtime
