"""Image stores: volumes of the host engine with images inside, filled once and then only ever mounted read-only.

A store is complete when its *entry* is there: a second volume, empty, whose labels say all that is to be known of it.
It is made by one request when the data is whole, and volumes of one name are one volume: so there is no half of it, and
of several processes that fill the same store, on whatever machine, the first one's counts. The entry's name has the day
on which the store was last used: each day's first user makes a new one, and then removes the older.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from . import __version__
from .host import HostEngine
from .labels import ENTRY, OURS, ROLE, STORE, Ownership
from .places import locks_dir, open_ours

#: Characters of a key in the names of volumes.
_SHORT = 16
#: Seconds: all workers of a run hear that a store is refused; a later run tries again, as the reason may be gone.
_REFUSAL_COUNTS = 600


@dataclass(frozen=True)
class Store:
    """A complete image store, as its entry describes it."""

    #: What it was filled from, as a hash: who needs the same finds it by this.
    key: str
    #: The volume with the data.
    volume: str
    #: What it was filled for, whatever state that was in: a newer one of the same project takes its place.
    purpose: str = ""
    #: The directory of the tests that it was filled for.
    project: str = ""
    #: Its images: name inside to id inside.
    images: Mapping[str, str] = field(default_factory=dict)
    #: Bytes of the data.
    size: int = 0
    #: When it was filled, in seconds since 1970.
    filled: float = 0.0
    #: Why it cannot be adopted; then it is empty.
    refused: str = ""
    #: The day on which it was last used, in UTC.
    used: str = "1970-01-01"

    @property
    def days_unused(self) -> int:
        """Days since it was last used; 0 if a clock says that this lies ahead."""
        return max(0, (date.fromisoformat(_today()) - date.fromisoformat(self.used)).days)

    @property
    def refused_lately(self) -> bool:
        """Whether it was refused so short ago that it is not to be tried again."""
        return abs(time.time() - self.filled) < _REFUSAL_COUNTS


def find(engine: HostEngine, key: str) -> Store | None:
    """Return the complete store of a key, marked as used today; None if there is none. Have it `held` meanwhile."""
    volumes = _volumes(engine, f"{STORE}={key}")
    data = {volume["Name"] for volume in volumes}
    found = [one for one in _entries(volumes) if (one.refused_lately if one.refused else one.volume in data)]
    if not found:
        return None
    newest = max(found, key=lambda store: store.used)
    return newest if newest.used == _today() else add(engine, newest)


def clear_way(engine: HostEngine, key: str) -> None:
    """Remove entries that count for nothing, and stand in the way of a new one. Only where `find` has found nothing.

    Hold the lock for filling: a new one may have been made meanwhile.
    """
    for volume in _volumes(engine, f"{STORE}={key}"):
        if ENTRY in volume["Labels"]:
            remove_volume(engine, volume["Name"])


def create_data(engine: HostEngine, key: str, ownership: Ownership) -> str:
    """Create the volume for a store's data; `remove_volume` is its undo, and the sweep's where this process dies."""
    name = f"pytest-dind-store-{key[:_SHORT]}-data-{secrets.token_hex(4)}"
    engine.api.create_volume(name, labels={**ownership.labels(), ROLE: "store-data", STORE: key})
    return name


def add(engine: HostEngine, store: Store) -> Store:
    """Make the entry of a store, which from now on is complete; return the one that counts."""
    name = f"pytest-dind-store-{store.key[:_SHORT]}-{_today()}"
    entry = json.dumps(dataclasses.asdict(dataclasses.replace(store, used=_today())))
    labels = {OURS: __version__, ROLE: "store", STORE: store.key, ENTRY: entry}
    made = engine.api.create_volume(name, labels=labels)
    (counts,) = _entries([made])
    for volume in _volumes(engine, f"{STORE}={store.key}"):
        # Of the same data, on other days; or of data that lost against another's.
        if volume["Name"] not in (name, counts.volume):
            remove_volume(engine, volume["Name"])
    return counts


def all_stores(engine: HostEngine) -> list[Store]:
    """Return all stores on the engine, whoever filled them; one whose data is gone says so, as `refused`."""
    volumes = _volumes(engine, STORE)
    data = {volume["Name"] for volume in volumes}
    newest: dict[str, Store] = {}
    for store in sorted(_entries(volumes), key=lambda one: one.used):
        gone = not store.refused and store.volume not in data
        newest[store.key] = dataclasses.replace(store, size=0, refused="its data is gone") if gone else store
    return list(newest.values())


def all_data(engine: HostEngine) -> dict[str, Mapping[str, str]]:
    """Return the labels of all volumes with data of stores, complete or not, by name."""
    volumes = _volumes(engine, f"{ROLE}=store-data")
    return {volume["Name"]: volume["Labels"] for volume in volumes}


def incomplete(engine: HostEngine) -> set[str]:
    """Return the names of volumes with data that no entry names."""
    volumes = _volumes(engine, STORE)
    entries = list(_entries(volumes))
    complete = {one.volume for one in entries}
    # An entry that this version cannot read may name any of its key.
    unread = {one.key for one in entries if not one.volume}
    data = [volume for volume in volumes if volume["Labels"].get(ROLE) == "store-data"]
    return {one["Name"] for one in data if one["Name"] not in complete and one["Labels"][STORE] not in unread}


def remove(engine: HostEngine, store: Store) -> bool:
    """Remove a store that nobody uses; False if somebody does, on this machine or, as the engine says, elsewhere."""
    with _alone(store.key) as alone:
        if not alone:
            return False
        volumes = _volumes(engine, f"{STORE}={store.key}")
        # The data first: if a container of another machine's or user's has it, all stays as it is.
        names = [one["Name"] for one in sorted(volumes, key=lambda one: one["Labels"][ROLE] == "store")]
        return all(remove_volume(engine, name) for name in names)


def is_used(engine: HostEngine, store: Store) -> bool:
    """Whether somebody uses a store just now, on this machine or, as the engine says, elsewhere."""
    with _alone(store.key) as alone:
        names = [volume["Name"] for volume in _volumes(engine, f"{STORE}={store.key}")]
        # Of several names the engine lists the containers with any.
        return not alone or bool(names and engine.api.containers(all=True, filters={"volume": names}))


def remove_volume(engine: HostEngine, name: str) -> bool:
    """Remove a volume; False if it is in use. No error when it is gone."""
    from docker.errors import APIError, NotFound  # noqa: PLC0415

    try:
        engine.api.remove_volume(name)
    except NotFound:
        pass
    except APIError as error:
        if error.status_code == 409:  # in use  # noqa: PLR2004
            return False
        raise
    return True


def _volumes(engine: HostEngine, label: str) -> list[Mapping[str, Any]]:
    return engine.api.volumes(filters={"label": label})["Volumes"] or []


def _entries(volumes: Iterable[Mapping[str, Any]]) -> Iterator[Store]:
    return (_read_entry(volume["Labels"]) for volume in volumes if ENTRY in volume["Labels"])


def _read_entry(labels: Mapping[str, str]) -> Store:
    """Another version of this package may say more, or less, or it in another way."""
    try:
        said = json.loads(labels[ENTRY])
        store = Store(**{name: value for name, value in said.items() if name in _FIELDS})
        date.fromisoformat(store.used)
    except (ValueError, TypeError, AttributeError):
        return Store(labels[STORE], "", refused="what its entry says cannot be read")
    return store


_FIELDS = {one.name for one in dataclasses.fields(Store)}


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


# -- in use by whom

_holds: dict[Path, int] = {}


def hold(key: str) -> None:
    """Say that this process uses a store: until it ends, or lets go of all, nobody of this user removes it."""
    path = _use_lock(key)
    if path not in _holds:
        descriptor = open_ours(path, os.O_RDWR)
        # Shared by all users; whoever removes wants it alone. A file is of several keys, which only makes that careful.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _holds.setdefault(path, descriptor) != descriptor:  # Another thread was faster.
            os.close(descriptor)


def let_go() -> None:
    """Say that this process uses no store any more."""
    while _holds:
        os.close(_holds.popitem()[1])


# A forked child uses none; its copies would hold them for as long as it lives.
os.register_at_fork(after_in_child=let_go)


@contextmanager
def _alone(key: str) -> Iterator[bool]:
    descriptor = open_ours(_use_lock(key), os.O_RDWR)
    try:
        yield _lock_exclusively(descriptor)
    finally:
        os.close(descriptor)


def _lock_exclusively(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _use_lock(key: str) -> Path:
    return locks_dir() / f"use-{key[:2]}.lock"
