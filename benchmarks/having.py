"""Ways to have a daemon with an image inside; `python -m benchmarks.having WAY IMAGE` is one worker of several."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from pytest_dind import Daemon, Settings
from pytest_dind.host import HostEngine

from . import peers
from .machine import IMAGE
from .measure import exit_on_sigterm

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


def main() -> None:
    """Say when ready; begin when told; say when it began and had the image, on the clock of all processes, and where.

    The daemon goes when told again, or when whoever tells is gone.
    """
    exit_on_sigterm()
    way: Way = globals()[sys.argv[1]]
    image = sys.argv[2]
    engine = HostEngine.connect()
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.monotonic()
    with way(engine, image) as container:
        print(begin, time.monotonic(), container, flush=True)
        sys.stdin.readline()
    engine.close()


if __name__ == "__main__":
    main()
