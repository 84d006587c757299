"""Who owns daemons: one process, with the lease that proves that it lives."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cached_property

from .labels import Ownership
from .locks import Lease, host_id


@dataclass
class Owner:
    """A process that owns daemons: one worker of a run, or a plain script."""

    run: str
    worker: str
    lease: Lease

    @classmethod
    def claim(cls, run: str, worker: str) -> Owner:
        """Become an owner; `lease.release` is its undo, and so is the end of the process."""
        return cls(run, worker, Lease.take())

    @classmethod
    def of_process(cls) -> Owner:
        """Return the owner for daemons that are started without pytest; one for the whole process."""
        global _of_process  # noqa: PLW0603 (the lease belongs to the process, and so is held once)
        if _of_process is None:
            _of_process = cls.claim(secrets.token_hex(16), "script")
        return _of_process

    @cached_property
    def ownership(self) -> Ownership:
        """What the labels of everything that it makes say."""
        return Ownership(self.run, self.worker, host_id(), self.lease.label)

    def directory_name(self, number: int) -> str:
        """Return the name of a daemon's directory: short, and enough to prove its owner dead (see sweep.py)."""
        return f"{host_id()}-{self.lease.slot}-{self.lease.token}-{number}"


_of_process: Owner | None = None
