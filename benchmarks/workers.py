"""Workers that begin together, each a process of pytest that has a daemon from a fixture (`serving`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from . import fixtures
from .reached import Reached
from .serving import MARK, WAY

#: Plain pytest: nothing of this project's, of its plugin or of what else is installed has a part in it.
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:dind", "-p", "benchmarks.fixtures")
_SERVING = Path(__file__).with_name("serving.py")


class Worker:
    """One of the workers; times are on the clock of all processes."""

    def __init__(self, way: str, image: str | None) -> None:
        """Start it.

        :param way: Name of the fixture.
        :param image: What is to be in the daemon.
        """
        command = [*PYTEST, "-s", "-c", "/dev/null", "-p", "no:xdist", "-p", "no:timeout", str(_SERVING)]
        # In a session of its own: Ctrl-C is for this process, which then ends the others in order.
        self._process = subprocess.Popen(
            command, env={**fixtures.environment(way, image), WAY: way}, cwd=_SERVING.parents[1],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.begin = self.end = 0.0
        self.reached = Reached("", "")

    def hear(self) -> str:
        """Return what it says next.

        :raises RuntimeError: it has ended instead; with what it has printed.
        """
        assert self._process.stdout is not None
        printed = []
        for line in self._process.stdout:
            if line.startswith(MARK):
                return line.removeprefix(MARK)
            printed.append(line)
        raise RuntimeError(f"a worker ended with exit code {self._process.wait()}: {why_failed(''.join(printed))}")

    def tell(self) -> None:
        """Have it go on: begin, or end what it has."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def hear_what_it_has(self) -> None:
        """Wait until it has its daemon."""
        said = json.loads(self.hear())
        self.begin, self.end = said["begin"], said["end"]
        self.reached = Reached(**said["reached"])

    def finish(self) -> None:
        """Wait until it has ended, which it does when its input ends, if it was not told to before."""
        self._process.communicate()

    def terminate(self) -> None:
        """Have it end, wherever it is."""
        self._process.terminate()


@contextmanager
def at_once(count: int, way: str, image: str | None) -> Iterator[list[Worker]]:
    """Have a daemon in each of so many workers, which all began together.

    :raises RuntimeError: one failed; with what it says.
    """
    workers: list[Worker] = []
    with ExitStack() as ending:  # All are waited for, whatever interrupts that.
        for _ in range(count):
            workers.append(Worker(way, image))
            ending.callback(workers[-1].finish)
        try:
            for worker in workers:
                worker.hear()
            for worker in workers:
                worker.tell()
            for worker in workers:
                worker.hear_what_it_has()
            yield workers
        except BaseException:
            for worker in workers:
                worker.terminate()
            raise


def why_failed(printed: str) -> str:
    """Return the errors of what pytest has printed; all of that, if there are none."""
    errors = [line[1:].strip() for line in printed.splitlines() if line.startswith("E  ")]
    return "\n".join(errors) or printed[-2000:]


def seconds_of(workers: list[Worker]) -> float:
    """Return the seconds from when the first began until the last had its daemon."""
    return max(one.end for one in workers) - min(one.begin for one in workers)
