"""A fresh daemon for every test, against the same tests on one session daemon and on the official way.

The other peers are in `compare`.
"""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from functools import partial
from pathlib import Path

from pytest_dind.host import HostEngine
from pytest_dind.labels import OURS, RUN, WORKER

from .big_images import BigImage, made
from .measure import SPREAD, Limit, Samples, Table, in_seconds, ratio, side_by_side, spread, times
from .recipes import MB_370
from .timed_suite import AHEAD, SECONDS, TimedSuite

TESTS = 40
ROUNDS = 3
MOST = {1: 1.10, 2: 1.35}
#: How many times as long the official way takes, at the least.
OFFICIAL = 6

ALONE = "-n 1"
SESSION = "one session daemon, nothing cleaned"
FRESH = "a fresh daemon for every test"
BY_HAND = "the same on the official way"


def run() -> Table:
    """Run the suites side by side, with one worker and with two."""
    table = Table(f"{TESTS} tests of {SECONDS} s, each with an image of 370 MB", ("", *SPREAD, "ratio"))
    engine = HostEngine.connect()
    with made(engine, MB_370) as (image,), tempfile.TemporaryDirectory() as name:
        for workers in MOST:
            _measure(table, image, Path(name), workers)
        _measure_official(table, image, Path(name))
    engine.close()
    table.notes += [
        "wall time of pytest, from its start to its end; each suite was run once before, so the image store is there",
        "ratio: of medians, to one session daemon without any cleaning and as many workers",
        "the official way: docker:dind's own entrypoint, TLS, `docker save` into `docker load`, in every test; once",
        "with -n 2 on two cores, both workers' next daemons start while both tests run: starting takes all of a core",
    ]
    return table


def _measure(table: Table, image: BigImage, directory: Path, workers: int) -> None:
    names = {
        "dind_client": f"-n {workers}: {SESSION}",
        "dind_fresh_client": f"-n {workers}: {FRESH}",
    }
    suites = {
        name: TimedSuite.written(directory / f"{fixture}-{workers}", fixture, image.tag, TESTS)
        for fixture, name in names.items()
    }
    with Counted() as counted:
        samples: Samples = side_by_side(
            ROUNDS, {name: partial(suite.wall_time, workers) for name, suite in suites.items()}
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


def _measure_official(table: Table, image: BigImage, directory: Path) -> None:
    """Run the suite as people write it who start docker:dind for each test; it takes minutes."""
    base = f"{ALONE}: {SESSION}"
    name = f"{ALONE}: {BY_HAND}"
    suite = TimedSuite.written(directory / "by_hand", "by_hand", image.tag, TESTS)
    table.samples[name] = [suite.wall_time(1)]
    table.rows.append((name, *spread(table.samples[name], in_seconds), times(ratio(table.samples, name, base))))
    found = ratio(table.samples, name, f"{ALONE}: {FRESH}")
    promise = f"the official way takes at least {OFFICIAL} times as long as fresh daemons of ours"
    table.limits.append(Limit(promise, times(found), found >= OFFICIAL))


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
