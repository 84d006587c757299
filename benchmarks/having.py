"""Ways to have a daemon, with an image inside or without: ours, those of the peers, and the floor.

All of them run the same engine, from the same image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from pytest_dind import Daemon, Settings
from pytest_dind.host import HostEngine

from . import peers, unshared
from .machine import OFFICIAL_IMAGE
from .reached import Reached

#: Given the host engine and an image's name: a context, entered when the daemon answers and has the image.
Way = Callable[[HostEngine, str | None], AbstractContextManager[Reached]]


@contextmanager
def adopted(engine: HostEngine, image: str | None) -> Iterator[Reached]:
    """Start a daemon of ours that adopts an image store, which is filled first if it is not there.

    :raises RuntimeError: the image was loaded, and not adopted.
    """
    with Daemon.start(Settings(image=OFFICIAL_IMAGE, preload=(image,) if image else ()), engine=engine) as daemon:
        if daemon.loaded_because:
            raise RuntimeError(f"{image} was not adopted: {daemon.loaded_because}")
        yield Reached(daemon.name, daemon.host)


@contextmanager
def streamed(engine: HostEngine, image: str | None) -> Iterator[Reached]:
    """Start a daemon of ours, and stream the image into it, as it is done where nothing can be adopted."""
    with Daemon.start(Settings(image=OFFICIAL_IMAGE), engine=engine) as daemon:
        if image:
            daemon.load(image)
        yield Reached(daemon.name, daemon.host)


@contextmanager
def by_hand(engine: HostEngine, image: str | None) -> Iterator[Reached]:
    """Start docker:dind with its own entrypoint, and load the image into it."""
    with peers.by_hand(engine) as peer:
        yield _with_image(peer, engine, image)


@contextmanager
def with_testcontainers(engine: HostEngine, image: str | None) -> Iterator[Reached]:
    """Start docker:dind as users of testcontainers do, and load the image into it."""
    with peers.with_testcontainers() as peer:
        yield _with_image(peer, engine, image)


@contextmanager
def with_docker_tools(engine: HostEngine, image: str | None, container: str) -> Iterator[Reached]:
    """Go on with what pytest-docker-tools has started and takes for ready, and load the image into it.

    It is all fixtures: one of them is what has the container, and ends it (see `fixtures`).
    """
    with peers.answering(engine.client.containers.get(container)) as peer:
        yield _with_image(peer, engine, image)


@contextmanager
def bare(engine: HostEngine, image: str | None) -> Iterator[Reached]:
    """Start dockerd on the machine itself; with an image: on a data root that `floor.Floor` has prepared."""
    del engine
    with unshared.running(image) as daemon:
        yield daemon


def _with_image(peer: Reached, engine: HostEngine, image: str | None) -> Reached:
    if image:
        peer.load(engine, image)
    return peer
