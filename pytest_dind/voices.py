"""What several processes are at, said as one: nobody wants to read eight times that eight workers wait for the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from .progress import Shown

#: Seconds without a word from a process, after which nothing more is said of it: it was killed.
LOST = 5.0
#: More than this that are at the same are counted and not named.
MOST_NAMES = 3


class Voices:
    """What the processes of a run are at now, by name; the one without xdist, and the controller, have an empty one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now: dict[str, tuple[Shown, float]] = {}
        self._told: set[tuple[str, int]] = set()

    def hear(self, name: str, shown: Shown | None) -> str | None:
        """Take in what a process is at, None for nothing; return the line that says so, if it has not been said."""
        self._now.pop(name, None)
        if shown is None:
            return None
        is_told = (name, shown.number) in self._told or any(shown.text == one.text for _, one in self._living())
        self._told.add((name, shown.number))
        self._now[name] = shown, self._clock()
        return None if is_told else _said([name], shown)

    def line(self) -> str | None:
        """Return the line for what takes longest now, with the seconds so far; None where nothing does."""
        living = self._living()
        if not living:
            return None
        longest = max((shown for _, shown in living), key=lambda shown: shown.seconds)
        names = [name for name, shown in living if shown.text == longest.text]
        others = len({shown.text for _, shown in living}) - 1
        more = f", and {others} more" if others else ""
        return f"{_said(names, longest)} ({longest.seconds:.0f} s){more}"

    def _living(self) -> list[tuple[str, Shown]]:
        now = self._clock()
        return [(name, shown) for name, (shown, at) in sorted(self._now.items()) if now - at < LOST]


def _said(names: Sequence[str], shown: Shown) -> str:
    named = [name for name in names if name]
    if len(named) > MOST_NAMES:
        named = [f"{named[0]} and {len(named) - 1} more"]
    who = f" [{', '.join(named)}]" if named else ""
    return f"dind{who}: {shown.text}" + (f": {shown.detail}" if shown.detail else "")
