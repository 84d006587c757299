"""A small process that ends after its owner, and removes what that had created and not yet started.

From its start on, a container ends with its owner through the lifeline. Before, for some milliseconds, it is only
created: a SIGKILL in that moment would leave it. The guard is told of every such moment, and sees its owner's end as
the end of its input. This file runs as a script of its own, with nothing but the standard library.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds in which a container may still appear that was asked for before the owner's end.
PATIENCE = 5.0

_open: weakref.WeakSet[Guard] = weakref.WeakSet()


class Guard:
    """The owner's side: starts the process, and tells it what to remove should the owner end now."""

    def __init__(self) -> None:
        # Isolated and without site: 10 ms instead of 30, and nothing of the user's environment gets in.
        command = [sys.executable, "-I", "-S", __file__]
        # A session of its own: whoever kills the owner's process group does not kill the guard with it.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 (our file)
        _open.add(self)

    @contextmanager
    def watching(self, engine_socket: str, container: str, directory: str) -> Iterator[None]:
        """Have a container and its socket directory removed if this process ends in the meantime."""
        self._tell("begin", engine_socket, container, directory)
        try:
            yield
        finally:
            self._tell("end", engine_socket, container, directory)

    def close(self) -> None:
        """End the process, which has nothing to do any more."""
        _open.discard(self)
        self._process.communicate()

    def let_go(self) -> None:
        """Close this process's copy of the pipe, after a fork."""
        assert self._process.stdin is not None
        self._process.stdin.detach().close()  # type: ignore[attr-defined]

    def _tell(self, *words: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(words).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:  # somebody killed the guard; the next run's sweep does without it
            pass


def _let_go_in_child() -> None:
    for guard in list(_open):
        guard.let_go()


os.register_at_fork(after_in_child=_let_go_in_child)


def main() -> None:
    """Read what the owner tells until it ends, and remove what it had begun."""
    begun: dict[str, tuple[str, str]] = {}
    for line in sys.stdin:
        word, engine_socket, container, directory = json.loads(line)
        if word == "begin":
            begun[container] = engine_socket, directory
        else:
            begun.pop(container, None)
    for container, (engine_socket, directory) in begun.items():
        _remove(engine_socket, container)
        shutil.rmtree(directory, ignore_errors=True)


def _remove(engine_socket: str, container: str) -> None:
    """Remove a container, which may be about to appear, or to end by itself."""
    deadline = time.monotonic() + PATIENCE
    seen = False
    while time.monotonic() < deadline:
        status = _delete(engine_socket, container)
        if status == http.client.NOT_FOUND and seen:
            return
        seen = seen or status != http.client.NOT_FOUND
        time.sleep(0.05)


def _delete(engine_socket: str, container: str) -> int:
    connection = http.client.HTTPConnection("docker")
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(engine_socket)
        connection.request("DELETE", f"/containers/{urllib.parse.quote(container)}?force=1&v=1")
        return connection.getresponse().status
    except OSError:  # the engine is restarting
        return http.client.SERVICE_UNAVAILABLE
    finally:
        connection.close()


if __name__ == "__main__":
    main()
