"""How a worker's progress reaches the controller while it runs: datagrams, since xdist refuses events it does not know.

The socket has an abstract name (unix(7)), so that nothing is left of it however the run ends. The kernel tells who sent
a datagram, and those of other users are not looked at. Where nobody listens, on another machine, this does nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable

from .progress import EVERY, Shown

#: What is sent at most; it is shown on one line.
MOST_TEXT = 500
#: Linux's struct ucred, see unix(7): pid, uid, gid.
_CREDENTIALS = struct.Struct("iII")

#: Called with a worker's name and what there is to show of it.
Hear = Callable[[str, "Shown | None"], None]


def address_of(run: str, controller: int) -> bytes:
    """Return where the controller of a run listens: what only its workers know, and never that of another run.

    :param controller: Its process id; two runs may have been given the same `--testrunuid`.
    """
    secret = f"{os.geteuid()} {controller} {run}"
    return b"\0pytest-dind-" + hashlib.sha256(secret.encode()).hexdigest()[:32].encode()


def send(address: bytes, worker: str, shown: Shown | None) -> None:
    """Tell the controller what a worker is at; never waits, and is lost where nobody listens."""
    data = None if shown is None else [shown.number, shown.text[:MOST_TEXT], shown.detail[:MOST_TEXT], shown.seconds]
    # A socket for each, twice a second at most: none is left open, and none shared with a forked child.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto(json.dumps([worker, data]).encode(), address)
        except OSError:  # nobody listens, or does not keep up
            pass


class Receiver(threading.Thread):
    """The controller's end: a thread that hears workers until `close`."""

    def __init__(self, address: bytes, hear: Hear, look: Callable[[], None]) -> None:
        """:param look: Called when nothing was heard for a while, to find out who has fallen silent."""
        super().__init__(name="pytest-dind-relay", daemon=True)
        self._hear = hear
        self._look = look
        self._address = address
        self._ended = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._socket.bind(address)
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(EVERY)

    def run(self) -> None:
        """Hear workers."""
        while not self._ended:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(8 * MOST_TEXT, socket.CMSG_SPACE(_CREDENTIALS.size))
            except TimeoutError:
                self._look()
                continue
            if any(_is_ours(*one) for one in ancillary):
                self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            worker, fields = json.loads(data)
            shown = None if fields is None else Shown(*fields)
        except (ValueError, TypeError):  # of another version of this package
            return
        self._hear(worker, shown)

    def close(self) -> None:
        """End the thread and close the socket."""
        self._ended = True
        # Shutting its socket down would not wake it: for datagrams there is no end of file.
        send(self._address, "", None)
        self.join()
        self._socket.close()


def _is_ours(level: int, kind: int, data: bytes) -> bool:
    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
        return False
    _, user, _ = _CREDENTIALS.unpack(data)
    return bool(user == os.geteuid())
