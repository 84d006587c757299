"""The stream attached to a daemon's container: while its owner holds it, the daemon lives, and its log comes out.

The container's stdin is opened once. When its owner lets go, or is killed and the kernel does so, boot.sh reads the end
of its input and ends, and with it everything in the container.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import weakref
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO

#: Bytes of log that are kept; the oldest go first.
MOST_LOG = 4 * 1024 * 1024
#: Bytes after which a line is cut in two.
MOST_LINE = 64 * 1024
#: The engine's frame: stream, three zeros, length. https://docs.docker.com/reference/api/engine/#tag/Container/operation/ContainerAttach
_HEADER = 8
#: What an answer of boot.sh begins with, and all of it: a number, and what is said to that.
_ANSWER = b"pytest-dind: fit "
_ANSWERS = re.compile(_ANSWER + rb"(\d+) ([^\n]*)\n")

_open: weakref.WeakSet[Lifeline] = weakref.WeakSet()


class Lifeline:
    """An attached stream; reads the log on a thread of its own until the container ends.

    :param copy: A file that gets the whole log too, as it comes; after what is in it.
    """

    def __init__(self, stream: Any, name: str, copy: Path | None = None) -> None:
        # docker-py hands out the file object of the connection; the socket is below it.
        self._stream = stream
        self._socket: socket.socket = getattr(stream, "_sock", stream)
        self._socket.settimeout(None)
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._size = 0
        self._partial = b""
        self._changed = threading.Condition()
        self._ended = False
        self._asked = 0
        self._answers: dict[str, str] = {}
        self._copy = _opened(copy) if copy else None
        self._reader = threading.Thread(target=self._read, name=f"{name} log", daemon=True)
        _open.add(self)
        self._reader.start()

    @property
    def ended(self) -> bool:
        """Whether the container has ended."""
        return self._ended

    def wait_ended(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the end of the container; True when it has come."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, timeout)

    def say(self, word: str) -> None:
        """Tell boot.sh a word: `keep`, or `own DIRECTORY`."""
        try:
            self._socket.sendall(os.fsencode(word.replace("\n", " ") + "\n"))
        except OSError:  # the container ended meanwhile
            pass

    def ask(self, question: str, *words: str) -> str:
        """Ask boot.sh something; return the number with which `answer` waits for what it says to that."""
        self._asked += 1
        self.say(" ".join((question, str(self._asked), *words)))
        return str(self._asked)

    def answer(self, number: str, timeout: float) -> str | None:
        """Return the answer to a question; None if it has not come after `timeout` seconds, or the container ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or number in self._answers, timeout)
            return self._answers.pop(number, None)

    def let_go(self) -> None:
        """End the container's input, and so the container; its log can still be read."""
        try:
            # Of a connection with TLS, its own method would end the encryption for both directions.
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
        except OSError:  # the container ended meanwhile
            pass

    def close(self) -> None:
        """Close the stream and end its thread; what is still running in the container ends too."""
        _open.discard(self)
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # closed already, or the other side was faster
            pass
        self._reader.join(timeout=10)
        # docker-py hangs the response on the stream; closing that closes both, and the other way round fails.
        getattr(self._stream, "_response", self._stream).close()

    def position(self) -> int:
        """Where the log is now: how many lines have come so far."""
        with self._changed:
            return self._dropped + len(self._lines)

    def log(self, since: int = 0) -> str:
        """Return the log from a position on; the last 4 MiB are kept."""
        with self._changed:
            lines = list(self._lines)[max(0, since - self._dropped) :]
            lines += [self._partial] if self._partial else []
        return "".join(line.decode(errors="replace") + "\n" for line in lines)

    def _read(self) -> None:
        try:
            while header := self._exactly(_HEADER):
                data = self._exactly(int.from_bytes(header[4:], "big"))
                if _ANSWER in data:
                    data = self._without_answers(data)
                self._write(data)
                self._add(data)
        except OSError:  # closed under the reader, or the host engine went away
            pass
        finally:
            if self._copy is not None:
                self._copy.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _without_answers(self, data: bytes) -> bytes:
        """Hear the answers in what boot.sh said, each of which it wrote at once; they are not of the daemon's log."""
        with self._changed:
            for number, said in _ANSWERS.findall(data):
                self._answers[number.decode()] = said.decode(errors="replace").strip()
            self._changed.notify_all()
        return _ANSWERS.sub(b"", data)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                return b""
            data += part
        return data

    def _write(self, data: bytes) -> None:
        try:
            if self._copy is not None:
                self._copy.write(data)
        except OSError:  # no room is left there; what tests see of the log does not depend on it
            pass

    def _add(self, data: bytes) -> None:
        with self._changed:
            *whole, self._partial = (self._partial + data).split(b"\n")
            if len(self._partial) > MOST_LINE:  # one without end must not fill the memory
                whole.append(self._partial)
                self._partial = b""
            self._lines.extend(whole)
            self._size += sum(len(line) + 1 for line in whole)
            while self._size > MOST_LOG:
                self._size -= len(self._lines.popleft()) + 1
                self._dropped += 1


def _opened(path: Path) -> BinaryIO | None:
    """Open a file to add to, each write at once: whoever is killed has written all; None where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The directory may be open to others, and the name can be guessed: whatever is linked there stays as it is.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        return os.fdopen(descriptor, "ab", buffering=0)
    except OSError:  # it could be written when the settings were checked
        return None


def _let_go_in_child() -> None:
    """A forked child holds copies of the streams; a daemon must not outlive its owner for that."""
    for lifeline in list(_open):
        try:
            os.close(lifeline._socket.detach())  # noqa: SLF001 (detached, so that no destructor closes the number again)
        except OSError:  # closed before the fork
            pass


os.register_at_fork(after_in_child=_let_go_in_child)
