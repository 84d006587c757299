"""A tunnel to a host engine that is reached over ssh: a unix socket here that leads to the engine's there.

docker-py has a way of its own, which needs paramiko and cannot end one direction of a stream, as the lifeline does.
"""

from __future__ import annotations

import os
import socket
import subprocess
import urllib.parse
import weakref
from pathlib import Path

from .errors import HostEngineError
from .places import tunnels_dir

#: Where an engine listens unless DOCKER_HOST says otherwise, as in ssh://host/run/user/1000/docker.sock.
_THERE = "/var/run/docker.sock"
#: Seconds in which the other side should answer.
CONNECT_TIMEOUT = 30

_open: weakref.WeakSet[Tunnel] = weakref.WeakSet()


class Tunnel:
    """An ssh process, which ends with this one: then the program that it runs on the other side reads the end."""

    def __init__(self, address: str) -> None:
        """Open the way to an address such as ssh://user@host:22; `close` is its undo, and so is the end of the process.

        :raises HostEngineError: ssh does not get there.
        """
        self.socket = _free(tunnels_dir())
        parts = urllib.parse.urlsplit(address)
        self._process = subprocess.Popen(  # noqa: S603 (no shell; what the user says comes after `--`)
            _command(parts, self.socket), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        _open.add(self)
        # Its socket is there before the program on the other side runs, which says back what it hears.
        self._say(b"ready\n")
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            said = self.close().decode(errors="replace").strip() or f"exit code {self._process.returncode}"
            raise HostEngineError(
                f"no Docker engine is reached at {address}: ssh says: {said}. It must get there without asking for "
                f"anything: 'ssh {parts.netloc} docker info' must work."
            )

    def _say(self, words: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(words)
            self._process.stdin.flush()
        except OSError:  # it has ended, and has said why
            pass

    def close(self) -> bytes:
        """End it; return what ssh has complained of."""
        _open.discard(self)
        if self._process.poll() is None:
            self._process.terminate()
        _, said = self._process.communicate()
        self.socket.unlink(missing_ok=True)
        return said

    def let_go(self) -> None:
        """Close this process's copy of the pipe, after a fork."""
        assert self._process.stdin is not None
        self._process.stdin.detach().close()  # type: ignore[attr-defined]


def _command(parts: urllib.parse.SplitResult, here: Path) -> list[str]:
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(CONNECT_TIMEOUT),
        "ExitOnForwardFailure": "yes",
        "StreamLocalBindUnlink": "yes",
    }
    given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    port = ["-p", str(parts.port)] if parts.port else []
    user = f"{parts.username}@" if parts.username else ""
    return ["ssh", "-T", *given, *port, "-L", f"{here}:{parts.path or _THERE}", "--", f"{user}{parts.hostname}", "cat"]


def _free(directory: Path) -> Path:
    """Return a path for a socket; those of processes that were killed are removed."""
    for path in directory.glob("*.sock"):
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:  # gone meanwhile, or busy
                pass
    return directory / f"{os.getpid()}-{os.urandom(4).hex()}.sock"


def _let_go_in_child() -> None:
    for tunnel in list(_open):
        tunnel.let_go()


os.register_at_fork(after_in_child=_let_go_in_child)


def held_open_by(tunnel: Tunnel) -> tuple[int, ...]:
    """Return the descriptor for whose copies another process keeps a tunnel open; none once that is the parent's."""
    try:
        return (tunnel._process.stdin.fileno(),) if tunnel._process.stdin else ()  # noqa: SLF001 (this module's own)
    except ValueError:  # let go after a fork, or closed
        return ()
