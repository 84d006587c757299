"""Fresh daemons that are started before they are asked for, and ended behind the back of whoever used them."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from . import notices, unbroken
from .daemon import Daemon
from .errors import DaemonStartError
from .notices import Notice
from .settings import Settings

#: What threads of this process work for; in a forked child there are none.
_served: weakref.WeakSet[Beginning | Starter | Lookahead] = weakref.WeakSet()


@dataclass(eq=False)
class Beginning:
    """A daemon that is being started on another thread."""

    settings: Settings
    future: Future[Daemon] = field(default_factory=Future)
    #: What there is to be warned of, for whoever takes it.
    notices: list[Notice] = field(default_factory=list)
    #: Whether nobody will take it.
    is_unwanted: bool = False

    def __post_init__(self) -> None:
        _served.add(self)

    def forget_in_child(self) -> None:
        """Leave it to the parent process: nobody here can take it."""
        self.is_unwanted = True
        self.future = Future()
        self.future.set_exception(DaemonStartError("a daemon", "it is another process that starts it"))

    def require_wanted(self) -> None:
        """Go no further when nobody will take it.

        :raises DaemonStartError: nobody will.
        """
        if self.is_unwanted:
            raise DaemonStartError("a daemon", "it was not needed any more")

    def take(self) -> Daemon:
        """Wait until it is started, and return it; raises what its start raised."""
        try:
            return self.future.result()
        finally:
            if self.future.done():
                notices.repeat(self.notices)


class Starter:
    """A thread that starts daemons, one after the other."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._identity = 0
        _served.add(self)

    def forget_in_child(self) -> None:
        """Start with a thread of this process."""
        self._thread = None

    def begin(self, make: Callable[[Beginning], Daemon], settings: Settings) -> Beginning:
        """Have a daemon started; `Beginning.take` returns it."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "dind lookahead")
        beginning = Beginning(settings)
        self._thread.submit(self._work, make, beginning)
        return beginning

    def _work(self, make: Callable[[Beginning], Daemon], beginning: Beginning) -> None:
        self._identity = threading.get_ident()
        try:
            beginning.require_wanted()
            with notices.kept() as beginning.notices:
                beginning.future.set_result(make(beginning))
        except BaseException as error:  # noqa: BLE001 (raised again by whoever takes it)
            beginning.future.set_exception(error)

    def close(self) -> None:
        """Hurry what is being started, and return when the thread has ended; all it was to start should be unwanted."""
        if self._thread is not None:
            unbroken.interrupt_thread(self._identity)
            self._thread.shutdown(wait=True)
            unbroken.forget_thread(self._identity)
            self._thread = None


class Lookahead:
    """At most so many daemons ahead, besides the one that is used."""

    def __init__(self, starter: Starter, make: Callable[[Settings], Daemon], end: Callable[[Daemon], None]) -> None:
        self._starter = starter
        self._make = make
        self._end = end
        #: How many there may be on the host engine at a time.
        self._most = 1
        self.forget_in_child()
        _served.add(self)

    def forget_in_child(self) -> None:
        """Begin with nothing: what there is has another process as its owner."""
        self._spares: list[Beginning] = []
        self._ender: ThreadPoolExecutor | None = None
        self._room = threading.Condition()  # also for what both threads and this one change
        #: How many there are on the host engine, until nothing is left of them.
        self._alive = 0
        #: How many of these are being ended.
        self._ending = 0
        self._notices: list[Notice] = []

    @property
    def alive(self) -> int:
        """How many there are, until nothing is left of them; those that are being started count, too."""
        return self._alive

    def expect(self, wanted: Sequence[Settings], ahead: int, room: int) -> None:
        """Have daemons started for what comes next, in this order; those that nobody wants any more are ended.

        :param wanted: Of the test that runs, if it has not taken its own yet, and of those after it.
        :param ahead: How many may stand by, besides the one that is used.
        :param room: How many of them the machine has room for; what lacks beyond that is started in its turn.
        """
        with self._room:
            self._most = ahead + 1
        left = list(self._spares)
        lacking = []
        for number, settings in enumerate(wanted):
            spare = next((one for one in left if one.settings == settings), None)
            if spare is not None:
                left.remove(spare)
            elif number < room:
                lacking.append(settings)
        for spare in left:
            self._drop(spare)
        for settings in lacking:
            self._spares.append(self._starter.begin(self._make_when_there_is_room, settings))

    def take(self, settings: Settings) -> Daemon:
        """Return a daemon with these settings that nobody has used: a spare one, or one that is started now.

        :raises DindError: it did not come up.
        """
        spare = next((one for one in self._spares if one.settings == settings), None)
        if spare is not None:
            daemon = self._taken(spare)
            if not daemon.ended:
                return daemon
            self.give_back(daemon)  # It has ended while it stood by, for whatever reason.
        self._make_room()
        return self._counted(settings)

    def _taken(self, spare: Beginning) -> Daemon:
        try:
            return spare.take()
        finally:
            if spare.future.done():  # Else this was interrupted, and it is still to be ended.
                self._spares.remove(spare)

    def give_back(self, daemon: Daemon) -> None:
        """End a daemon behind the back of whoever goes on; `close` says what went wrong."""
        with self._room:
            if self._ender is None:
                self._ender = ThreadPoolExecutor(1, "dind end")
            self._ending += 1
            self._ender.submit(self._end_counted, daemon)

    def adopt(self, beginning: Beginning) -> None:
        """See to the end of a daemon that was begun for something else, and that nobody will take any more."""
        self._count(1)
        beginning.future.add_done_callback(lambda future: self._count(-1) if future.exception() else None)
        beginning.future.add_done_callback(self._end_unwanted)

    def close(self) -> None:
        """End all, and return when nothing is left of them; warns of what did not end as it should."""
        for spare in list(self._spares):
            self._drop(spare)
        self._starter.close()
        if self._ender is not None:
            self._ender.shutdown(wait=True)
            self._ender = None
        notices.repeat(self._notices)

    # -- on the other threads

    def _make_when_there_is_room(self, spare: Beginning) -> Daemon:
        with self._room:
            self._room.wait_for(lambda: spare.is_unwanted or self._alive < self._most)
        spare.require_wanted()
        return self._counted(spare.settings)

    def _counted(self, settings: Settings) -> Daemon:
        self._count(1)
        try:
            return self._make(settings)
        except BaseException:
            self._count(-1)
            raise

    def _end_counted(self, daemon: Daemon) -> None:
        with notices.kept() as found:
            try:
                self._end(daemon)
            except BaseException as error:  # noqa: BLE001 (nobody waits for it; `close` says it)
                notices.warn(f"{daemon.name} did not end as it should: {type(error).__name__}: {error}")
        self._notices += found
        with self._room:
            self._ending -= 1
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._room:
            self._alive += change
            self._room.notify_all()

    def _drop(self, spare: Beginning) -> None:
        """End a spare one, as soon as it is there."""
        with self._room:
            self._spares.remove(spare)
            spare.is_unwanted = True
            self._room.notify_all()
        spare.future.add_done_callback(self._end_unwanted)

    def _end_unwanted(self, future: Future[Daemon]) -> None:
        if future.exception() is None:
            self.give_back(future.result())

    def _make_room(self) -> None:
        """Have one more daemon allowed: unless one is ending anyway, what stands by for another test goes."""
        with self._room:
            while self._spares and self._alive - self._ending >= self._most:
                self._drop(self._spares[-1])
            self._room.wait_for(lambda: self._alive < self._most)


def _forget_in_child() -> None:
    for one in list(_served):
        one.forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
