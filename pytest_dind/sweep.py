"""Leftovers: what runs that died left on the host engine, removed on proof that their owner is dead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .errors import EngineRefusedError
from .host import HostEngine
from .labels import ROLE, Ownership
from .locks import host_id, is_dead
from .places import leases_dir, sockets_dir
from .store import all_stores
from .transport import UnixSocket

#: Volumes that are meant to outlive their owner.
OUTLIVE = ("store", "builder")


@dataclass
class Swept:
    """What was removed, by kind: container, network, volume, directory."""

    removed: dict[str, int] = field(default_factory=dict)
    #: What could not be removed, each with the reason.
    failed: list[str] = field(default_factory=list)

    def add(self, kind: str) -> None:
        """Count one that was removed."""
        self.removed[kind] = self.removed.get(kind, 0) + 1

    def __str__(self) -> str:
        plurals = {"directory": "directories"}
        return ", ".join(
            f"{count} {kind if count == 1 else plurals.get(kind, f'{kind}s')}" for kind, count in self.removed.items()
        )


def sweep(engine: HostEngine, *, dry_run: bool = False) -> Swept:
    """Remove what dead owners left: containers with their volumes, networks, volumes, socket directories.

    :param dry_run: Only count what would be removed.
    :raises HostEngineError: the engine no longer answers, or with an error.
    """
    try:
        return _remove(engine, partial(is_leftover, engine), dry_run=dry_run)
    except OSError as error:  # of docker-py, or of files
        raise engine.failure(error) from error


def sweep_run(engine: HostEngine, run: str) -> Swept:
    """Remove what killed workers of a run left; those that live still are left alone."""
    try:
        return _remove(engine, lambda ours: ours.run == run and is_leftover(engine, ours))
    except OSError as error:
        # The run is over: what its tests found is not to be lost for this.
        what = f"what is left on the host engine at {engine.address}; the next run removes it"
        return Swept(failed=[f"{what} ({engine.failure(error)})"])


def is_leftover(engine: HostEngine, ours: Ownership) -> bool:
    """Whether an owner is proved to be dead.

    Another machine's lease, or another container's, cannot be tried here; but an owner that ran in a container on this
    engine has ended with that.
    """
    if ours.host == host_id():
        return is_dead(ours.lease)
    if not ours.container:
        return False
    container = engine.container(ours.container)
    return container is None or not container["State"]["Running"]


def may_live(ours: Ownership) -> str:
    """Return what speaks against it that an owner, of whatever home, is dead: nothing for one that is unknown here."""
    try:
        is_known = _is_of(ours.lease, ours.host)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return f"perhaps in use, as its lease cannot be read ({error})"
    return "in use" if is_known and not is_dead(ours.lease) else ""


def _is_of(label: str, host: str) -> bool:
    """Whether a lease is one of this machine, and of that host.

    :raises OSError: it is not there, or not for us.
    """
    lease = Path(label.rpartition("#")[0])
    # Another machine has the same paths, but its directory of leases has another id.
    lease.stat()
    return (lease.parent / "id").read_text(encoding="ascii") == host


def _remove(engine: HostEngine, condemned: Callable[[Ownership], bool], *, dry_run: bool = False) -> Swept:
    remove: dict[str, Callable[[str], None]] = {
        "container": engine.remove_and_wait,
        "network": engine.api.remove_network,
        "volume": engine.api.remove_volume,
    }
    found = list(engine.ours())
    kept = any(_is_kept(kind, name) for kind, name, _ in found)
    swept = Swept()
    for kind, name, labels in found:
        ours = Ownership.read(labels)
        if ours is None or _is_kept(kind, name) or labels.get(ROLE) in OUTLIVE or not condemned(ours):
            continue
        # Looked up now: its owner may have made the entry just before it ended.
        if labels.get(ROLE) == "store-data" and name in {one.volume for one in all_stores(engine)}:
            continue
        failure = "" if dry_run else _failure(remove[kind], name)
        if failure is None:
            continue
        if not failure:
            swept.add(kind)
        elif not (kept and kind == "volume"):
            swept.failed.append(f"{kind} {name}: {failure}")
    _remove_directories(swept, dry_run=dry_run)
    return swept


def _is_kept(kind: str, name: str) -> bool:
    """Whether it is kept on purpose (`--dind-keep`); so is its volume, which cannot be removed while it is used."""
    return kind == "container" and name.endswith("-kept")


def _failure(remove: Callable[[str], None], name: str) -> str | None:
    """Remove something; return why that failed, nothing if it did not, and None if it is gone already."""
    from docker.errors import APIError, NotFound  # noqa: PLC0415

    try:
        remove(name)
    except NotFound:  # another sweep was faster, or it went with its container
        return None
    except (APIError, EngineRefusedError) as error:
        return str(getattr(error, "explanation", error))
    return ""


def _remove_directories(swept: Swept, *, dry_run: bool) -> None:
    for transport in _dead_transports():
        if not dry_run:
            transport.remove()
        swept.add("directory")


def _dead_transports() -> Iterator[UnixSocket]:
    """Yield the socket directories of dead owners, of whatever home; HOST-SLOT-TOKEN-NUMBER says whose they were."""
    for directory in sockets_dir().glob("*-*-*-*"):
        host, slot, token, *_ = directory.name.split("-")
        transport = UnixSocket(directory)
        own = f"{leases_dir() / slot}.lock#{token}" if host == host_id() else ""
        if _is_proved_dead(transport.lease or own, host) and not transport.is_kept:
            yield transport


def _is_proved_dead(label: str, host: str) -> bool:
    try:
        return _is_of(label, host) and is_dead(label)
    except OSError:  # of a home that is not here, or not for us; or nobody's
        return False
