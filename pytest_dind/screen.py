"""A terminal or a log that pytest writes to, and we too: neither one's text ends up in the middle of the other's.

We write to a copy of its descriptor that was made while pytest did not capture. To suspend capture for each write would
let through what the test and its children write meanwhile, and race with the main thread, which suspends it too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

# Where the cursor is, maybe in the middle of a line, is pytest's business. So the live line is on the line below, and
# the cursor back where it was: ECMA-48 and DEC, as every terminal emulator has it.
_ERASE = "\x1b[J"
_ROOM_BELOW = "\x1bD\x1b[A"
_SAVE, _RESTORE = "\x1b7", "\x1b8"
_NEXT_LINE = "\r\x1b[B"


class Writer(Protocol):
    """What pytest writes with: its TerminalWriter."""

    write: Callable[..., None]

    @property
    def width_of_current_line(self) -> int:
        """Columns that are written since the last newline."""


class Screen:
    """Where lines are shown; `close` leaves nothing of a live one."""

    def __init__(self, descriptor: int, writer: Writer | None = None, *, live: bool = False) -> None:
        """:param descriptor: Closed by `close`.

        :param writer: Whose writes are not to be disturbed.
        :param live: Whether it is a terminal with a cursor that can be moved.
        """
        self.is_live = live
        self.is_hushed = False
        self._descriptor = descriptor
        self._writer = writer
        self._process = os.getpid()
        self._is_painted = False
        # Reentrant: a signal handler may write in the middle of a write.
        self._lock = threading.RLock()
        if writer is not None:
            self._others_write = writer.write
            writer.write = self._write_for_other

    def close(self) -> None:
        """Take the live line away and let the writer write by itself again."""
        self.erase()
        if self._writer is not None:
            self._writer.write = self._others_write
        os.close(self._descriptor)

    def _write_for_other(self, text: str, **how: Any) -> None:
        if os.getpid() != self._process:  # a forked child, in which another thread's lock is never released
            self._others_write(text, **how)
            return
        with self._lock:
            self.erase()
            # What stays in its buffer would come out later, behind our line or in what is captured.
            self._others_write(text, **{**how, "flush": True})

    def print_line(self, text: str) -> None:
        """Show a line for good."""
        with self._lock:
            begun = self._writer is not None and self._writer.width_of_current_line > 0
            self._put("\n" * begun + _printable(text) + "\n")

    def paint(self, text: str) -> None:
        """Show a live line, in the place of the last one."""
        with self._lock:
            if self.is_hushed:
                return
            self._is_painted = True
            try:
                columns = os.get_terminal_size(self._descriptor).columns
            except OSError:  # the terminal has gone
                return
            shown = _printable(text)[: max(columns - 1, 0)]
            self._put(f"{_ERASE}{_ROOM_BELOW}{_SAVE}{_NEXT_LINE}{shown}{_RESTORE}")

    def erase(self) -> None:
        """Take the live line away."""
        with self._lock:
            if self._is_painted:
                self._is_painted = False
                self._put(_ERASE)

    def hush(self, *, hushed: bool) -> None:
        """Show no live line while somebody talks to a debugger."""
        with self._lock:
            self.is_hushed = hushed
            self.erase()

    def _put(self, text: str) -> None:
        data = text.encode(errors="replace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:  # nobody reads it any more, which pytest will notice by itself
            pass


def _printable(text: str) -> str:
    """A line of a build may bring its own control characters."""
    return "".join(one if one.isprintable() else " " for one in text)
