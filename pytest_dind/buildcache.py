"""The volumes in which builders keep what they have cached, and which live on between runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from . import __version__
from .host import HostEngine
from .labels import OURS, ROLE
from .locks import host_id
from .places import builds_dir
from .store import remove_volume

#: Characters of a key in the names of volumes.
_SHORT = 16


def newest(engine: HostEngine, key: str) -> str:
    """Return the name of the volume for builders of a key, whether it is there or not. Hold the lock of the builder."""
    found = [name for name in own(engine) if name.startswith(f"{_prefix()}{key[:_SHORT]}-")]
    return max(found, key=_number, default=f"{_prefix()}{key[:_SHORT]}-1")


def after(volume: str) -> str:
    """Return the name for a volume in the place of one that may be broken."""
    return f"{volume.rpartition('-')[0]}-{_number(volume) + 1}"


def _number(volume: str) -> int:
    return int(volume.rpartition("-")[2])


def make(engine: HostEngine, volume: str) -> None:
    """Have a volume, and nobody on it: whoever else uses it, while the lock is ours, is dead or just dying."""
    for container in engine.api.containers(all=True, filters={"volume": volume}):
        engine.remove_and_wait(container["Id"])
    engine.api.create_volume(volume, labels={OURS: __version__, ROLE: "builder"})
    _mark(volume).touch(mode=0o600)


def own(engine: HostEngine) -> list[str]:
    """Return the names of those that only this user on this machine uses."""
    return [name for name in all_names(engine) if name.startswith(_prefix())]


def all_names(engine: HostEngine) -> list[str]:
    """Return the names of all, whoever made them."""
    return sorted(str(volume["Name"]) for volume in _all(engine))


def remove_all(engine: HostEngine, older_than_days: float = 0) -> list[str]:
    """Remove those that nobody works with just now, whoever made them; return their names.

    :param older_than_days:
        Only those whose last use is longer ago. When others used theirs is not known: the day counts on which they
        made them. Who needs one makes it anew, with nothing cached.
    """
    limit = time.time() - older_than_days * 86400
    old = [str(volume["Name"]) for volume in _all(engine) if _used(volume) <= limit]
    removed = [name for name in old if remove_volume(engine, name)]
    for name in removed:
        _mark(name).unlink(missing_ok=True)
    return removed


def _prefix() -> str:
    # A lock file of this user's on this machine keeps two from the same data; so nobody else may share it.
    return f"pytest-dind-builder-{host_id()}-"


def _all(engine: HostEngine) -> list[Mapping[str, Any]]:
    return engine.api.volumes(filters={"label": f"{ROLE}=builder"})["Volumes"] or []


def _used(volume: Mapping[str, Any]) -> float:
    try:
        return _mark(volume["Name"]).stat().st_mtime
    except FileNotFoundError:
        # 2026-12-31T23:59:59Z, or with +01:00
        return datetime.fromisoformat(volume["CreatedAt"].replace("Z", "+00:00")).timestamp()


def _mark(volume: str) -> Path:
    """Return the file that is as old as the last use of a volume."""
    return builds_dir() / f"{volume}.used"
