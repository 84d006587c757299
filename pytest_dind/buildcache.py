"""The volumes in which builders keep what they have cached, and which live on between runs."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from . import __version__
from .host import HostEngine
from .labels import OURS, ROLE
from .locks import host_id
from .places import builds_dir
from .store import remove_volume
from .tarball import familiar

#: Characters of a key in the names of volumes.
_SHORT = 16
#: Hours after which a builder gives up what it has not used.
_KEEP = 168


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


def tidy(api: Any, volume: str, needed: Collection[str]) -> None:
    """Remove from a builder what a build that was killed left running or half done, and what has long not been used.

    Its images are its cache: for the classic builder what the steps made, for both what they are built on, which would
    have to be brought again.

    :param api: Of the builder's daemon.
    :param needed: The names that the build at hand needs. Their images stay, and count as used now.
    """
    for container in api.containers(all=True):
        api.remove_container(container["Id"], force=True, v=True)
    _remove_unused_images(api, volume, {familiar(name) for name in needed})
    api.prune_builds(filters={"unused-for": f"{_KEEP}h"}, all=True)


def _remove_unused_images(api: Any, volume: str, needed: Collection[str]) -> None:
    from docker.errors import APIError  # noqa: PLC0415

    # The engine does not know when an image was last used. One that was not there before counts as used now.
    before, now = _uses(volume), time.time()
    uses = {}
    # What was made later first: what others are built on cannot be removed before them.
    for image in sorted(api.images(), key=lambda one: -one["Created"]):
        names = {*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())}
        used = now if names & {*needed} else before.get(image["Id"], now)
        if used > now - _KEEP * 3600:
            uses[image["Id"]] = used
            continue
        try:
            api.remove_image(image["Id"], force=True)
        except APIError:  # Something is built on it, and removed later.
            uses[image["Id"]] = used
    _mark(volume).write_text(json.dumps(uses), encoding="ascii")


def _uses(volume: str) -> Mapping[str, float]:
    """Return when each image in a builder was last used, by id, in seconds since 1970."""
    try:
        uses: Mapping[str, float] = json.loads(_mark(volume).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):  # a new volume, or a record that was cut off
        return {}
    return uses


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
    """Return the file that is as old as the last use of a volume, and says when its images were used."""
    return builds_dir() / f"{volume}.used"
