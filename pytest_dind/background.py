"""Daemons that come and go on other threads, and are waited for in the end, whatever interrupts that."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field

from . import notices, unbroken
from .daemon import Daemon
from .errors import DaemonStartError, DindWarning
from .notices import Notice
from .settings import Settings

#: What threads of this process work for; in a forked child there are none.
_served: weakref.WeakSet[Beginning | Lane] = weakref.WeakSet()


@dataclass(eq=False)
class Beginning:
    """A daemon that is being started on another thread."""

    settings: Settings
    future: Future[Daemon] = field(default_factory=Future)
    #: What there is to be warned of when it is taken.
    notices: list[Notice] = field(default_factory=list)
    #: Whether nobody will take it.
    is_unwanted: bool = False
    #: Whether it has a place among those that `Lookahead` counts.
    has_place: bool = False

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

    def take(self, end: Callable[[Daemon], None]) -> Daemon:
        """Wait until it is started, and return it; raises what its start raised, and warns of what there was.

        :param end: Ends it where nobody gets it, as a warning is an error.
        """
        try:
            daemon = self.future.result()
        except BaseException:
            if self.future.done():  # Else this was interrupted, and whoever ends it says them.
                with suppress(DindWarning):  # Where they are errors, this one comes first.
                    notices.repeat(self.notices)
            raise
        try:
            notices.repeat(self.notices)
        except BaseException:
            end(daemon)
            raise
        return daemon


class Lane:
    """A thread that does one thing after the other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.forget_in_child()
        _served.add(self)

    def forget_in_child(self) -> None:
        """Begin with a thread of this process, and nothing to do."""
        self._thread: ThreadPoolExecutor | None = None
        self._once = threading.Lock()
        self._left: set[Future[object]] = set()

    def do(self, work: Callable[[], object]) -> None:
        """Have it done, after all that it has to do already; what it raises is nobody's."""
        with self._once:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, self._name)
            future = self._thread.submit(work)
            self._left.add(future)
        future.add_done_callback(self._left.discard)

    def close(self) -> None:
        """Return when all is done and the thread has ended; what interrupts that is raised then, and not before."""
        interrupt: BaseException | None = None
        while self._thread is not None:
            try:
                while self._left:
                    wait(tuple(self._left))
                # Interrupted, it would take the thread for ended (python/cpython#90882); now that takes a moment.
                self._thread.shutdown(wait=True)
                self._thread = None
            except BaseException as error:  # noqa: BLE001 (raised again below)
                interrupt = interrupt or error
        if interrupt is not None:
            raise interrupt


class Starter:
    """A thread that starts daemons, one after the other."""

    def __init__(self, name: str) -> None:
        self._lane = Lane(name)
        self._identity = 0

    def begin(self, make: Callable[[Beginning], Daemon], settings: Settings) -> Beginning:
        """Have a daemon started; `Beginning.take` returns it."""
        beginning = Beginning(settings)
        self._lane.do(lambda: self._start(make, beginning))
        return beginning

    def _start(self, make: Callable[[Beginning], Daemon], beginning: Beginning) -> None:
        self._identity = threading.get_ident()
        try:
            beginning.require_wanted()
            with notices.kept() as beginning.notices:
                beginning.future.set_result(make(beginning))
        except BaseException as error:  # noqa: BLE001 (raised again by whoever takes it)
            beginning.future.set_exception(error)

    def close(self) -> None:
        """Hurry what is being started, and return when the thread has ended; all it was to start should be unwanted."""
        identity = self._identity
        unbroken.interrupt_thread(identity)
        try:
            self._lane.close()
        finally:
            unbroken.forget_thread(identity)


class Ender:
    """A thread that ends daemons, one after the other."""

    def __init__(self, end: Callable[[Daemon], None]) -> None:
        self._end = end
        self._lane = Lane("dind end")
        self._notices: list[Notice] = []

    def end(self, daemon: Daemon, then: Callable[[], None] = lambda: None) -> None:
        """End a daemon behind the back of whoever goes on; `close` says what went wrong.

        :param then: Called when nothing is left of it, or what is left would not go.
        """
        self._lane.do(lambda: self._end_and_note(daemon, then))

    def end_unwanted(self, beginning: Beginning, then: Callable[[], None] = lambda: None) -> None:
        """End what is still being started, as soon as it is there; nobody will take it."""
        beginning.is_unwanted = True

        def end(future: Future[Daemon]) -> None:
            self._notices += [one for one in beginning.notices if not one.harmless]
            if future.exception() is None:
                self.end(future.result(), then)

        beginning.future.add_done_callback(end)

    def _end_and_note(self, daemon: Daemon, then: Callable[[], None]) -> None:
        with notices.kept() as found:
            try:
                self._end(daemon)
            except BaseException as error:  # noqa: BLE001 (nobody waits for it; `close` says it)
                notices.warn(f"{daemon.name} did not end as it should: {type(error).__name__}: {error}")
        self._notices += found
        then()

    def close(self) -> None:
        """Return when nothing is left of any; warns of what did not end as it should."""
        self._lane.close()
        notices.repeat(self._notices)


def _forget_in_child() -> None:
    for one in list(_served):
        one.forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
