"""Rounds, medians and tables: how every benchmark here measures and says what it found."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Samples = dict[str, list[float]]

#: Characters.
_LONGEST_REASON = 300


def side_by_side(
    rounds: int | Mapping[str, int], subjects: Mapping[str, Callable[[], float]], warm_up: int = 1
) -> Samples:
    """Measure each subject once in every round, so that what else the machine does hits all alike.

    :param rounds: In how many; or for each subject by its name, in how many it takes part, which lie evenly among all.
    :param subjects: By name: a call that returns what it measured. Setting up and clearing away is left out of that.
    :param warm_up: Rounds that do not count: imports, caches.
    """
    samples: Samples = {name: [] for name in subjects}
    order = list(subjects)
    of_each = rounds if isinstance(rounds, Mapping) else dict.fromkeys(order, rounds)
    most = max(map(of_each.__getitem__, order), default=0)
    for number in range(-warm_up, most):
        progress(f"round {number + 1} of {most}" if number >= 0 else "warming up")
        # Every other round backwards: nobody always comes after the same neighbour.
        for name in sorted(subjects, key=order.index, reverse=bool(number % 2)):
            if number >= 0 and not _takes_part(number, of_each[name], most):
                continue
            os.sync()  # What one has written is on the disk before the next one begins, and not on its account.
            value = subjects[name]()
            if number >= 0:
                samples[name].append(value)
    return samples


def _takes_part(number: int, rounds: int, most: int) -> bool:
    """Whether a round is one of the few that lie evenly among all: of three, one is the middle one."""
    return (number * rounds + most // 2) // most != ((number + 1) * rounds + most // 2) // most


def seconds_until(condition: Callable[[], object], every: float, since: float, patience: float = 120) -> float:
    """Wait for a condition; return the seconds from `since`, on the clock of time.monotonic, until it held."""
    while not condition():
        if time.monotonic() - since > patience:
            raise TimeoutError(f"waited {patience:g} s in vain")
        time.sleep(every)
    return time.monotonic() - since


@dataclass(frozen=True)
class Limit:
    """What was promised, what was measured, and whether the promise is kept."""

    promise: str
    found: str
    reached: bool

    def __str__(self) -> str:
        return f"{'reached' if self.reached else 'MISSED '}  {self.promise}: {self.found}"


@dataclass
class Table:
    """What one benchmark found."""

    title: str
    headings: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: Every single measurement, for whoever wants to look closer (`--json`).
    samples: Samples = field(default_factory=dict)
    #: What else belongs to that, as numbers and words.
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether every limit is kept."""
        return all(limit.reached for limit in self.limits)

    def as_json(self) -> dict[str, Any]:
        """Return everything, for `--json`."""
        medians = {name: statistics.median(values) for name, values in self.samples.items() if values}
        return asdict(self) | {"medians": medians, "reached": self.reached}

    def __str__(self) -> str:
        grid = [list(self.headings), *map(list, self.rows)]
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        lines = [self.title, ""]
        for number, row in enumerate(grid):
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  " + "  ".join(cells).rstrip())
            if number == 0:
                lines.append("  " + "-" * (sum(widths) + 2 * len(widths) - 2))
        lines += ["", *(f"  {limit}" for limit in self.limits), *(f"  note     {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"


#: Headings for the cells of `spread`.
SPREAD = ("median", "min", "max", "n")


def spread(values: Sequence[float], show: Callable[[float], str]) -> tuple[str, ...]:
    """Return the cells that say how measurements are spread."""
    return (show(statistics.median(values)), show(min(values)), show(max(values)), str(len(values)))


def ratio(samples: Samples, one: str, other: str) -> float:
    """Return how many times the median of one is that of the other."""
    return statistics.median(samples[one]) / statistics.median(samples[other])


def in_seconds(value: float) -> str:
    """Write a time for a table."""
    return f"{value:.3f} s"


def in_milliseconds(value: float) -> str:
    """Write a short time, given in seconds, for a table."""
    return f"{value * 1000:.1f} ms"


def in_megabytes(value: float) -> str:
    """Write a size, given in bytes, for a table."""
    return f"{value / 1e6:.2f} MB"


def times(value: float) -> str:
    """Write a ratio for a table."""
    return f"{value:.2f} x"


def reason(error: BaseException) -> str:
    """Return what an error says, in one line; of a long text the end, which says most."""
    return " ".join(str(error).split())[-_LONGEST_REASON:].strip() or type(error).__name__


def progress(text: str) -> None:
    """Say on a terminal what is going on; the tables go elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K  {text}", end="", file=sys.stderr, flush=True)


class Cut(Exception):  # noqa: N818 (no error: somebody wanted that)
    """A benchmark was ended from outside; `table` is what it had found by then."""

    def __init__(self, table: Table, code: int) -> None:
        super().__init__("it was ended before it was through")
        self.table = table
        self.code = code


def exit_code(end: BaseException) -> int:
    """Return the exit code for what ends this process from outside: Ctrl-C, or SIGTERM as `exit_on_sigterm` has it."""
    return end.code if isinstance(end, SystemExit) and isinstance(end.code, int) else 128 + signal.SIGINT


def exit_on_sigterm() -> None:
    """Have SIGTERM clear away what there is, as Ctrl-C does, and not just end the process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
