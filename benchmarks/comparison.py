"""The rows of `compare`: how each figure is measured, for ours and for every peer alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dind import Daemon, Settings

from . import between, workers
from .cells import Cells, Part, Rounds
from .columns import BY_HAND, COLUMNS, DOCKER_TOOLS, FLOOR, OURS
from .machine import OFFICIAL_IMAGE, Traces
from .many import there_is_room_for
from .measure import progress, reason, seconds_until
from .recipes import MB_370, SMALL
from .timed_suite import SECONDS, TimedSuite

if TYPE_CHECKING:
    from pytest_dind.host import HostEngine

    from .grid import Grid
    from .prepared import Prepared

COLD = "cold: a daemon that answers"
IMAGE = "cold, with an image of 370 MB inside"
CLEAN = "clean: 3 containers, 1 network, 1 volume"
TEARDOWN = "teardown with 3 containers inside"
AT_ONCE = "{} daemons at once, all answer"
TESTS = 4
FRESH = f"{TESTS} tests of {SECONDS} s, each a fresh daemon, 370 MB"
SUITE_TESTS = 16
SUITE = f"{SUITE_TESTS} tests of {SECONDS} s, -n {{}}, a daemon each, 370 MB"

#: How many start at once; one is the first row.
COUNTS = (2, 4, 8, 16, 32)
WORKERS = (1, 2, 4, 8)

#: How often what takes a second or so is measured, what the peers take ten for, and what all take many for.
_OFTEN, _FEW, _LEAST = Rounds(6, 4), Rounds(6, 2), Rounds(2, 1)
#: A limit hangs on one of the peers here.
_OF_FRESH = Rounds(3, 1, {BY_HAND: 2})
#: Seconds.
_LOOK_EVERY = 0.002

NO_MEMORY = "there is not the memory for so many"
NO_CONTAINERS = "no containers are run in it, for their control groups would be the machine's own"


class Comparison:
    """The rows, measured one after the other; in each, the columns in turn."""

    #: The rows in their order, by the names of the methods that measure them.
    ROWS: Mapping[str, tuple[str, ...]] = {
        "cold": (COLD,),
        "image": (IMAGE,),
        "fresh": (FRESH,),
        "clean": (CLEAN,),
        "teardown": (TEARDOWN,),
        "at_once": tuple(map(AT_ONCE.format, COUNTS)),
        "scaling": tuple(map(SUITE.format, WORKERS)),
    }

    def __init__(self, engine: HostEngine, grid: Grid, prepared: Prepared, part: Part, directory: Path) -> None:
        """Find out who can be measured here.

        :param directory: For the suites.
        """
        self._engine = engine
        self._grid = grid
        self._prepared = prepared
        self._rows = part.rows
        self._directory = directory
        self._cells = Cells(engine, grid, part)

    def measure(self) -> None:
        """Measure the rows; one that fails costs the others nothing."""
        for name in self._rows:
            began = time.monotonic()
            try:
                getattr(self, name)()
            except Exception as error:  # noqa: BLE001 (what its columns need cannot be had)
                self._grid.broken[name] = reason(error)
                for row in self.ROWS[name]:
                    self._cells.leave_empty(row, f"what it needs could not be prepared: {reason(error)}")
            self._grid.took[name] = round(time.monotonic() - began, 1)
            progress(f"{name}: measured in {self._grid.took[name]:.0f} s\n")

    def cold(self) -> None:
        """Measure one daemon from nothing."""
        self._cells.fill(COLD, partial(self._start, 1, None), _OFTEN, self._without_image())
        self._cells.give_up_those_without(COLD)

    def image(self) -> None:
        """Measure the same with an image inside."""
        image = self._prepared.image(MB_370)
        self._cells.fill(IMAGE, partial(self._start, 1, image), _FEW, self._with_image(image))

    def fresh(self) -> None:
        """Measure a suite with a fresh daemon for every test."""
        image = self._prepared.image(MB_370)
        suites = self._suites("fresh", image, TESTS, "dind_fresh_client")
        self._cells.fill(FRESH, lambda column: suites[column].wall_time(1), _OF_FRESH, self._with_image(image))

    def clean(self) -> None:
        """Measure what removes all that a test left in a daemon."""
        image = self._prepared.image(SMALL)
        absent = {FLOOR: NO_CONTAINERS}
        with ExitStack() as stack:
            measures: dict[str, Callable[[], float]] = {}
            for column in (name for name in COLUMNS if not self._cells.why_not(name) and name != FLOOR):
                try:
                    measures[column] = self._cleaning(stack, column, image)
                except Exception as error:  # noqa: BLE001 (whatever it is, it is what is said of this cell)
                    self._grid.fail(CLEAN, column, error)
                    absent[column] = f"failed: {reason(error)}"
            self._cells.fill(CLEAN, lambda column: measures[column](), Rounds(6, 6), absent)

    def teardown(self) -> None:
        """Measure the end of a daemon in which containers run."""
        image = self._prepared.image(SMALL)
        self._cells.fill(TEARDOWN, partial(self._end, image), _FEW, {FLOOR: NO_CONTAINERS})

    def at_once(self) -> None:
        """Measure many daemons that start together."""
        absent = self._without_image()
        for count in COUNTS:
            too_many = {} if there_is_room_for(count) else dict.fromkeys(COLUMNS, NO_MEMORY)
            self._cells.fill(AT_ONCE.format(count), partial(self._start, count, None), _LEAST, absent | too_many)

    def scaling(self) -> None:
        """Measure a suite on more and more workers, each with one daemon for all of its tests."""
        image = self._prepared.image(MB_370)
        suites = self._suites("scaling", image, SUITE_TESTS, "dind_client")
        for count in WORKERS:

            def seconds(column: str, count: int = count) -> float:
                return suites[column].wall_time(count, "session")

            self._cells.fill(SUITE.format(count), seconds, _LEAST, self._with_image(image, count))

    def _without_image(self) -> dict[str, str]:
        """Return who cannot have a daemon, and why."""
        why_not = None if self._cells.why_not(FLOOR) else self._prepared.floor()
        return {FLOOR: why_not} if why_not else {}

    def _with_image(self, image: str, workers: int = 1) -> dict[str, str]:
        """Return who cannot have daemons with an image, and why."""
        floor = None if self._cells.why_not(FLOOR) else self._prepared.data_roots(image, workers)
        ours = None if self._cells.why_not(OURS) else self._prepared.store(image)
        if ours:
            self._grid.failures[OURS] = self._grid.failures.get(OURS, 0) + 1
        return {column: why for column, why in ((FLOOR, floor), (OURS, ours)) if why}

    def _start(self, count: int, image: str | None, column: str) -> float:
        with workers.at_once(count, COLUMNS[column], image) as found:
            if column not in self._grid.versions:
                with found[0].reached.client() as client:
                    self._grid.versions[column] = client.version()["Version"]
            return workers.seconds_of(found)

    def _cleaning(self, stack: ExitStack, column: str, image: str) -> Callable[[], float]:
        """Start a daemon; return what cleans it and says how many seconds that took."""
        if column == OURS:
            # In this process: the plugin's own part works on the daemon itself, and not only on a client.
            daemon = stack.enter_context(Daemon.start(Settings(image=OFFICIAL_IMAGE, preload=(image,))))
            return partial(between.Between(daemon).seconds, image)
        (worker,) = stack.enter_context(workers.at_once(1, COLUMNS[column], image))
        return partial(between.seconds_by_hand, stack.enter_context(worker.reached.client()), image)

    def _end(self, image: str, column: str) -> float:
        with workers.at_once(1, COLUMNS[column], image) as (worker,):
            with worker.reached.client() as client:
                for _ in range(between.CONTAINERS):
                    client.containers.run(image, ["sleep", "1000"], detach=True)
            traces = Traces.of(self._engine, worker.reached.container, worker.reached.host)
            begin = time.monotonic()
            worker.tell()
            gone = traces.container_gone if column == DOCKER_TOOLS else traces.gone
            seconds = seconds_until(partial(gone, self._engine), _LOOK_EVERY, begin)
        if not traces.gone(self._engine):
            self._grid.note(TEARDOWN, column, "until its container is gone: its volume stays behind")
        return seconds

    def _suites(self, name: str, image: str, tests: int, ours: str) -> dict[str, TimedSuite]:
        directory = self._directory / name
        directory.mkdir()
        fixtures = COLUMNS | {OURS: ours}
        return {
            column: TimedSuite.written(directory / fixture, fixture, image, tests)
            for column, fixture in fixtures.items()
        }
