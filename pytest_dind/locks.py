"""Leases: file locks that a process holds while it lives, so that "its owner is dead" is proof and not a guess.

A lock file is never deleted: whoever opened it before would hold a lock on a file that nobody else finds any more.
The files are numbered and used again, so there are never more of them than there were owners at one time.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import DindError
from .places import leases_dir

if TYPE_CHECKING:
    from filelock import BaseFileLock

#: More owners than this at one time on one machine are taken for a mistake.
MOST_LEASES = 4096


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
        if not path.is_file():
            return False  # Removed by somebody else: the owner may still hold a lock on the file that was here.
        lock = _held(path)
    except OSError:  # another user's lease, which only that user or root can try
        return False
    if lock is None:
        # Held, and by another owner that took the lease later: its token was written before it made anything.
        return _read(_token_file(path)) not in ("", token)
    lock.release()
    return True


def host_id() -> str:
    """Return what tells this user's leases from those of other machines, containers and users."""
    path = leases_dir() / "id"
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
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
    draft.replace(path)
