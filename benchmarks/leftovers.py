"""What peers leave on the host engine: known by a label and a list, and removed in the end, whatever happened."""

from __future__ import annotations

import http
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from docker.errors import APIError, NotFound

if TYPE_CHECKING:
    from docker.models.containers import Container

    from pytest_dind.host import HostEngine

_LABEL = "pytest-dind.benchmark"
#: The directory of this run, for the processes that it starts: its name is the label's value, and the list lies in it.
_VARIABLE = "PYTEST_DIND_BENCHMARK"


@contextmanager
def removed(engine: HostEngine) -> Iterator[None]:
    """Have nothing left in the end of what peers made meanwhile, in this process and in those that it starts."""
    with tempfile.TemporaryDirectory(prefix="dind-benchmark-") as name:
        os.environ[_VARIABLE] = name
        try:
            yield
        finally:
            for container in engine.api.containers(all=True, filters={"label": f"{_LABEL}={name}"}):
                engine.remove(container["Id"])
            remove_volumes(engine)
            del os.environ[_VARIABLE]


def labels() -> dict[str, str]:
    """Return the labels by which a peer's container is found again."""
    return {_LABEL: os.environ[_VARIABLE]} if _VARIABLE in os.environ else {}


def note(container: Container) -> None:
    """List a peer's volumes, which not every peer takes along."""
    if directory := os.environ.get(_VARIABLE):
        names = [mount["Name"] for mount in container.attrs["Mounts"] if mount["Type"] == "volume"]
        with _list_in(directory).open("a", encoding="utf-8") as file:
            file.write("".join(f"{name}\n" for name in names))


def remove_volumes(engine: HostEngine) -> None:
    """Remove those volumes on the list whose containers are gone."""
    path = _list_in(os.environ[_VARIABLE])
    names = path.read_text(encoding="utf-8").split() if path.exists() else []
    path.write_text("".join(f"{name}\n" for name in names if not _removed(engine, name)), encoding="utf-8")


def _removed(engine: HostEngine, volume: str) -> bool:
    try:
        engine.api.remove_volume(volume)
    except NotFound:  # This peer did take it along.
        return True
    except APIError as error:
        if error.status_code == http.HTTPStatus.CONFLICT:  # in use
            return False
        raise
    return True


def _list_in(directory: str) -> Path:
    return Path(directory) / "volumes"
