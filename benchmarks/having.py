"""Ways to have a daemon with an image inside: ours, and those of the peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from pytest_dind import Daemon, Settings
from pytest_dind.host import HostEngine

from . import peers
from .machine import IMAGE

#: Given the host engine and an image's name: a context, entered when the image is there; it is the container's name.
Way = Callable[[HostEngine, str], AbstractContextManager[str]]


@contextmanager
def adopted(engine: HostEngine, image: str) -> Iterator[str]:
    """Start a daemon of ours that adopts an image store, which is filled first if it is not there.

    :raises RuntimeError: the image was loaded, and not adopted.
    """
    with Daemon.start(Settings(image=IMAGE, preload=(image,)), engine=engine) as daemon:
        if daemon.loaded_because:
            raise RuntimeError(f"{image} was not adopted: {daemon.loaded_because}")
        yield daemon.name


@contextmanager
def streamed(engine: HostEngine, image: str) -> Iterator[str]:
    """Start a daemon of ours, and stream the image into it, as it is done where nothing can be adopted."""
    with Daemon.start(Settings(image=IMAGE), engine=engine) as daemon:
        daemon.load(image)
        yield daemon.name


@contextmanager
def by_hand(engine: HostEngine, image: str) -> Iterator[str]:
    """Start docker:dind as its documentation says, and load the image into it."""
    with peers.by_hand(engine) as peer:
        peer.load(engine, image)
        yield peer.name


@contextmanager
def with_testcontainers(engine: HostEngine, image: str) -> Iterator[str]:
    """Start docker:dind as users of testcontainers do, and load the image into it."""
    with peers.with_testcontainers() as peer:
        peer.load(engine, image)
        yield peer.name
