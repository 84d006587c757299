"""File locks: leases that a process holds while it lives, so that "its owner is dead" is proof, and turns at work.

A lock file is never deleted: whoever opened it before would hold a lock on a file that nobody else finds any more.
The files are numbered and used again, so there are never more of them than there were owners at one time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import progress
from .errors import DindError, LockTimeoutError
from .places import leases_dir, locks_dir, refuse_foreign, write_ours
from .unbroken import require_not_interrupted

if TYPE_CHECKING:
    from filelock import BaseFileLock

_LEASE = re.compile(r"\d+\.lock")
#: More owners than this at one time on one machine are taken for a mistake.
MOST_LEASES = 4096
#: Seconds between two looks at a lock that another process holds, and between two looks at who that is.
LOOK_EVERY = 0.02
LOOK_AT_HOLDER_EVERY = 0.5


@dataclass
class Lease:
    """A held lock, as long as this process lives; `token` tells it from those who held the same lock before."""

    slot: int
    token: str
    path: Path
    _lock: BaseFileLock

    @property
    def label(self) -> str:
        """What the label of an owned object says of the lease."""
        return f"{self.path}#{self.token}"

    def release(self) -> None:
        """Give the lease up: from now on everything that names it is proved to be without an owner."""
        self._lock.release()

    @classmethod
    def take(cls, directory: Path | None = None) -> Lease:
        """Hold the first free lease of this user."""
        directory = directory or leases_dir()
        for slot in range(MOST_LEASES):
            path = directory / f"{slot}.lock"
            lock = _held(path)
            if lock is None:
                continue
            token = secrets.token_hex(4)
            # In a file of its own, written whole: some versions of filelock empty the lock file on every attempt.
            _write_whole(_token_file(path), token)
            return cls(slot, token, path, lock)
        raise DindError(f"all {MOST_LEASES} leases in {directory} are held: are that many test processes running?")


def is_dead(label: str) -> bool:
    """Whether the owner that `label` names is proved to be dead; False in doubt."""
    text, _, token = label.rpartition("#")
    path = Path(text)
    try:
        is_free = _can_be_had(path)
    except (OSError, ValueError):  # another user's lease, which only that user or root can try; or no path at all
        return False
    # Held, and by another owner that took the lease later: its token was written before it made anything.
    return _read(_token_file(path)) not in ("", token) if is_free is False else bool(is_free)


def _can_be_had(path: Path) -> bool | None:
    """Whether nobody holds a lease; None if there is none, which proves nothing: its owner may hold what was there.

    The path comes from a label, and who may use the engine may write any: nothing but a lease is opened, and not even
    that is changed.
    """
    if not _LEASE.fullmatch(path.name) or not stat.S_ISREG(path.lstat().st_mode):
        return None
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # Said, since a child that was forked meanwhile has a copy.
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def held(
    name: str, what: str, timeout: float, by: str, check: Callable[[], object] = require_not_interrupted
) -> Iterator[None]:
    """Do what follows alone: no other process of this user holds the lock of that name meanwhile.

    The end of the process gives it up too, however it ends.

    :param name: KIND-ANYTHING. Each kind has 256 lock files, and so some names of a kind share one.
    :param what: What is done under it, for those who wait: "filling the image store".
    :param timeout: Seconds to wait for another who holds it.
    :param by: Who we are, for those who wait: the worker's name.
    :param check: Called again and again while waiting; what it raises ends that.
    :raises LockTimeoutError: another held it for all that time; says who, doing what, for how long.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415

    kind, _, rest = name.partition("-")
    path = locks_dir() / f"{kind}-{hashlib.sha256(rest.encode()).hexdigest()[:2]}.lock"
    refuse_foreign(path)
    lock = FileLock(path, mode=0o600, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _wait_for(lock, path, what, timeout, check)
    try:
        _write_whole(_token_file(path), json.dumps([by, os.getpid(), what, time.monotonic()]))
        yield
    finally:
        lock.release()


def _wait_for(lock: BaseFileLock, path: Path, what: str, timeout: float, check: Callable[[], object]) -> None:
    from filelock import Timeout  # noqa: PLC0415

    deadline, holder = time.monotonic() + timeout, _read(_token_file(path))
    with progress.stage(f"waiting for {_holder(path)[0]}") as stage:
        while True:
            left = deadline - time.monotonic()
            try:
                lock.acquire(timeout=max(0, min(left, LOOK_AT_HOLDER_EVERY)), poll_interval=LOOK_EVERY)
            except Timeout:
                check()
                if _read(_token_file(path)) != holder:  # Another's turn: it is not to be blamed for those before.
                    deadline, holder = time.monotonic() + timeout, _read(_token_file(path))
                    continue
                who, doing, seconds = _holder(path)
                if left <= 0:
                    raise LockTimeoutError(what, timeout, f"{who} has been {doing} for {seconds:.0f} s") from None
                stage.say(f"{doing} for {seconds:.0f} s")
            else:
                return


def _holder(path: Path) -> tuple[str, str, float]:
    """Return who holds a lock, what it does, and for how many seconds by now."""
    try:
        by, pid, doing, since = json.loads(_read(_token_file(path)))
    except ValueError:  # it has just taken it
        return "another process", "at it", 0.0
    return f"{by} (process {pid})", doing, max(0.0, time.monotonic() - since)


def host_id() -> str:
    """Return what tells this user's leases from those of other machines, containers and users."""
    path = leases_dir() / "id"
    refuse_foreign(path)
    if not path.exists():
        fresh = path.with_name(f"id.{os.getpid()}.{secrets.token_hex(4)}")
        _write_whole(fresh, secrets.token_hex(6))
        try:
            os.link(fresh, path)  # Fails when another process was faster; then that one's counts.
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return _read(path)


def _held(path: Path) -> BaseFileLock | None:
    from filelock import FileLock, Timeout  # noqa: PLC0415

    refuse_foreign(path)
    lock = FileLock(path, mode=0o600, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def _token_file(lock: Path) -> Path:
    return lock.with_suffix(".owner")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:  # not written yet
        return ""


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    write_ours(draft, text.encode("ascii"))
    draft.replace(path)
