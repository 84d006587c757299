"""A fresh daemon for every test: against the same tests on one session daemon, and with docker:dind by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

from pytest_dind.host import HostEngine
from pytest_dind.labels import OURS, RUN, WORKER

from .big_images import MB_370, BigImage, made
from .machine import IMAGE
from .measure import SPREAD, Limit, Samples, Table, in_seconds, progress, ratio, side_by_side, spread, times

TESTS = 40
SECONDS = 0.5
#: With docker:dind by hand each takes as long as ten of the others.
TESTS_BY_HAND = 6
ROUNDS = 3
AHEAD = 1
MOST = {1: 1.10, 2: 1.35}
LEAST_BY_HAND = 6

_ROOT = Path(__file__).parents[1]
#: One test with its daemon from a fixture; it uses that for a while.
_SUITE = """
import time

import pytest

FIXTURE, TAG, TESTS, SECONDS = {fixture!r}, {tag!r}, {tests}, {seconds}


@pytest.fixture
def by_hand():
    from benchmarks import having
    from pytest_dind.host import HostEngine

    engine = HostEngine.connect()
    with having.by_hand(engine, TAG) as container:
        yield container
    engine.close()


@pytest.mark.parametrize("number", range(TESTS))
def test_it(number, {fixture}):
    begin = time.monotonic()
    if FIXTURE != "by_hand":
        assert {fixture}.images.get(TAG).tags == [TAG]
    time.sleep(SECONDS - (time.monotonic() - begin))
"""


def run() -> Table:
    """Run the suites side by side, with one worker and with two; then some tests with docker:dind by hand."""
    table = Table(f"{TESTS} tests of {SECONDS} s, each with an image of 370 MB", ("", *SPREAD, "ratio"))
    engine = HostEngine.connect()
    with made(engine, MB_370) as (image,), tempfile.TemporaryDirectory() as name:
        for workers in MOST:
            _measure(table, image, Path(name), workers)
        _measure_by_hand(table, image, Path(name))
    engine.close()
    table.notes += [
        "wall time of pytest, from its start to its end; each suite was run once before, so the image store is there",
        "ratio: of medians, to one session daemon without any cleaning and as many workers",
        "with -n 2 on two cores, both workers' next daemons start while both tests run: starting takes all of a core",
    ]
    return table


def _measure(table: Table, image: BigImage, directory: Path, workers: int) -> None:
    names = {
        "dind_client": f"-n {workers}: one session daemon, nothing cleaned",
        "dind_fresh_client": f"-n {workers}: a fresh daemon for every test",
    }
    paths = {fixture: _written(directory / f"{fixture}-{workers}", fixture, image, TESTS) for fixture in names}
    with Counted() as counted:
        samples: Samples = side_by_side(
            ROUNDS, {names[fixture]: partial(_wall_time, path, workers, image) for fixture, path in paths.items()}
        )
    base, fresh = names.values()
    for name, values in samples.items():
        table.rows.append((name, *spread(values, in_seconds), times(ratio(samples, name, base))))
    table.samples |= samples
    found = ratio(samples, fresh, base)
    promise = f"-n {workers}: fresh daemons take at most {MOST[workers]} times as long as one session daemon"
    table.limits.append(Limit(promise, times(found), found <= MOST[workers]))
    promise = f"-n {workers}: a worker never has more than {AHEAD + 1} daemons, and it does have that many"
    table.limits.append(Limit(promise, str(counted.most), counted.most == AHEAD + 1))


def _measure_by_hand(table: Table, image: BigImage, directory: Path) -> None:
    ways = {
        "by_hand": f"{TESTS_BY_HAND} tests, -n 1: docker:dind by hand for every test, save | load",
        "dind_fresh_client": f"{TESTS_BY_HAND} tests, -n 1: a fresh daemon for every test",
    }
    samples: Samples = {}
    for fixture, name in ways.items():
        progress(name)
        path = _written(directory / f"{fixture}-few", fixture, image, TESTS_BY_HAND)
        os.sync()
        samples[name] = [_wall_time(path, 1, image)]
    by_hand, ours = ways.values()
    found = ratio(samples, by_hand, ours)
    table.rows += [
        (name, *spread(values, in_seconds), times(ratio(samples, name, ours))) for name, values in samples.items()
    ]
    table.samples |= samples
    promise = f"the official way takes at least {LEAST_BY_HAND} times as long"
    table.limits.append(Limit(promise, times(found), found >= LEAST_BY_HAND))


def _written(directory: Path, fixture: str, image: BigImage, tests: int) -> Path:
    directory.mkdir()
    path = directory / "test_it.py"
    path.write_text(_SUITE.format(fixture=fixture, tag=image.tag, tests=tests, seconds=SECONDS), encoding="utf-8")
    return path


def _wall_time(path: Path, workers: int, image: BigImage) -> float:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(workers)]
    command += ["--dind", f"--dind-image={IMAGE}", f"--dind-preload={image.tag}", f"--dind-lookahead={AHEAD}"]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    begin = time.monotonic()
    done = subprocess.run(
        [*command, str(path)], cwd=path.parent, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - begin
    if done.returncode:
        raise RuntimeError(f"{path.parent.name}: {done.stdout}{done.stderr}")
    return seconds


class Counted:
    """Counts the daemons that each worker has at a time, as the host engine tells of them, while `with` lasts."""

    def __init__(self) -> None:
        #: The highest of all counts.
        self.most = 0
        self._now: Counter[tuple[str, str]] = Counter()
        self._engine = HostEngine.connect()
        wanted = {"type": "container", "event": ["create", "destroy"], "label": [OURS]}
        self._events = self._engine.api.events(filters=wanted, decode=True)
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Counted:  # noqa: PYI034 (typing.Self comes with Python 3.11)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        self._thread.join()
        self._engine.close()

    def _listen(self) -> None:
        for event in self._events:
            labels = event["Actor"]["Attributes"]
            worker = labels[RUN], labels[WORKER]
            self._now[worker] += 1 if event["Action"] == "create" else -1
            self.most = max(self.most, self._now[worker])
