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
    lease = Path(ours.lease.rpartition("#")[0])
    try:
        # Another machine has the same paths, but its directory of leases has another id.
        lease.stat()
        is_known = (lease.parent / "id").read_text(encoding="ascii") == ours.host
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return f"perhaps in use, as its lease cannot be read ({error})"
    return "in use" if is_known and not is_dead(ours.lease) else ""


def _remove(engine: HostEngine, condemned: Callable[[Ownership], bool], *, dry_run: bool = False) -> Swept:
    from docker.errors import APIError, NotFound  # noqa: PLC0415

    remove: dict[str, Callable[[str], None]] = {
        "container": engine.remove_and_wait,
        "network": engine.api.remove_network,
        "volume": engine.api.remove_volume,
    }
    swept = Swept()
    kept = False
    for kind, name, labels in engine.ours():
        if kind == "container" and name.endswith("-kept"):
            # On purpose (`--dind-keep`), and with it its volume, which cannot be removed while it is used.
            kept = True
            continue
        ours = Ownership.read(labels)
        if ours is None or labels.get(ROLE) in OUTLIVE or not condemned(ours):
            continue
        # Looked up now: its owner may have made the entry just before it ended.
        if labels.get(ROLE) == "store-data" and name in {one.volume for one in all_stores(engine)}:
            continue
        try:
            if not dry_run:
                remove[kind](name)
            swept.add(kind)
        except NotFound:  # another sweep was faster, or it went with its container
            pass
        except (APIError, EngineRefusedError) as error:
            if not (kept and kind == "volume"):
                swept.failed.append(f"{kind} {name}: {getattr(error, 'explanation', error)}")
    _remove_directories(swept, dry_run=dry_run)
    return swept


def _remove_directories(swept: Swept, *, dry_run: bool) -> None:
    for transport in _dead_transports():
        if not dry_run:
            transport.remove()
        swept.add("directory")


def _dead_transports() -> Iterator[UnixSocket]:
    """Yield the socket directories of dead owners; the name HOST-SLOT-TOKEN-NUMBER says whose they were."""
    for directory in sockets_dir().glob(f"{host_id()}-*-*-*"):
        _, slot, token, _ = directory.name.split("-")
        if is_dead(f"{leases_dir() / slot}.lock#{token}") and not UnixSocket(directory).is_kept:
            yield UnixSocket(directory)
