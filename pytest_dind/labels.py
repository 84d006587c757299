"""The labels that everything of ours on the host engine carries, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import __version__

#: On every object of ours; the value is the version that made it.
OURS = "pytest-dind"
RUN = "pytest-dind.run"
WORKER = "pytest-dind.worker"
#: Which lease directory the lease lies in: a lease of another machine or container proves nothing here.
HOST = "pytest-dind.host"
#: The lock file that the owner holds while it lives, and the token that it wrote beside it: `PATH#TOKEN`.
LEASE = "pytest-dind.lease"
#: What the CI system calls the build: for whoever finds something of ours, and for clean-up jobs of theirs.
BUILD = "pytest-dind.build"
#: The container that the owner runs in, on the same engine: with it the owner ends, whatever becomes of its lease.
CONTAINER = "pytest-dind.container"
#: On volumes that outlive their owner: `store`, `store-data` or `builder`. The sweep leaves them alone.
ROLE = "pytest-dind.role"
#: The key of the image store that a volume belongs to, and what the store is, as JSON; see store.py.
STORE = "pytest-dind.store"
ENTRY = "pytest-dind.store.entry"


@dataclass(frozen=True)
class Ownership:
    """Who made an object: enough for a later run to prove that its owner is dead."""

    run: str
    worker: str
    host: str
    lease: str
    build: str = ""
    container: str = ""

    def labels(self) -> dict[str, str]:
        """Return the labels to create an object with."""
        said = {RUN: self.run, WORKER: self.worker, HOST: self.host, LEASE: self.lease}
        where = {BUILD: self.build, CONTAINER: self.container}
        return {OURS: __version__, **said, **{name: value for name, value in where.items() if value}}

    @classmethod
    def read(cls, labels: Mapping[str, str] | None) -> Ownership | None:
        """Read the labels of an object; None for one that is not ours."""
        if not labels or OURS not in labels:
            return None
        return cls(*(labels.get(name, "") for name in (RUN, WORKER, HOST, LEASE, BUILD, CONTAINER)))
