"""What takes long right now, for whoever wants to show it: stages of work, by any thread, and those who listen.

With nobody listening nothing is shown, and a stage costs two microseconds::

    with stage("pulling busybox:latest") as pulling:
        pulling.say("12 of 40 MB")
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: Seconds that a stage may take without being shown.
AFTER = 2.0
#: Seconds between two looks at how far it is.
EVERY = 0.5

_log = logging.getLogger("pytest_dind")


@dataclass(frozen=True)
class Shown:
    """What there is to show of a stage at one moment."""

    #: Tells the stage from all others of this process.
    number: int
    #: What is done, the same for its whole time and for all who do the same: "pulling busybox:latest".
    text: str
    #: How far it is, or empty: "12 of 40 MB".
    detail: str
    #: Seconds since its beginning.
    seconds: float


#: Called on one thread at a time, about twice a second, with the stage to show; with None when there is none any more.
Listener = Callable[[Shown | None], None]


class Stage:
    """One piece of work that may take long."""

    def __init__(self, text: str) -> None:
        self.number = next(_numbers)
        self.text = text
        self.since = time.monotonic()
        self._detail = ""

    def say(self, detail: str) -> None:
        """Say how far it is; cheap, from any thread, as often as you like."""
        self._detail = detail

    def shown_at(self, now: float) -> Shown:
        """Return what there is to show of it."""
        return Shown(self.number, self.text, self._detail, now - self.since)


@contextmanager
def stage(text: str) -> Iterator[Stage]:
    """Have what follows shown while it runs, if it takes longer than AFTER; of several, the one that began last.

    :param text: What is done, without the worker's name: "loading big:1 into the image store".
    """
    begun = Stage(text)
    try:
        _board.begin(begun)
        yield begun
    finally:
        _board.end(begun)


def listen(listener: Listener) -> Callable[[], None]:
    """Have a listener told of every stage that takes long, in this process and not in its forks; returns the undo."""
    _board.add(listener)
    return lambda: _board.remove(listener)


class _Board:
    """The stages that run now, and the thread that tells of them: it lives only while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[Stage] = []
        self._listeners: list[Listener] = []
        self._teller: _Teller | None = None

    def add(self, listener: Listener) -> None:
        with self._lock:
            self._listeners = [*self._listeners, listener]
            self._have_teller()

    def remove(self, listener: Listener) -> None:
        with self._lock:
            self._listeners = [one for one in self._listeners if one != listener]

    def begin(self, begun: Stage) -> None:
        with self._lock:
            self._open.append(begun)
            self._have_teller()

    def end(self, ended: Stage) -> None:
        with self._lock:
            # Not found in a child that was forked in the middle of it.
            self._open = [one for one in self._open if one is not ended]
            teller = self._teller
            if teller is None:
                return
            if self._open:
                teller.look_if_shown(ended)
                return
            self._teller = None
        teller.end()

    def _have_teller(self) -> None:
        if self._open and self._listeners and self._teller is None:
            teller = _Teller(self)
            try:
                teller.start()
            except RuntimeError:  # no more threads, or the interpreter ends: the work itself may still be done
                return
            self._teller = teller

    def to_show(self, now: float) -> tuple[Shown | None, float]:
        """Return what is to be shown now, and after how many seconds to look again."""
        with self._lock:
            open_now = list(self._open)
        old = [one for one in open_now if now - one.since >= AFTER]
        waits = [one.since + AFTER - now for one in open_now if now - one.since < AFTER]
        return (old[-1].shown_at(now) if old else None), min([EVERY] * bool(old) + waits, default=EVERY)

    def tell(self, shown: Shown | None) -> None:
        for listener in self._listeners:
            try:
                listener(shown)
            except Exception:  # noqa: BLE001 (nobody's work fails because it cannot be shown)
                _log.exception("a listener to progress failed, and is told no more")
                self.remove(listener)


class _Teller(threading.Thread):
    def __init__(self, board: _Board) -> None:
        super().__init__(name="pytest-dind-progress", daemon=True)
        self._board = board
        self._look = threading.Event()
        self._ended = False
        self._shown: Shown | None = None

    def run(self) -> None:
        while not self._ended:
            self._look.clear()
            shown, wait = self._board.to_show(time.monotonic())
            self._show(shown)
            if not self._ended:
                self._look.wait(wait)
        self._show(None)

    def _show(self, shown: Shown | None) -> None:
        before, self._shown = self._shown, shown
        if shown or before:
            self._board.tell(shown)

    def look_if_shown(self, ended: Stage) -> None:
        if self._shown is not None and self._shown.number == ended.number:
            self._look.set()

    def end(self) -> None:
        self._ended = True
        self._look.set()
        if self is not threading.current_thread():
            # Whoever ends the last stage finds its line gone. It ends by itself if it cannot write for so long.
            self.join(1)


_numbers = itertools.count(1)
_board = _Board()


def _forget_in_child() -> None:
    """A forked child has neither the thread nor the terminal, and another thread may have held the lock."""
    global _board  # noqa: PLW0603
    _board = _Board()


os.register_at_fork(after_in_child=_forget_in_child)
