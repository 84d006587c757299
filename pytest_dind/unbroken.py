"""Work that an interrupt of the calling thread never breaks in its middle: it is done as a whole, or undone."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable


def do(work: Callable[[], object], undo: Callable[[], object], hurry: Callable[[], object], name: str) -> None:
    """Do work on a thread of its own; undo it when it fails, or when this thread is interrupted meanwhile.

    An interrupt (Ctrl-C, a test's time limit) is raised again when all is undone; more of them change nothing.

    :param hurry: Makes the work end soon; called on every interrupt.
    """
    job = _Job(work, undo)
    try:
        require_not_interrupted()  # From now on who interrupts this thread finds the job.
    except KeyboardInterrupt:
        job.forget()
        raise
    _do(job, undo, hurry, name)


def _do(job: _Job, undo: Callable[[], object], hurry: Callable[[], object], name: str) -> None:
    # In this context: what is kept of its warnings is kept of those that come from there.
    run = contextvars.copy_context().run
    interrupt = job.wait(threading.Thread(target=run, args=(job.run,), name=name, daemon=True), hurry)
    if interrupt is not None:
        if job.is_done:
            _do(_Job(undo, _nothing), _nothing, _nothing, name)
        raise interrupt
    if job.failures:
        raise job.failures[0]


#: The jobs that threads wait for, and the threads that are to begin none.
_waiting: dict[int, _Job] = {}
_interrupted: set[int] = set()


def require_not_interrupted() -> None:
    """Go no further on a thread that has been interrupted.

    :raises KeyboardInterrupt: it has.
    """
    if threading.get_ident() in _interrupted:
        raise KeyboardInterrupt


def forget_thread(thread: int) -> None:
    """Hear that a thread has ended; another may get its identity."""
    _interrupted.discard(thread)


def interrupt_thread(thread: int) -> None:
    """Interrupt a thread, known by its identity, as Ctrl-C does the main one: in work here, or before it begins any."""
    _interrupted.add(thread)
    job = _waiting.get(thread)
    if job is not None:
        job.wake()


class _Job:
    def __init__(self, work: Callable[[], object], undo: Callable[[], object]) -> None:
        self._work = work
        self._undo = undo
        # Both threads may have a say here, and what was said first counts: appending to a list is atomic.
        self._beginning: list[str] = []
        self._end: list[str] = []
        self._over = threading.Event()
        self._woken = threading.Event()
        self.failures: list[BaseException] = []
        self._waits_for_it = threading.get_ident()
        _waiting[self._waits_for_it] = self

    @property
    def is_done(self) -> bool:
        """Whether the work was done before anything interrupted it."""
        return self._end[0] == "done" and not self.failures

    def run(self) -> None:
        self._beginning.append("begun")
        if self._beginning[0] != "begun":
            return
        self._attempt(self._work)
        self._end.append("done")
        if not self.is_done:
            self._attempt(self._undo)
        self.forget()
        self._over.set()
        self._woken.set()

    def forget(self) -> None:
        """Have nobody wake the thread that waits any more: it is over, or never begins."""
        _waiting.pop(self._waits_for_it, None)

    def wake(self) -> None:
        """Interrupt the thread that waits."""
        self._woken.set()

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (raised again by the thread that waits)
            self.failures.append(error)

    def wait(self, thread: threading.Thread, hurry: Callable[[], object]) -> BaseException | None:
        interrupt = None
        while not self._over.is_set():
            try:
                if interrupt is None:
                    thread.start()
                # Not thread.join(): interrupted once, it takes the thread for ended (python/cpython#90882).
                self._woken.wait()
                if not self._over.is_set():
                    self._woken.clear()
                    raise KeyboardInterrupt  # noqa: TRY301 (as if it had come from outside)
            except BaseException as error:
                interrupt = interrupt or error
                self._beginning.append("interrupted")
                if self._beginning[0] == "interrupted":
                    raise  # It has not begun, and now never will.
                self._end.append("interrupted")
                hurry()
        return interrupt


def _nothing() -> None:
    pass
