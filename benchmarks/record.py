"""What belongs to the figures of a run, for `--json`: who was measured, of which version, when, and what else ran."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import DockerException

from . import leftovers
from .machine import IMAGE, OFFICIAL_IMAGE, TEST_IMAGE, facts
from .peers import DOCKER_TOOLS
from .recipes import size_of

if TYPE_CHECKING:
    from pytest_dind.host import HostEngine

    from .measure import Table

_PACKAGES = ("pytest-dind", "docker", "pytest", "pytest-xdist", "testcontainers")
_CHECKOUT = Path(__file__).parents[1]


class Record:
    """One run of benchmarks, from now on."""

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}
        self._images: dict[str, dict[str, Any]] = {}
        self._began = time.monotonic()
        self._date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._load = os.getloadavg()[0]

    def look(self, engine: HostEngine) -> None:
        """See what machine this is, and what the images are."""
        self.facts = dict(facts(engine))
        self._images = {name: _image(engine, name) for name in dict.fromkeys((IMAGE, OFFICIAL_IMAGE, TEST_IMAGE))}

    def as_json(self, tables: Mapping[str, Table]) -> dict[str, Any]:
        """Return everything that was found by now."""
        return {
            "date": self._date,
            "seconds": round(time.monotonic() - self._began, 1),
            "load": {"begin": self._load, "end": os.getloadavg()[0]},
            "facts": self.facts,
            "versions": dict(_versions()),
            "images": self._images,
            "benchmarks": {name: table.as_json() for name, table in tables.items()},
        }


def _image(engine: HostEngine, name: str) -> dict[str, Any]:
    return {"id": engine.api.inspect_image(name)["Id"], "bytes": size_of(engine, name), "engine": _engine(engine, name)}


def _engine(engine: HostEngine, image: str) -> str:
    """Return what dockerd in an image says of its version; empty if there is none."""
    container = engine.client.containers.create(
        image, ["--version"], entrypoint="dockerd", network_mode="none", labels=leftovers.labels()
    )
    try:
        container.start()
        container.wait()
        said: bytes = container.logs(stderr=False)
    except DockerException:
        return ""
    finally:
        engine.remove(str(container.id))  # With its volume, as docker-py's own `run` does not.
    return said.decode().strip()


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:  # such as a peer that is not there
            continue
    yield "python", platform.python_version()
    for found in metadata.distributions(name="pytest-docker-tools", path=[str(DOCKER_TOOLS), *sys.path]):
        yield "pytest-docker-tools", found.version
    if commit := _commit():
        yield "commit", commit


def _commit() -> str:
    """Return the checkout's commit, and whether files differ from it; empty where there is none."""
    try:
        command = ["git", "-C", str(_CHECKOUT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git here
        return ""
