"""Where our files lie on this machine: directories that are the user's own, mode 0700, and nobody else's."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import DindError

#: The longest path of a unix socket, without its final NUL: sun_path in unix(7).
SOCKET_PATH_LIMIT = 107
_BELOW = len("/daemons/0123456789ab-4095-01234567-4194304000/docker.sock")


def sockets_dir() -> Path:
    """Return the directory in which every daemon of this user has one with its socket; its path is short enough."""
    # A daemon's socket is daemons/HOST-SLOT-TOKEN-NUMBER/docker.sock below it.
    fitting = (path for path in _runtime_candidates() if len(os.fsencode(path)) + _BELOW <= SOCKET_PATH_LIMIT)
    return _first_usable(path / "daemons" for path in fitting)


def tunnels_dir() -> Path:
    """Return the directory of the sockets that lead to engines on other machines; its path is short enough."""
    fitting = (path for path in _runtime_candidates() if len(os.fsencode(path)) + _BELOW <= SOCKET_PATH_LIMIT)
    return _first_usable(path / "tunnels" for path in fitting)


def leases_dir() -> Path:
    """Return the directory of the leases; it outlives a reboot, so that what a crashed machine left can be proved."""
    return _first_usable(path / "leases" for path in _state_candidates())


def locks_dir() -> Path:
    """Return the directory of the locks under which processes of this user take turns."""
    return _first_usable(path / "locks" for path in _state_candidates())


def builds_dir() -> Path:
    """Return the directory of the images that were built, each as `docker save` writes it."""
    return _first_usable(path / "builds" for path in _cache_candidates())


def _cache_candidates() -> Iterator[Path]:
    import platformdirs  # noqa: PLC0415

    path = platformdirs.user_cache_path("pytest-dind")
    if path.is_absolute() and path.parts[1:]:
        yield path
    # In memory, mostly: only where there is no home.
    yield Path(tempfile.gettempdir()) / f"pytest-dind-{os.geteuid()}"


def _runtime_candidates() -> Iterator[Path]:
    user = os.geteuid()
    # Not platformdirs' runtime path: it warns where there is none, as in most containers, and takes a longer one.
    for runtime in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{user}"):
        if runtime and os.path.isabs(runtime) and os.path.isdir(runtime):  # noqa: PTH112, PTH117 (a text, maybe empty)
            yield Path(runtime) / "pytest-dind"
    for temporary in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 (checked by `private`)
        yield Path(temporary) / f"pytest-dind-{user}"


def _state_candidates() -> Iterator[Path]:
    import platformdirs  # noqa: PLC0415

    path = platformdirs.user_state_path("pytest-dind")
    if path.is_absolute() and path.parts[1:]:
        yield path
    yield from _runtime_candidates()


def _first_usable(paths: Iterator[Path]) -> Path:
    refusals = []
    for path in paths:
        try:
            return private(path)
        except OSError as error:  # a home that does not exist or cannot be written, as in many CI containers
            refusals.append(str(error))
        except DindError as error:
            refusals.append(str(error))
    raise DindError(
        "no private directory for the daemons' sockets and leases: " + "; ".join(refusals) + ". "
        "Remove what is in the way, or set XDG_RUNTIME_DIR and XDG_STATE_HOME to directories of your own.",
    )


def private(path: Path) -> Path:
    """Make `path` a directory of ours with mode 0700, and refuse one that another user prepared.

    :raises DindError: it is a link, another user's, or open to others.
    :raises OSError: it cannot be made.
    """
    # First, so that nothing is made in another user's directory, as root with that user's HOME would.
    _refuse_foreign_ancestors(_existing(path.parent).resolve())
    for part in (path.parent, path):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = part.lstat()
        if not stat.S_ISDIR(info.st_mode):
            raise DindError(f"{part} is not a directory of ours but a link or a file")
        if info.st_uid != os.geteuid():
            raise DindError(f"{part} belongs to user {info.st_uid}, not to {os.geteuid()}")
    mode = stat.S_IMODE(path.lstat().st_mode)
    if mode & 0o077:
        raise DindError(f"{path} is open to others (mode {mode:04o}, not 0700)")
    _refuse_foreign_ancestors(path.parent.resolve())
    return path


def _existing(path: Path) -> Path:
    return next(part for part in (path, *path.parents) if part.exists())


def _refuse_foreign_ancestors(path: Path) -> None:
    """Whoever can rename a directory above ours can put another in its place."""
    for part in (path, *path.parents):
        info = part.stat()
        if info.st_uid not in (0, os.geteuid()):
            raise DindError(f"{part} belongs to user {info.st_uid}, not to root or {os.geteuid()}")
        if info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX:
            raise DindError(f"{part} can be written by everybody")
