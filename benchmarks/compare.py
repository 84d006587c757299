"""The comparison: every figure of ours beside the peers' on the same work in the same run, in one table."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from pytest_dind.host import HostEngine

from . import floor, leftovers
from .big_images import MB_370, SMALL, made
from .comparison import BY_HAND, CLEAN, COLD, DOCKER_TOOLS, FLOOR, FRESH, OURS, TESTCONTAINERS, Comparison
from .grid import Grid
from .measure import Limit, Table, times

#: How many times ours what is promised of the peers takes at least, and what cleaning takes more at most.
LEAST = 6
MOST_SECONDS_MORE = 0.25

TITLE = "Ours and the peers: median, how many times ours that is, (how often measured)"
NOTES = (
    "docker run: docker:dind as documented, by Docker's SDK, which is faster than the command; until it answers by TLS",
    "testcontainers-python: LogMessageWaitStrategy('API listen on') as it comes, then the same; its reaper is disabled",
    "pytest-docker-tools: container(…, privileged=True, ports={'2376/tcp': None}, timeout=600), then the same",
    "bare dockerd: containerd and dockerd with no container around; with an image: on a data root that has it already",
    "every daemon is a fixture of a pytest process, one for each of those that start at once; its start is not counted",
    "370 MB: in ours, from the image store, filled before; in the peers, by `docker save` into `docker load`",
    "clean: ours is dind_clean; peers remove only what they made, by the calls measured here: each by force, in turn",
    "suites: wall time of pytest, from its start to its end; ours with lookahead of 1",
)


def run() -> Table:
    """Measure one row after the other, each with all columns in turn; remove what was made, or say what stays."""
    engine = HostEngine.connect()
    found: list[Grid] = []
    stays = ""
    try:
        _measure(engine, found)
    except TimeoutError as error:
        if not found:
            raise
        stays = str(error)  # What minutes have measured is not lost for it.
    engine.close()
    table = found[0].table(TITLE)
    table.limits += limits(found[0])
    table.limits.append(Limit("nothing stays on the host engine", stays or "nothing does", not stays))
    table.notes += NOTES
    return table


def _measure(engine: HostEngine, found: list[Grid]) -> None:
    """Add the grid to `found` when it is whole; what was made is removed after that."""
    with leftovers.removed(engine), made(engine, MB_370, SMALL) as (image, small), ExitStack() as stack:
        comparison = Comparison(engine, image.tag, small.tag)
        if FLOOR not in comparison.missing:
            stack.enter_context(floor.holding(engine, image.tag))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        comparison.prepare()
        comparison.cold()
        comparison.fresh(directory)
        comparison.clean()
        comparison.teardown()
        comparison.at_once()
        comparison.scaling(directory)
        found.append(comparison.grid)


def limits(grid: Grid) -> Iterator[Limit]:
    """Yield what was promised, beside what was found; nothing of what could not be measured."""
    for row, columns in ((COLD, (BY_HAND, TESTCONTAINERS, DOCKER_TOOLS)), (FRESH, (BY_HAND,))):
        for column in columns:
            ratio = grid.ratio(row, column)
            if ratio is not None:
                yield Limit(f"{row}: {column} takes at least {LEAST} times as long", times(ratio), ratio >= LEAST)
    ours, by_hand = (grid.median(CLEAN, column) for column in (OURS, BY_HAND))
    if ours is not None and by_hand is not None:
        promise = f"{CLEAN}: less than {MOST_SECONDS_MORE:g} s more than by hand"
        yield Limit(promise, f"{ours - by_hand:+.2f} s", ours - by_hand < MOST_SECONDS_MORE)
    failures = grid.failures.get(OURS, 0)
    yield Limit("none of ours failed", f"{failures} failed", failures == 0)
