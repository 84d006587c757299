"""Leftovers: what runs that died left on the host engine, removed on proof that their owner is dead."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .host import HostEngine
from .labels import Ownership
from .locks import host_id, is_dead
from .places import leases_dir, sockets_dir


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
        return ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in self.removed.items()).replace(
            "directorys", "directories"
        )


def sweep(engine: HostEngine) -> Swept:
    """Remove what dead owners left: containers with their volumes, networks, volumes, socket directories."""
    return _remove(engine, _is_leftover)


def sweep_run(engine: HostEngine, run: str) -> Swept:
    """Remove what killed workers of a run left; those that live still are left alone."""
    try:
        return _remove(engine, lambda ours: ours.run == run and _is_leftover(ours))
    except OSError as error:  # requests' errors are OSErrors, docker-py's are requests'
        # The run is over: what its tests found is not to be lost for this.
        failure = f"what is left on the host engine at {engine.address}, which no longer answers ({error}); "
        return Swept(failed=[f"{failure}the next run removes it"])


def _is_leftover(ours: Ownership) -> bool:
    """Another machine's lease, or another container's, cannot be tried here: then nothing is proved."""
    return ours.host == host_id() and is_dead(ours.lease)


def _remove(engine: HostEngine, condemned: Callable[[Ownership], bool]) -> Swept:
    from docker.errors import APIError, NotFound  # noqa: PLC0415

    remove: dict[str, Callable[[str], None]] = {
        "container": engine.remove_and_wait,
        "network": engine.api.remove_network,
        "volume": engine.api.remove_volume,
    }
    swept = Swept()
    # Before the engine is asked: a daemon that is kept has its name for that before its owner is dead.
    directories = list(_dead_directories())
    kept: set[str] = set()
    for kind, name, labels in engine.ours():
        ours = Ownership.read(labels)
        if name.endswith("-kept"):
            # Kept on purpose (`--dind-keep`), and its volume, which cannot be removed while it is used, with it.
            kept.add(name)
            continue
        if ours is None or not condemned(ours):
            continue
        try:
            remove[kind](name)
            swept.add(kind)
        except NotFound:  # another sweep was faster, or it went with its container
            pass
        except APIError as error:
            if not kept or kind != "volume":
                swept.failed.append(f"{kind} {name}: {error.explanation}")
    for directory, daemon in directories:
        if not any(name.endswith(f"-{daemon}-kept") for name in kept):
            shutil.rmtree(directory, ignore_errors=True)
            swept.add("directory")
    return swept


def _dead_directories() -> Iterator[tuple[Path, str]]:
    """Yield the socket directories of dead owners, and what their daemon's name ends with.

    The name HOST-SLOT-TOKEN-NUMBER says whose they were.
    """
    for directory in sockets_dir().glob(f"{host_id()}-*-*-*"):
        _, slot, token, number = directory.name.split("-")
        if is_dead(f"{leases_dir() / slot}.lock#{token}"):
            yield directory, f"{token}-{number}"
