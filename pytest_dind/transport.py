"""How a test process talks to a daemon: a unix socket in a directory that only this user can enter."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from .lifeline import Lifeline
from .places import sockets_dir

#: A request sent before the daemon serves waits in the socket's queue and is answered at the instant of readiness, so
#: this is only how often the socket is looked for until it is there.
LOOK_EVERY = 0.003
_PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class UnixSocket:
    """A directory of its own for one daemon, with the socket and a DOCKER_CONFIG in it."""

    directory: Path

    @classmethod
    def named(cls, name: str) -> UnixSocket:
        """Return the transport whose directory has a name; `make` makes it."""
        return cls(sockets_dir() / name)

    def make(self) -> None:
        """Make the directory, as it is for a daemon that has not started yet; `remove` is its undo."""
        for directory in (self.directory, self.config):
            directory.mkdir(mode=0o700, exist_ok=True)
        # Plugins such as compose may be installed for the user only; nothing else of the user's is taken over.
        plugins = Path(os.path.expanduser("~/.docker/cli-plugins"))  # noqa: PTH111 (raises nothing without a home)
        config = {"cliPluginsExtraDirs": [str(plugins)]} if plugins.is_dir() else {}
        (self.config / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def remove(self) -> None:
        """Remove the directory; no error when it is gone, which boot.sh sees to when the owner was killed."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def mark_kept(self) -> None:
        """Have the sweep leave the directory alone for as long as somebody serves there."""
        (self.directory / "kept").touch()

    @property
    def is_kept(self) -> bool:
        """Whether a daemon that was kept on purpose serves here."""
        if not (self.directory / "kept").exists():
            return False
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self.path)) == 0

    @property
    def path(self) -> Path:
        """The socket."""
        return self.directory / "docker.sock"

    @property
    def config(self) -> Path:
        """The private DOCKER_CONFIG."""
        return self.directory / "config"

    @property
    def host(self) -> str:
        """The DOCKER_HOST."""
        return f"unix://{self.path}"

    def ping(self, timeout: float) -> str:
        """Ask the daemon whether it serves; return its newest API version.

        :param timeout: Seconds to wait for the answer.
        :raises OSError: nobody answers on the socket, or not in time.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(self.path))
            connection.sendall(_PING)
            answer = b""
            while part := connection.recv(4096):
                answer += part
        head, _, _ = answer.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(f"/_ping was answered with {answer[:200]!r}")
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        return headers.get(b"api-version", b"").decode()

    def wait_ready(self, lifeline: Lifeline, deadline: float) -> str | None:
        """Wait until the daemon serves; return its newest API version, or None when it ended or the deadline passed.

        :param deadline: On the clock of time.monotonic.
        """
        while (left := deadline - time.monotonic()) > 0:
            try:
                return self.ping(left)
            except OSError:  # no socket yet, or the daemon ended with the request in its queue
                pass
            if lifeline.wait_ended(LOOK_EVERY):
                return None
        return None
