"""Who owns daemons: one process, with the lease that proves that it lives."""

from __future__ import annotations

import atexit
import itertools
import os
import secrets
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

from .guard import Guard, way_to
from .host import HostEngine
from .labels import Ownership
from .locks import Lease, host_id
from .tunnel import held_open_by


@dataclass
class Owner:
    """A process that owns daemons: one worker of a run, or a plain script."""

    run: str
    worker: str
    lease: Lease
    #: The directory of the tests, or where a script runs.
    project: str = ""
    _guard: Guard | None = None
    _guard_of: int = 0

    @classmethod
    def claim(cls, run: str, worker: str, project: str = "") -> Owner:
        """Become an owner; `release` is its undo, and so is the end of the process."""
        return cls(run, worker, Lease.take(), project)

    @classmethod
    def of_process(cls) -> Owner:
        """Return the owner for daemons that are started without pytest; one for the whole process."""
        global _of_process  # noqa: PLW0603 (the lease belongs to the process, and so is held once)
        with _once:
            if _of_process is None:
                _of_process = cls.claim(secrets.token_hex(16), "script", os.environ.get("PWD", ""))
                atexit.register(_of_process.release)
            return _of_process

    @cached_property
    def ownership(self) -> Ownership:
        """What the labels of everything that it makes say."""
        return Ownership(self.run, self.worker, host_id(), self.lease.label)

    def watching(
        self, engine: HostEngine, container: str, directory: str
    ) -> AbstractContextManager[Callable[[], None]]:
        """Have a container that is being created removed, should this process be killed before it is started."""
        # A tunnel ends with this process, unless somebody holds it open.
        hold = held_open_by(engine.tunnel) if engine.tunnel else ()
        way = way_to(f"unix://{engine.tunnel.socket}" if engine.tunnel else engine.address, engine.api)
        if way is None:
            return nullcontext(lambda: None)
        with _once:
            if self._guard is None or self._guard_of != os.getpid():
                # A forked child has closed its copy of its parent's.
                self._guard, self._guard_of = Guard(hold), os.getpid()
            return self._guard.watching(way, container, directory)

    def release(self) -> None:
        """Give the lease up and end the guard; in a forked child they are its parent's."""
        if self._guard is not None and self._guard_of == os.getpid():
            self._guard.close()
            self._guard = None
        self.lease.release()

    def next_names(self) -> tuple[str, str]:
        """Return the names of the next daemon's container and of its directory."""
        number = next(_numbers)
        # The directory's is short, and enough to prove its owner dead (see sweep.py).
        directory = f"{host_id()}-{self.lease.slot}-{self.lease.token}-{number}"
        return f"pytest-dind-{self.worker}-{self.lease.token}-{number}", directory


_numbers = itertools.count(1)
_of_process: Owner | None = None
#: Threads may start their first daemons at the same time.
_once = threading.Lock()


def _forget_in_child() -> None:
    """A forked child is a process of its own, and so another owner; what its parent's holds is not the child's."""
    global _of_process, _once, _numbers  # noqa: PLW0603
    # It may go on with its parent's owner, and must not give its daemons the names of its parent's.
    _numbers = itertools.count(os.getpid() * 1000)
    _once = threading.Lock()  # Another thread may have held it.
    if _of_process is not None:
        atexit.unregister(_of_process.release)
        _inherited.append(_of_process)  # Not collected: that would give up the lease.
        _of_process = None


_inherited: list[Owner] = []
os.register_at_fork(after_in_child=_forget_in_child)
