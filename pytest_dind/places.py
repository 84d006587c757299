"""Where our files lie on this machine: directories that are the user's own, mode 0700, and nobody else's.

Some lie in /tmp, where everybody may have put something in their place before. What is a link, another user's or open
to others is refused, and so is a place where another user could exchange it between our look and our use.
"""

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
    return _first_usable("sockets of daemons", "XDG_RUNTIME_DIR", (path / "daemons" for path in fitting))


def tunnels_dir() -> Path:
    """Return the directory of the sockets that lead to engines on other machines; its path is short enough."""
    fitting = (path for path in _runtime_candidates() if len(os.fsencode(path)) + _BELOW <= SOCKET_PATH_LIMIT)
    return _first_usable("tunnels to engines", "XDG_RUNTIME_DIR", (path / "tunnels" for path in fitting))


def leases_dir() -> Path:
    """Return the directory of the leases; it outlives a reboot, so that what a crashed machine left can be proved."""
    return _first_usable("leases", "XDG_STATE_HOME", (path / "leases" for path in _state_candidates()))


def locks_dir() -> Path:
    """Return the directory of the locks under which processes of this user take turns."""
    return _first_usable("locks", "XDG_STATE_HOME", (path / "locks" for path in _state_candidates()))


def builds_dir() -> Path:
    """Return the directory of the images that were built, each as `docker save` writes it."""
    return _first_usable("builds", "XDG_CACHE_HOME", (path / "builds" for path in _cache_candidates()))


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


def _first_usable(what: str, variable: str, paths: Iterator[Path]) -> Path:
    refusals = []
    for path in paths:
        try:
            return private(path)
        except OSError as error:  # a home that does not exist or cannot be written, as in many CI containers
            refusals.append(str(error))
        except DindError as error:
            refusals.append(str(error))
    raise DindError(
        f"no private directory for the {what}: " + "; ".join(dict.fromkeys(refusals)) + ". "
        f"Remove what is in the way, or set {variable} to a directory of your own.",
    )


def private(path: Path) -> Path:
    """Make `path` a directory of ours with mode 0700, and refuse one that another user prepared.

    :raises DindError: it is a link, another user's, or open to others.
    :raises OSError: it cannot be made.
    """
    # First, so that nothing is made in another user's directory, as root with that user's HOME would.
    _refuse_foreign_ancestors(_existing(path.parent))
    for part in reversed(path.parent.parents):
        if not part.exists():  # Not `parents=True`, which leaves the mode of those to the umask.
            part.mkdir(mode=0o700, exist_ok=True)
    for part in (path.parent, path):
        if not os.path.lexists(part):
            part.mkdir(mode=0o700, exist_ok=True)
        info = part.lstat()
        if not stat.S_ISDIR(info.st_mode):
            raise DindError(f"{part} is not a directory of ours but a link or a file")
        if info.st_uid != os.geteuid():
            raise DindError(f"{part} belongs to user {info.st_uid}, not to {os.geteuid()}")
    mode = stat.S_IMODE(path.lstat().st_mode)
    if mode & 0o077:
        raise DindError(f"{path} is open to others (mode {mode:04o}, not 0700)")
    if path.parent.stat().st_mode & (stat.S_IWGRP | stat.S_ISVTX) == stat.S_IWGRP:
        raise DindError(f"{path.parent} can be written by its group")
    _refuse_foreign_ancestors(path.parent)
    return path


def _existing(path: Path) -> Path:
    return next(part for part in (path, *path.parents) if part.exists())


def _refuse_foreign_ancestors(path: Path) -> None:
    """Whoever can rename a directory above ours, or turn a link on the way to it, can put another in its place."""
    real = path.resolve()
    for part in dict.fromkeys((path, *path.parents, real, *real.parents)):
        info = part.lstat()
        if info.st_uid not in (0, os.geteuid()):
            raise DindError(f"{part} belongs to user {info.st_uid}, not to root or {os.geteuid()}")
        if stat.S_ISDIR(info.st_mode) and info.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
            raise DindError(f"{part} can be written by everybody")


# -- files in them


def refuse_foreign(path: Path) -> None:
    """Refuse a file that somebody else has put, or can write, where one of ours is to be; none there is well.

    :raises DindError: it is a link, no file, another user's, or others can write it.
    """
    try:
        info = path.lstat()
    except FileNotFoundError:
        return
    mode = stat.S_IMODE(info.st_mode)
    finding = ""
    if stat.S_ISLNK(info.st_mode):
        finding = f"is a link, to {os.readlink(path)}"  # noqa: PTH115 (as it is written there)
    elif not stat.S_ISREG(info.st_mode):
        finding = f"is no regular file ({stat.filemode(info.st_mode)})"
    elif info.st_uid != os.geteuid():
        finding = f"belongs to user {info.st_uid}, not to {os.geteuid()}"
    elif mode & 0o022:
        finding = f"can be written by others (mode {mode:04o}, not 0600)"
    if finding:
        raise DindError(f"{path} {finding}: pytest-dind has not put it there and does not use it. Remove it.")


def open_ours(path: Path, flags: int) -> int:
    """Open a file in a directory of ours, made with mode 0600 if it is not there; return the descriptor.

    :raises DindError: it is none of ours, see `refuse_foreign`.
    """
    refuse_foreign(path)
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def write_ours(path: Path, content: bytes) -> None:
    """Write a file in a directory of ours, for the user alone.

    :raises DindError: what is there is none of ours, see `refuse_foreign`.
    """
    with os.fdopen(open_ours(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write(content)
