"""The columns and the rows of `compare`: how each figure is measured, for ours and for every peer alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from pytest_dind.host import HostEngine

from . import clean, floor, leftovers, peers, workers
from .grid import Grid
from .machine import Traces
from .many import there_is_room_for
from .measure import progress, seconds_until, side_by_side
from .timed_suite import SECONDS, TimedSuite

OURS = "pytest-dind"
BY_HAND = "docker run"
TESTCONTAINERS = "testcontainers-python"
DOCKER_TOOLS = "pytest-docker-tools"
FLOOR = "bare dockerd"
#: The columns, and each one's fixture.
COLUMNS = {
    OURS: "adopted",
    BY_HAND: "by_hand",
    TESTCONTAINERS: "with_testcontainers",
    DOCKER_TOOLS: "with_docker_tools",
    FLOOR: "bare",
}

COLD = "cold: a daemon that answers"
IMAGE = "cold, with an image of 370 MB inside"
CLEAN = "clean: 3 containers, 1 network, 1 volume"
TEARDOWN = "teardown with 3 containers inside"
AT_ONCE = "{} daemons at once, all answer"
TESTS = 4
FRESH = f"{TESTS} tests of {SECONDS} s, each a fresh daemon, 370 MB"
SUITE_TESTS = 16
SUITE = f"{SUITE_TESTS} tests of {SECONDS} s, -n {{}}, a daemon each, 370 MB"

COUNTS = (8, 32)
WORKERS = (1, 2, 4, 8)
#: With how many workers all peers are measured, and which peers are not with others.
ALL_SCALED = 2
LIKE_BY_HAND = (TESTCONTAINERS, DOCKER_TOOLS)

#: How often what takes a second or so is measured, and what takes many.
_OFTEN, _FEW = 6, 2
#: Seconds.
_LOOK_EVERY = 0.002

NO_MEMORY = "there is not the memory for so many"
NO_CONTAINERS = "no containers are run in it, for their control groups would be the machine's own"
ONE_ROOT = "it would need a data root with the image for each worker"
AS_BY_HAND = "not measured: the same container as with docker run, which takes a minute"

#: Of a column: what is measured, in seconds.
Measure = Callable[[str], float]


class Comparison:
    """The rows, measured one after the other; in each, the columns in turn."""

    def __init__(self, engine: HostEngine, image: str, small: str) -> None:
        """Find out who can be measured here.

        :param image: Tag of what is to be inside.
        :param small: Tag of the image of which the containers in the daemons are.
        """
        self.grid = Grid(tuple(COLUMNS))
        self.missing = dict(_missing())
        self._engine = engine
        self._image = image
        self._small = small

    def prepare(self) -> None:
        """Fill the image stores: they are there in every run but the first."""
        for image in (self._image, self._small):
            progress(f"filling a store with {image}")
            self._start(1, image, OURS)

    def cold(self) -> None:
        """Measure one daemon from nothing, without an image and with one."""
        self._row(COLD, partial(self._start, 1, None), few=5)
        self._row(IMAGE, partial(self._start, 1, self._image))

    def clean(self) -> None:
        """Measure what removes all that a test left in a daemon."""
        with ExitStack() as stack:
            clients = {}
            for column, fixture in COLUMNS.items():
                if column not in self.missing and column != FLOOR:
                    (worker,) = stack.enter_context(workers.at_once(1, fixture, self._small))
                    clients[column] = stack.enter_context(worker.reached.client())

            def seconds(column: str) -> float:
                measure = clean.seconds_of_ours if column == OURS else clean.seconds_by_hand
                return measure(clients[column], self._small)

            self._row(CLEAN, seconds, few=_OFTEN, absent={FLOOR: NO_CONTAINERS})

    def teardown(self) -> None:
        """Measure the end of a daemon in which containers run."""
        self._row(TEARDOWN, self._end, few=3, absent={FLOOR: NO_CONTAINERS})

    def at_once(self) -> None:
        """Measure many daemons that start together."""
        for count in COUNTS:
            absent = {} if there_is_room_for(count) else dict.fromkeys(COLUMNS, NO_MEMORY)
            if count == max(COUNTS):
                absent = dict.fromkeys(LIKE_BY_HAND, AS_BY_HAND) | absent
            self._row(AT_ONCE.format(count), partial(self._start, count, None), often=2, few=1, absent=absent)

    def fresh(self, directory: Path) -> None:
        """Measure a suite with a fresh daemon for every test."""
        suites = self._suites(directory / "fresh", TESTS, "dind_fresh_client")
        self._row(FRESH, lambda column: suites[column].wall_time(1), often=3, few=1)

    def scaling(self, directory: Path) -> None:
        """Measure a suite on more and more workers, each with one daemon for all of its tests."""
        suites = self._suites(directory / "scaling", SUITE_TESTS, "dind_client")
        for count in WORKERS:

            def seconds(column: str, count: int = count) -> float:
                return suites[column].wall_time(count, "session")

            absent = {FLOOR: ONE_ROOT} | (
                {} if count == 2 else dict.fromkeys((TESTCONTAINERS, DOCKER_TOOLS), AS_BY_HAND)
            )
            self._row(SUITE.format(count), seconds, often=2, few=1, absent=absent)

    def _row(
        self,
        row: str,
        measure: Measure,
        *,
        often: int = _OFTEN,
        few: int = _FEW,
        absent: Mapping[str, str] | None = None,
    ) -> None:
        """Measure with every column that is there, in turn; say why with the others.

        :param often: How often with ours and the floor.
        :param few: How often with the peers.
        """
        began = time.monotonic()
        subjects = {}
        for column in COLUMNS:
            why = self.missing.get(column) or (absent or {}).get(column)
            if why:
                self.grid.note(row, column, why)
            else:
                subjects[column] = partial(self._once, row, column, measure)
        rounds = {column: often if column in (OURS, FLOOR) else few for column in subjects}
        samples = side_by_side(rounds, subjects, warm_up=0)
        for column in COLUMNS:
            self.grid.add(row, column, [value for value in samples.get(column, ()) if not math.isnan(value)])
        progress(f"{row}: measured in {time.monotonic() - began:.0f} s\n")

    def _once(self, row: str, column: str, measure: Measure) -> float:
        """Measure once; one that fails is noted, and it costs the others nothing."""
        try:
            return measure(column)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is what is said of this cell)
            self.grid.fail(row, column, error)
            return math.nan
        finally:
            leftovers.remove_volumes(self._engine)

    def _start(self, count: int, image: str | None, column: str) -> float:
        with workers.at_once(count, COLUMNS[column], image) as found:
            return workers.seconds_of(found)

    def _end(self, column: str) -> float:
        with workers.at_once(1, COLUMNS[column], self._small) as (worker,):
            with worker.reached.client() as client:
                for _ in range(clean.CONTAINERS):
                    client.containers.run(self._small, ["sleep", "1000"], detach=True)
            traces = Traces.of(self._engine, worker.reached.container, worker.reached.host)
            begin = time.monotonic()
            worker.tell()
            gone = traces.container_gone if column == DOCKER_TOOLS else traces.gone
            seconds = seconds_until(partial(gone, self._engine), _LOOK_EVERY, begin)
        if not traces.gone(self._engine):
            self.grid.note(TEARDOWN, column, "until its container is gone: its volume stays behind")
        return seconds

    def _suites(self, directory: Path, tests: int, ours: str) -> dict[str, TimedSuite]:
        directory.mkdir()
        names = COLUMNS | {OURS: ours}
        return {
            column: TimedSuite.written(directory / fixture, fixture, self._image, tests)
            for column, fixture in names.items()
        }


def _missing() -> Iterator[tuple[str, str]]:
    """Yield who cannot be measured here, and why."""
    if not peers.HAVE_TESTCONTAINERS:
        yield TESTCONTAINERS, "testcontainers is not installed"
    if not peers.HAVE_DOCKER_TOOLS:
        yield DOCKER_TOOLS, "pytest-docker-tools is not installed"
    why_not = floor.why_not()
    if why_not:
        yield FLOOR, why_not
