"""A plugin for pytest, `-p benchmarks.fixtures`: every way to have a daemon (`having`), as a fixture.

Its process is told by `environment` what image is to be inside, and how long a daemon is to live.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_dind.host import HostEngine

from . import having, leftovers, peers
from .having import Way
from .machine import OFFICIAL_IMAGE
from .measure import exit_on_sigterm
from .reached import Reached

Scope = Literal["function", "session"]

_IMAGE = "PYTEST_DIND_BENCHMARK_IMAGE"
_SCOPE = "PYTEST_DIND_BENCHMARK_SCOPE"
_FIXTURE = "PYTEST_DIND_BENCHMARK_FIXTURE"


def environment(fixture: str, image: str | None, scope: Scope = "function") -> dict[str, str]:
    """Return the environment of a pytest whose tests use one of these fixtures."""
    path = [str(Path(__file__).parents[1])]
    if fixture == "with_docker_tools":
        path.append(str(peers.DOCKER_TOOLS))
    told = {_FIXTURE: fixture, _IMAGE: image or "", _SCOPE: scope}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), **told}


def pytest_configure() -> None:
    """Have SIGTERM end what runs in order."""
    exit_on_sigterm()


@pytest.fixture(scope="session")
def engine() -> Iterator[HostEngine]:
    """Have the host engine."""
    engine = HostEngine.connect()
    yield engine
    engine.close()


_image = os.environ.get(_IMAGE) or None
_scope: Any = os.environ.get(_SCOPE, "function")


def _fixture(way: Way) -> Callable[..., Any]:
    @pytest.fixture(scope=_scope)
    def daemon(engine: HostEngine) -> Iterator[Reached]:
        with way(engine, _image) as reached:
            yield reached

    return daemon


adopted = _fixture(having.adopted)
by_hand = _fixture(having.by_hand)
streamed = _fixture(having.streamed)
with_testcontainers = _fixture(having.with_testcontainers)
bare = _fixture(having.bare)

# Only what is wanted is imported, before any clock runs: a peer that is broken costs nobody else anything.
if os.environ.get(_FIXTURE) == "with_testcontainers":
    peers.import_testcontainers()
elif os.environ.get(_FIXTURE) == "with_docker_tools":
    from pytest_docker_tools import container
    from pytest_docker_tools.wrappers import Container

    def _noted(started: Any) -> Any:
        # As soon as it is there: it may be removed, without its volume, before it answers.
        leftovers.note(started)
        return Container(started)

    # As its README has it: a port that is published, on which it waits for somebody to listen. Without `timeout`, it
    # gives up after 30 s.
    docker_in_docker = container(
        image=OFFICIAL_IMAGE,
        privileged=True,
        ports={"2376/tcp": None},
        timeout=peers.PATIENCE,
        labels=leftovers.labels(),
        scope=_scope,
        wrapper_class=_noted,
    )

    @pytest.fixture(scope=_scope)
    def with_docker_tools(engine: HostEngine, docker_in_docker: Any) -> Iterator[Reached]:
        """Have a daemon as users of pytest-docker-tools do."""
        with having.with_docker_tools(engine, _image, docker_in_docker.id) as reached:
            yield reached
