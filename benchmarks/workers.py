"""Workers that begin together, each a process; `python -m benchmarks.workers WAY IMAGE` is one of them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_dind.host import HostEngine

from . import having
from .having import Way
from .measure import exit_on_sigterm

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Found:
    """What a worker says when its daemon has the image; times are on the clock of all processes."""

    begin: float
    end: float
    #: Name of the daemon's container on the host engine.
    container: str


@contextmanager
def at_once(count: int, way: Way, image: str) -> Iterator[list[Found]]:
    """Have a daemon with the image in each of so many workers, which all began together.

    :raises RuntimeError: one failed; it has said why.
    """
    workers: list[subprocess.Popen[str]] = []
    try:
        workers.extend(_started(way, image) for _ in range(count))
        for worker in workers:
            _hear(worker)
        for worker in workers:
            _tell(worker)
        said = [_hear(worker).split() for worker in workers]
        yield [Found(float(begin), float(end), container) for begin, end, container in said]
        for worker in workers:
            _tell(worker)
        for worker in workers:
            worker.wait()
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.communicate()


def _started(way: Way, image: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", __name__, way.__name__, image]
    # In a session of its own: Ctrl-C is for this process, which then ends the others in order.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=_ROOT
    )


def _hear(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker ended with exit code {worker.wait()}: {worker.args!r}")
    return line


def _tell(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()


def main() -> None:
    """Say when ready; begin when told; say what was found; end when told, or when whoever tells is gone."""
    exit_on_sigterm()
    name, image = sys.argv[1:]
    way: Way = getattr(having, name)
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
