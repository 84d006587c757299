"""A suite whose every test uses a daemon with an image for a while, and what pytest takes for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import fixtures
from .fixtures import Scope
from .machine import OFFICIAL_IMAGE
from .workers import PYTEST, why_failed

#: What one test takes, once it has its daemon.
SECONDS = 0.5
#: Fresh daemons of ours that start while a test runs.
AHEAD = 1

_SUITE = """
import time

import pytest


@pytest.mark.parametrize("number", range({tests}))
def test_it(number, {fixture}):
    begin = time.monotonic()
    if hasattr({fixture}, "images"):
        assert {fixture}.images.get({tag!r}).tags == [{tag!r}]
    time.sleep({seconds} - (time.monotonic() - begin))
"""


@dataclass(frozen=True)
class TimedSuite:
    """One that is on the disk."""

    path: Path
    fixture: str
    tag: str

    @classmethod
    def written(cls, directory: Path, fixture: str, tag: str, tests: int) -> TimedSuite:
        """Write it into a directory, which is made.

        :param fixture: Where its tests have their daemon from: the plugin's, or one of `fixtures`.
        :param tag: The image that they have inside.
        """
        directory.mkdir()
        path = directory / "test_it.py"
        path.write_text(_SUITE.format(fixture=fixture, tag=tag, tests=tests, seconds=SECONDS), encoding="utf-8")
        return cls(path, fixture, tag)

    def wall_time(self, workers: int, scope: Scope = "function") -> float:
        """Return the seconds that pytest takes, from its start to its end.

        :param scope: Of the fixtures that are not the plugin's.
        :raises RuntimeError: a test failed; with what pytest printed.
        """
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [
            "--dind",
            f"--dind-image={OFFICIAL_IMAGE}",
            f"--dind-preload={self.tag}",
            f"--dind-lookahead={AHEAD}",
        ]
        if not self.fixture.startswith("dind_"):
            command = [*PYTEST]
        environment = fixtures.environment(self.fixture, self.tag, scope)
        begin = time.monotonic()
        # In a session of its own, as workers are: it is not killed before it has cleared away.
        with subprocess.Popen(
            [*command, "-n", str(workers), str(self.path)], env=environment, cwd=self.path.parent,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                printed, _ = process.communicate()
            except BaseException:
                process.send_signal(signal.SIGINT)
                process.communicate()
                raise
        seconds = time.monotonic() - begin
        if process.returncode:
            raise RuntimeError(f"{self.path.parent.name}: {why_failed(printed)}")
        return seconds
