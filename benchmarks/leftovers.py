"""What benchmarks leave on the host engine: known by labels and a list, and removed in the end, whatever happened."""

from __future__ import annotations

import http
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, NotFound

from pytest_dind.locks import Lease, host_id

from .measure import reason

if TYPE_CHECKING:
    from docker.models.containers import Container

    from pytest_dind.host import HostEngine

#: The lease of the run that made it, by which others know whether that is dead; and whose leases those are.
LABEL = "pytest-dind.benchmark"
HOST_LABEL = "pytest-dind.benchmark.host"
#: The directory of this run, for the processes that it starts.
_VARIABLE = "PYTEST_DIND_BENCHMARK"
PREFIX = "dind-benchmark-"

_stays: list[str] = []


@contextmanager
def removed(engine: HostEngine) -> Iterator[None]:
    """Have nothing left in the end of what was made meanwhile, in this process and in those that it starts."""
    lease = Lease.take()
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
            lease_in(Path(name)).write_text(lease.label, encoding="utf-8")
            os.environ[_VARIABLE] = name
            try:
                yield
            finally:
                attempt("what has this run's label", partial(remove_labelled, engine, lease.label))
                attempt("volumes of peers", partial(remove_volumes, engine))
                del os.environ[_VARIABLE]
    finally:
        lease.release()


def attempt(what: str, remove: Callable[[], object]) -> None:
    """Remove something; what goes wrong is kept for `told`, and costs neither other removals nor what was measured."""
    try:
        remove()
    except Exception as error:  # noqa: BLE001 (whatever it is, it is said in the end)
        said = f"{what}: {reason(error)}"
        if said not in _stays:
            _stays.append(said)


def told() -> list[str]:
    """Return what could not be removed since this was asked last."""
    found = list(_stays)
    _stays.clear()
    return found


def labels() -> dict[str, str]:
    """Return the labels by which what is made for a benchmark is found again."""
    directory = os.environ.get(_VARIABLE)
    return {LABEL: lease_in(Path(directory)).read_text(encoding="utf-8"), HOST_LABEL: host_id()} if directory else {}


def remove_labelled(engine: HostEngine, lease: str) -> None:
    """Remove a run's containers, with their volumes, and its other volumes."""
    wanted = {"label": f"{LABEL}={lease}"}
    for container in engine.api.containers(all=True, filters=wanted):
        engine.remove(container["Id"])
    for volume in engine.api.volumes(filters=wanted)["Volumes"] or ():
        _remove_volume(engine, volume["Name"])


def note(container: Container) -> None:
    """List a peer's volumes, which not every peer takes along."""
    if directory := os.environ.get(_VARIABLE):
        attrs: dict[str, Any] = container.attrs
        names = [mount["Name"] for mount in attrs["Mounts"] if mount["Type"] == "volume"]
        with _list_in(Path(directory)).open("a", encoding="utf-8") as file:
            file.write("".join(f"{name}\n" for name in names))


def remove_volumes(engine: HostEngine, directory: Path | None = None) -> None:
    """Remove those volumes on the list whose containers are gone.

    :param directory: Of the run that the list is of; None: this one's.
    """
    path = _list_in(directory or Path(os.environ[_VARIABLE]))
    names = path.read_text(encoding="utf-8").split() if path.exists() else []
    path.write_text("".join(f"{name}\n" for name in names if not _remove_volume(engine, name)), encoding="utf-8")


def _remove_volume(engine: HostEngine, volume: str) -> bool:
    try:
        engine.api.remove_volume(volume)
    except NotFound:  # This peer did take it along.
        return True
    except APIError as error:
        if error.status_code == http.HTTPStatus.CONFLICT:  # in use
            return False
        raise
    return True


def lease_in(directory: Path) -> Path:
    """Return the file with the lease of the run that a directory is of."""
    return directory / "lease"


def _list_in(directory: Path) -> Path:
    return directory / "volumes"
