"""The comparison: every figure of ours beside the peers' on the same work in the same run, in one table."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pytest_dind.host import HostEngine

from .cells import Part
from .columns import BY_HAND, COLUMNS, DOCKER_TOOLS, NOTES, OURS, TESTCONTAINERS
from .comparison import CLEAN, COLD, FRESH, Comparison
from .grid import Grid
from .measure import Cut, Limit, Table, exit_code, times
from .prepared import Prepared

#: How many times ours what is promised of the peers takes at least, and what cleaning takes more at most.
LEAST = 6
MOST_SECONDS_MORE = 0.25

TITLE = "Ours and the peers: median, how many times ours that is, (how often measured)"
WHOLE = Part(tuple(Comparison.ROWS), tuple(COLUMNS))


def run(part: Part = WHOLE) -> Table:
    """Measure one row after the other, each with all columns in turn.

    :raises Cut: it was ended from outside; with what was found by then.
    """
    engine = HostEngine.connect()
    grid = Grid(tuple(COLUMNS))
    sizes: dict[str, int] = {}
    try:
        with tempfile.TemporaryDirectory() as name, Prepared(engine) as prepared:
            try:
                Comparison(engine, grid, prepared, part, Path(name)).measure()
            finally:
                sizes |= {recipe.title: image.size for recipe, image in prepared.images.items()}
    except (KeyboardInterrupt, SystemExit) as end:
        grid.broken["the last one, and what was to come"] = "the run was ended"
        raise Cut(_table(grid, part, sizes), exit_code(end)) from end
    finally:
        engine.close()
    return _table(grid, part, sizes)


def _table(grid: Grid, part: Part, sizes: dict[str, int]) -> Table:
    for column, version in grid.versions.items():
        if version != grid.versions.get(OURS, version):
            grid.note(COLD, column, f"not the same engine: its version is {version}")
    table = grid.table(TITLE)
    table.limits += limits(grid, part)
    table.notes += NOTES
    table.facts |= {"image sizes": sizes, "engine versions": grid.versions, "seconds of each row": grid.took}
    return table


def limits(grid: Grid, part: Part = WHOLE) -> Iterator[Limit]:
    """Yield what was promised, beside what was found; what was not measured is not reached."""
    for name, row, columns in (("cold", COLD, (BY_HAND, TESTCONTAINERS, DOCKER_TOOLS)), ("fresh", FRESH, (BY_HAND,))):
        for column in columns if name in part.rows else ():
            promise = f"{row}: {column} takes at least {LEAST} times as long"
            ratio = grid.ratio(row, column)
            if ratio is None:
                yield _not_measured(grid, name, promise, row, column)
            else:
                yield Limit(promise, times(ratio), ratio >= LEAST)
    if "clean" in part.rows:
        yield _of_cleaning(grid)
    if grid.versions:
        yield Limit("the same engine in all columns", " and ".join(sorted({*grid.versions.values()})), _is_one(grid))
    broken = "; ".join(f"{name}: {why}" for name, why in grid.broken.items())
    yield Limit("every row was measured", broken or "all were", not broken)
    failures = grid.failures.get(OURS, 0)
    yield Limit("none of ours failed", f"{failures} failed", failures == 0)


def _of_cleaning(grid: Grid) -> Limit:
    promise = f"{CLEAN}: less than {MOST_SECONDS_MORE:g} s more than by hand"
    ours, by_hand = (grid.median(CLEAN, column) for column in (OURS, BY_HAND))
    if ours is None or by_hand is None:
        return _not_measured(grid, "clean", promise, CLEAN, OURS if ours is None else BY_HAND)
    return Limit(promise, f"{ours - by_hand:+.2f} s", ours - by_hand < MOST_SECONDS_MORE)


def _not_measured(grid: Grid, name: str, promise: str, row: str, column: str) -> Limit:
    empty = column if grid.median(row, column) is None else OURS
    why = grid.broken.get(name) or grid.why_empty(row, empty)
    return Limit(promise, f"not measured: {empty}: {why}", reached=False)


def _is_one(grid: Grid) -> bool:
    return len({*grid.versions.values()}) == 1
