"""Inner runs of pytest as processes that a test can signal, and kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import pytest

from .conftest import PATIENCE, wait_until

#: How an inner test waits until a signal ends it. Not in one sleep: what comes when Python is about to sleep, and waits
#: for another thread to take its lock, it hears only after the sleep; on a busy machine that was one Ctrl-C of five.
WAIT = "any(time.sleep(0.05) for _ in range(12_000))"


class Spawned:
    """pytest as a process in a group of its own; at the end of `with` nothing of the group lives."""

    def __init__(self, directory: Path, *arguments: str, output: str = "output.txt") -> None:
        self.directory = directory
        self._output = directory / output
        if "-n" in arguments:
            pytest.importorskip("xdist")
        xdist = () if "-n" in arguments else ("-p", "no:xdist")
        with self._output.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pytest", "--dind", "-p", "no:cacheprovider", *xdist, *arguments],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Spawned:  # noqa: PYI034 (typing.Self comes with Python 3.11)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.send_to_all(signal.SIGKILL)
        self._process.wait()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to pytest alone."""
        self._process.send_signal(number)

    def send_to_all(self, number: signal.Signals) -> None:
        """Send a signal to pytest, its workers and its children, as a terminal does."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:  # all have ended
            pass

    def wait(self) -> int:
        """Wait for the end of pytest; return its exit code, minus N after signal N."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {PATIENCE:g} s:\n{self.output}") from None

    def wait_for(self, *names: str) -> None:
        """Wait until the inner tests have made files, by which they say how far they are."""

        def ready() -> bool:
            if self._process.poll() is not None:
                raise AssertionError(f"it ended with {self._process.returncode} before {names}:\n{self.output}")
            return all((self.directory / name).exists() for name in names)

        wait_until(ready, lambda: f"no {names}:\n{self.output}")


def is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
