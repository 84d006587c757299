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
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TYPE_CHECKING = False  # Not typing's, whose import would take as long as all the others.
if TYPE_CHECKING:
    from typing import Any

    #: Where an engine is and how it is reached, as JSON can say it.
    Way = dict[str, Any]

#: Seconds in which a container may still appear that was asked for before the owner's end; a busy engine takes some.
PATIENCE = 30.0
#: Seconds that the engine may take for one answer.
ANSWER_TIMEOUT = 30.0

_open: weakref.WeakSet[Guard] = weakref.WeakSet()


def way_to(address: str, api: Any) -> Way | None:
    """Return how the guard reaches an engine; None where it cannot, and only the next run's sweep can help.

    :param api: docker-py's client of it, which knows the files of its certificates.
    """
    scheme, _, path = address.partition("://")
    if scheme in ("unix", "http+unix"):
        return {"socket": path}
    at = urllib.parse.urlsplit(api.base_url)
    if at.scheme not in ("http", "https"):
        return None
    return {
        "host": at.hostname,
        "port": at.port,
        "tls": at.scheme == "https",
        "verified": bool(api.verify),
        "authority": os.path.abspath(api.verify) if isinstance(api.verify, str) else None,  # noqa: PTH100 (a text)
        "certificate": [os.path.abspath(path) for path in api.cert or ()],  # noqa: PTH100
    }


class Guard:
    """The owner's side: starts the process, and tells it what to remove should the owner end now."""

    def __init__(self, hold: tuple[int, ...] = ()) -> None:
        """:param hold: Descriptors by which it keeps open what leads to the engine, until it has done its work."""
        # Isolated and without site: 10 ms instead of 30, and nothing of the user's environment gets in.
        command = [sys.executable, "-I", "-S", __file__]
        self._process = subprocess.Popen(  # noqa: S603 (our own file)
            command,
            stdin=subprocess.PIPE,
            # Whoever reads what a killed pytest printed must not wait for the guard, nor whoever removes its directory.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=hold,
            cwd="/",
            # A session of its own: whoever kills the owner's process group does not kill the guard with it.
            start_new_session=True,
        )
        _open.add(self)

    @contextmanager
    def watching(self, way: Way, container: str, directory: str) -> Iterator[Callable[[], None]]:
        """Have a daemon's directory removed if this process ends in the meantime.

        What is yielded is to be called before the container is created; from then on that is removed too.

        :param way: Where the engine is; see `way_to`.
        """
        self._tell("begin", way, container, directory)
        try:
            yield lambda: self._tell("create", way, container, directory)
        finally:
            self._tell("end", way, container, directory)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def close(self) -> None:
        """End the process, which has nothing to do any more."""
        _open.discard(self)
        self._process.communicate()

    def let_go(self) -> None:
        """Close this process's copy of the pipe, after a fork."""
        assert self._process.stdin is not None
        self._process.stdin.detach().close()  # type: ignore[attr-defined]

    def _tell(self, word: str, way: Way, container: str, directory: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([word, way, container, directory]).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:  # somebody killed the guard; the next run's sweep does without it
            pass


def _let_go_in_child() -> None:
    for guard in list(_open):
        guard.let_go()


os.register_at_fork(after_in_child=_let_go_in_child)


def main() -> None:
    """Read what the owner tells until it ends, and remove what it had begun."""
    begun: dict[str, tuple[str, Way, str]] = {}
    for line in sys.stdin:
        word, way, container, directory = json.loads(line)
        begun[container] = word, way, directory
    left = {name: said for name, said in begun.items() if said[0] != "end"}
    for _, _, directory in left.values():
        shutil.rmtree(directory, ignore_errors=True)
    for container, (word, way, _) in left.items():
        if word == "create":
            _remove(way, container)


def _remove(way: Way, container: str) -> None:
    """Remove a container, which may be about to appear, or to end by itself."""
    deadline = time.monotonic() + PATIENCE
    seen = False
    while time.monotonic() < deadline:
        status = _delete(way, container)
        if status == http.client.NOT_FOUND and seen:
            return
        seen = seen or status != http.client.NOT_FOUND
        time.sleep(0.05)


def _delete(way: Way, container: str) -> int:
    try:
        connection = _connection(way)
        try:
            connection.request("DELETE", f"/containers/{urllib.parse.quote(container)}?force=1&v=1")
            return connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException):  # the engine is restarting
        return http.client.SERVICE_UNAVAILABLE


def _connection(way: Way) -> http.client.HTTPConnection:
    if "socket" in way:
        connection = http.client.HTTPConnection("docker")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(ANSWER_TIMEOUT)
        connection.sock.connect(way["socket"])
        return connection
    if not way["tls"]:
        return http.client.HTTPConnection(way["host"], way["port"], timeout=ANSWER_TIMEOUT)
    import ssl  # noqa: PLC0415 (it takes as long as all else here)

    context = ssl.create_default_context(cafile=way["authority"])
    if not way["verified"]:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if way["certificate"]:
        context.load_cert_chain(*way["certificate"])
    return http.client.HTTPSConnection(way["host"], way["port"], timeout=ANSWER_TIMEOUT, context=context)


if __name__ == "__main__":
    main()
