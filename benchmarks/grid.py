"""One table of all figures, each of ours beside those of the peers: medians, ratios, and notes on what is missing."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from .measure import Table, reason

#: A time that is shorter is written with more digits.
_SHORT = 10
#: What is said of a measurement that failed begins with it.
_FAILED = "failed: "


@dataclass
class Grid:
    """Rows of figures; the first column is what the others are compared with."""

    columns: tuple[str, ...]
    rows: list[str] = field(default_factory=list)
    samples: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    #: The numbers of the notes on each cell.
    marks: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    #: How many measurements of each column failed.
    failures: dict[str, int] = field(default_factory=dict)
    #: Why rows could not be measured at all, by their short names.
    broken: dict[str, str] = field(default_factory=dict)
    #: Seconds that measuring took, by the same names.
    took: dict[str, float] = field(default_factory=dict)
    #: The version of each column's engine.
    versions: dict[str, str] = field(default_factory=dict)

    def add(self, row: str, column: str, values: list[float]) -> None:
        """Add what was measured; a cell without any stays empty."""
        if row not in self.rows:
            self.rows.append(row)
        self.samples.setdefault((row, column), []).extend(values)

    def fail(self, row: str, column: str, error: Exception) -> None:
        """Say that a measurement failed, and why."""
        self.failures[column] = self.failures.get(column, 0) + 1
        self.note(row, column, f"{_FAILED}{reason(error)}")

    def has_failed(self, row: str, column: str) -> bool:
        """Whether a measurement of this cell has failed."""
        return any(self.notes[number - 1].startswith(_FAILED) for number in self.marks.get((row, column), ()))

    def note(self, row: str, column: str, text: str) -> None:
        """Say something about a cell; what was said of another one has that one's number."""
        if text not in self.notes:
            self.notes.append(text)
        marks = self.marks.setdefault((row, column), [])
        if (number := self.notes.index(text) + 1) not in marks:
            marks.append(number)

    def why_empty(self, row: str, column: str) -> str:
        """Return why a cell has nothing, or too little."""
        said = [self.notes[number - 1] for number in self.marks.get((row, column), ())]
        return "; ".join(said) or "it was not among what was to be measured, or the run was ended before"

    def median(self, row: str, column: str) -> float | None:
        """Return a cell's median; None if it is empty."""
        values = self.samples.get((row, column))
        return statistics.median(values) if values else None

    def ratio(self, row: str, column: str) -> float | None:
        """Return how many times the first column's median a cell's is; None if one of them is empty."""
        ours, other = self.median(row, self.columns[0]), self.median(row, column)
        return other / ours if ours and other else None

    def cell(self, row: str, column: str) -> str:
        """Write a cell: median, ratio, how many measurements, and the notes' numbers."""
        median, ratio = self.median(row, column), self.ratio(row, column)
        parts = ["-" if median is None else _short(median)]
        if ratio is not None and column != self.columns[0]:
            parts.append(f"{ratio:.1f} x" if ratio >= 1 else f"{ratio:.2f} x")
        if median is not None:
            parts.append(f"({len(self.samples[row, column])})")
        parts += [f"[{number}]" for number in self.marks.get((row, column), ())]
        return " ".join(parts)

    def table(self, title: str) -> Table:
        """Return what is printed, and written as JSON with every sample."""
        table = Table(title, ("", *self.columns))
        table.rows = [(row, *(self.cell(row, column) for column in self.columns)) for row in self.rows]
        table.notes = [f"[{number}] {text}" for number, text in enumerate(self.notes, 1)]
        table.facts = {"cells": self._cells(), "failures": self.failures}
        table.samples = {f"{row}: {column}": values for (row, column), values in self.samples.items() if values}
        return table

    def _cells(self) -> dict[str, dict[str, Any]]:
        """Return the cells as numbers, with what is said of them: by row and column."""
        return {
            row: {
                column: {
                    "median": self.median(row, column),
                    "ratio": self.ratio(row, column),
                    "samples": self.samples.get((row, column), []),
                    "notes": [self.notes[number - 1] for number in self.marks.get((row, column), ())],
                }
                for column in self.columns
            }
            for row in self.rows
        }


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < _SHORT else f"{seconds:.1f} s"
