"""How a daemon is to be: the values of all options, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import SettingsError
from .table import OPTIONS

if TYPE_CHECKING:
    from .build import Build

_BY_NAME = {option.name: option for option in OPTIONS}
#: Words of markers and dind_factory that are not the name of the field.
_PLURALS = {
    "daemon_args": "daemon_arg",
    "insecure_registries": "insecure_registry",
    "mounts": "mount",
    "ports": "port",
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
    transport: str = "auto"
    mount: tuple[Path, ...] = ()
    keep: str = "never"
    log_dir: Path | None = None
    start_timeout: float = 120.0
    lock_timeout: float = 2100.0
    build_timeout: float = 1800.0
    store_keep: float = 7.0
    lookahead: int = 1
    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    runtime: str | None = None
    network: str | None = None
    port: tuple[int, ...] = ()
    environ: bool = False
    clean: bool = False
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option in OPTIONS:
            checked = option.check(getattr(self, option.name), f"Settings({option.name}=…)")
            object.__setattr__(self, option.name, checked)
        if self.transport == "tls" and self.network == "none":
            raise SettingsError("Settings(transport=…)", "tls", "needs a network, and --dind-network=none leaves none")
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

    def told(self, key: str) -> Iterator[str]:
        """Yield what dockerd is told of a key: in an argument, or in daemon.json."""
        yield from (argument.partition("=")[2] for argument in self.daemon_arg if argument.startswith(f"--{key}="))
        if isinstance(value := (self.config or {}).get(key), str):
            yield value

    @property
    def privileged(self) -> bool:
        """Whether the container is privileged: always, but for a runtime that nests without it."""
        # "--privileged does not work with Sysbox": https://github.com/nestybox/sysbox/blob/master/docs/user-guide/limitations.md
        return self.runtime is None or "sysbox" not in self.runtime
