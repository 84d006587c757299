"""Filling the cells of a row: each column in turn, and whatever goes wrong with one costs the others nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from . import columns, leftovers
from .columns import COLUMNS, PEERS
from .measure import side_by_side

if TYPE_CHECKING:
    from pytest_dind.host import HostEngine

    from .grid import Grid

#: Of a column: what is measured, in seconds.
Measure = Callable[[str], float]


@dataclass(frozen=True)
class Part:
    """What is measured."""

    #: By the names of the methods that measure them.
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    #: Whether everything is measured once only.
    once: bool = False


@dataclass(frozen=True)
class Rounds:
    """How often a row is measured."""

    #: With ours and the floor.
    often: int
    #: With the peers, but for those that are named.
    few: int
    named: Mapping[str, int] = field(default_factory=dict)

    def of(self, column: str) -> int:
        """Return how often it is with a column."""
        return self.named.get(column, self.few if column in PEERS else self.often)


class Cells:
    """Fills the cells of a grid."""

    def __init__(self, engine: HostEngine, grid: Grid, part: Part) -> None:
        self._engine = engine
        self._grid = grid
        self._once = part.once
        self._missing = {**dict(columns.missing()), **dict.fromkeys(COLUMNS.keys() - part.columns, "it was left out")}

    def why_not(self, column: str) -> str | None:
        """Return why a column is not measured at all; None if it is."""
        return self._missing.get(column)

    def give_up_those_without(self, row: str) -> None:
        """Measure those no more that failed in a row: in the others they would fail, too, after minutes in each."""
        for column in COLUMNS:
            if self._grid.has_failed(row, column) and self._grid.median(row, column) is None:
                self._missing[column] = self._grid.why_empty(row, column)

    def leave_empty(self, row: str, why: str) -> None:
        """Say of a row that was not begun why it is not measured."""
        for column in COLUMNS if row not in self._grid.rows else ():
            self._grid.add(row, column, [])
            self._grid.note(row, column, why)

    def fill(self, row: str, measure: Measure, rounds: Rounds, absent: Mapping[str, str]) -> None:
        """Measure with every column that is there, in turn; say why with the others.

        :param absent: Why a column is not measured in this row.
        """
        subjects = {}
        for column in COLUMNS:
            self._grid.add(row, column, [])
            why = self._missing.get(column) or absent.get(column)
            if why:
                self._grid.note(row, column, why)
            else:
                subjects[column] = partial(self._measure, row, column, measure)
        side_by_side({column: 1 if self._once else rounds.of(column) for column in subjects}, subjects, warm_up=0)

    def _measure(self, row: str, column: str, measure: Measure) -> float:
        """Measure once; where that fails, it is noted, and not tried again in this row."""
        if self._grid.has_failed(row, column):
            return math.nan
        try:
            seconds = measure(column)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is what is said of this cell)
            self._grid.fail(row, column, error)
            return math.nan
        finally:
            leftovers.attempt("volumes of peers", partial(leftovers.remove_volumes, self._engine))
        # At once: the run may be ended before the next one.
        self._grid.add(row, column, [seconds])
        return seconds
