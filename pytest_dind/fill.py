"""Filling an image store: what has to be in it, once for all processes that need the same, and what if that fails."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import broken, builder, built, contents, images, locks, store, workshop
from .contents import Contents
from .errors import DaemonStartError, DaemonStateError, DindError, ImageNotFoundError, ImageStoreError
from .host import HostEngine
from .owner import Owner
from .route import ownership_on
from .settings import Settings
from .store import Store
from .workshop import Workshop

#: How often filling begins anew because what is to be in the store changed under it.
_ATTEMPTS = 3
_CURE_OF_CHANGES = (
    "Find what tags, builds, writes or removes them meanwhile, such as another run, and let it wait; "
    "leave out of a build with .dockerignore what others write to."
)
#: Storage drivers whose data can be adopted, and how boot.sh seals it.
SEALED = ("overlay2", "overlayfs")
#: What engines say when their disk is full; the kernel says it of inotify, too, when that is used up.
_FULL = re.compile("^(?!.*notify).*(?:no space left on device|disk quota exceeded)", re.IGNORECASE | re.MULTILINE)


def store_for(settings: Settings, engine: HostEngine, owner: Owner) -> Store | None:
    """Return the complete store with the images that a daemon is to have; None if it is to have none.

    This process holds it from then on. Filled now if it is not there: by this process, or by another that is at it.

    :raises ImageNotFoundError: an image is nowhere.
    :raises ImageBuildError: one that is to be built cannot be built.
    :raises ImageStoreError: the store cannot be filled, as the disk is full.
    :raises LockTimeoutError: another process has been filling it for too long.
    :raises DaemonStartError: the daemon that is to fill it does not come up.
    :raises HostEngineError: the host engine no longer answers.
    """
    if not settings.preload and not settings.builds:
        return None
    from requests.exceptions import RequestException  # noqa: PLC0415 (also of docker-py's errors the base)

    try:
        for _ in range(_ATTEMPTS):
            wanted = Contents.of(settings, engine, owner)
            store.hold(wanted.key)
            found = store.find(engine, wanted.key) or _fill_in_turn(wanted, settings, engine, owner)
            if found is not None:
                return found
    except DaemonStartError as error:
        _raise_if_full(error, error.log, settings)
        raise
    except RequestException as error:
        _raise_if_full(error, "", settings)
        raise engine.failure(error) from error
    reason = f"they changed, or were cleared away, while it was filled, {_ATTEMPTS} times"
    raise ImageStoreError(", ".join(contents.names(settings)), reason, _CURE_OF_CHANGES)


def _fill_in_turn(wanted: Contents, settings: Settings, engine: HostEngine, owner: Owner) -> Store | None:
    # Before the lock is taken: who waits for a build hears how it failed, and does not try it again.
    files = _files_of_builds(settings, engine, owner)
    if files is None:
        return None
    doing = f"filling the image store ({', '.join(contents.names(settings))})"
    with locks.held(f"store-{wanted.key}", doing, settings.lock_timeout, owner.worker):
        found = store.find(engine, wanted.key)
        if found is None:
            store.clear_way(engine, wanted.key)
            found = _fill(wanted, files, settings, engine, owner)
        return found


def _files_of_builds(settings: Settings, engine: HostEngine, owner: Owner) -> list[Path] | None:
    """Have all built; None if one is not what it was taken for, as its context has changed meanwhile."""
    layout = builder.layout(settings, engine)
    files, changed = [], False
    for build in settings.builds:
        done = built.tar_of(build, engine, settings, owner)
        files.append(done.path)
        changed = contents.correct(build, layout, done.identity) or changed
    return None if changed else files


def _fill(
    wanted: Contents, files: Sequence[Path], settings: Settings, engine: HostEngine, owner: Owner
) -> Store | None:
    """Fill a new volume and make its entry; None if what it was to hold has changed meanwhile, or is gone."""
    volume = store.create_data(engine, wanted.key, ownership_on(engine, owner))
    complete = False
    try:
        job = partial(_load_all, settings, files, engine)
        filled = workshop.do(job, volume, _of_filler(settings), engine, owner)
        if filled is None or Contents.of(settings, engine, owner) != wanted:
            return None
        found = store.add(
            engine, Store(wanted.key, volume, wanted.purpose, owner.project, filled=time.time(), **filled)
        )
        complete = not found.refused
        return found
    finally:
        if not complete:
            store.remove_volume(engine, volume)


def _of_filler(settings: Settings) -> Settings:
    # Its limits are for what tests run; it runs nothing.
    return dataclasses.replace(
        settings, preload=(), builds=(), mount=(), port=(), memory=None, cpus=None, pids=None, keep="never"
    )


def _load_all(
    settings: Settings, built_files: Sequence[Path], engine: HostEngine, daemon: Workshop
) -> Mapping[str, Any] | None:
    """Load all into the daemon and seal it; return what to say of the store, None if what was built is gone."""
    found: dict[str, str] = {}
    failures: tuple[type[Exception], ...] = (DindError, *broken.connection())
    try:
        driver = daemon.driver
        if driver not in SEALED:
            return _refused(f"the daemons' storage driver is {driver}, not one of {', '.join(SEALED)}")
        for wanted in (*settings.preload, *built_files):
            found |= images.bring(wanted, engine, daemon.client, settings.pull, daemon.life.check_interrupted)
        return {"images": found, "size": daemon.shut(f"seal {driver}")}
    except failures as error:
        if _is_gone(error, built_files):
            return None
        _raise_if_full(error, daemon.log, settings)
        if isinstance(error, DaemonStateError) or daemon.life.ended:
            return _refused(f"the daemon that was to fill it ended: {error}")
        raise


def _is_gone(error: Exception, files: Sequence[Path]) -> bool:
    """Whether it says that one of these is not there: another run clears away what has been built anew, or is old."""
    why = error.__cause__ if isinstance(error, ImageNotFoundError) else error
    return isinstance(why, FileNotFoundError) and why.filename in map(str, files)


def _raise_if_full(error: Exception, log: str, settings: Settings) -> None:
    if _FULL.search(f"{error}\n{log}"):
        said = getattr(error, "reason", error)
        reason = f"no space is left where the host engine keeps its volumes ({said})"
        cure = "See docker system df there; pytest-dind prune removes all image stores."
        raise ImageStoreError(", ".join(contents.names(settings)), reason, cure) from error


def _refused(reason: str) -> Mapping[str, Any]:
    return {"images": {}, "size": 0, "refused": reason}
