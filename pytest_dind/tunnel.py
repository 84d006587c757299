"""The way to a host engine that is reached over ssh: its socket as one here, and its machine's own ports as ports here.

docker-py has a way of its own, which needs paramiko and cannot end one direction of a stream, as the lifeline does.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import socket
import subprocess
import tempfile
import time
import urllib.parse
import weakref
from pathlib import Path

from .errors import HostEngineError
from .places import tunnels_dir

#: Where an engine listens unless DOCKER_HOST says otherwise, as in ssh://host/run/user/1000/docker.sock.
_THERE = "/var/run/docker.sock"
_HERE = "127.0.0.1"
#: Seconds in which the other side should answer.
CONNECT_TIMEOUT = 30
#: Seconds after which a silent connection is asked for a sign of life, so that firewalls do not forget it.
_ALIVE_EVERY = 30
#: Seconds between attempts at a server that has too many logins to deal with, as when all workers come at once; each
#: more or less by half. https://man.openbsd.org/sshd_config#MaxStartups
_PAUSES = (0.2, 0.4, 0.8, 1.6, 3.2)
_BUSY = re.compile("kex_exchange_identification|Connection reset|Connection closed by")
#: Attempts at a port of this machine that seemed to be free.
_PORTS = 5
#: Seconds in which our own ssh process should do what it is asked for.
_ANSWER_TIMEOUT = 30

_open: weakref.WeakSet[Tunnel] = weakref.WeakSet()


class Tunnel:
    """An ssh process, which ends with this one: then the program that it runs on the other side reads the end.

    It is a connection of its own, whatever the user's configuration shares or forwards, and the master of what is
    carried through it. https://man.openbsd.org/ssh_config#ControlMaster
    """

    def __init__(self, address: str) -> None:
        """Open the way to an address such as ssh://user@host:22; `close` is its undo, and so is the end of the process.

        :raises HostEngineError: ssh does not get there.
        """
        self.address = address
        self.socket = _free(tunnels_dir())
        self._control = self.socket.with_suffix(".ssh.sock")
        self._parts = urllib.parse.urlsplit(address)
        try:
            said = self._begin_patiently() or self._ask("forward", f"{self.socket}:{self._parts.path or _THERE}")
        except BaseException:
            self.close()
            raise
        if said:
            self.close()
            raise HostEngineError(
                f"no Docker engine is reached at {address}: ssh says: {said}. It must get there without asking for "
                f"anything: 'ssh {self._parts.netloc} docker info' must work."
            )

    def _begin_patiently(self) -> str:
        said = self._begin()
        for pause in _PAUSES:
            if not _BUSY.search(said):
                break
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 (no secret)
            said = self._begin()
        return said

    def _begin(self) -> str:
        """Start ssh; return what it has against it, nothing when it is there."""
        own = {"ControlMaster": "yes", "ControlPath": _plain(self._control), "ControlPersist": "no"}
        # No pipe for its complaints: one that nobody reads fills, and then it stands still.
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)
        self._process = subprocess.Popen(  # noqa: S603 (no shell; what the user says comes after `--`)
            [*self._ssh({**own, "ClearAllForwardings": "yes"}), *self._target(), "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            # A session of its own: Ctrl-C in a terminal is for us, who need it for the clean-up.
            start_new_session=True,
        )
        _open.add(self)
        # The program on the other side says back what it hears, after whatever a login there says.
        self._say(b"ready\n")
        assert self._process.stdout is not None
        if any(line == b"ready\n" for line in self._process.stdout):
            return ""
        return self._end() or f"exit code {self._process.returncode}"

    def _ssh(self, options: dict[str, str]) -> list[str]:
        common = {
            "BatchMode": "yes",
            "ConnectTimeout": str(CONNECT_TIMEOUT),
            "ExitOnForwardFailure": "yes",
            # Below, it does not say in every case that the connection was closed.
            "LogLevel": "INFO",
            "ServerAliveInterval": str(_ALIVE_EVERY),
        }
        return [
            "ssh",
            "-T",
            *(part for name, value in {**common, **options}.items() for part in ("-o", f"{name}={value}")),
        ]

    def _target(self) -> list[str]:
        port = ["-p", str(self._parts.port)] if self._parts.port else []
        user = f"{self._parts.username}@" if self._parts.username else ""
        return [*port, "--", f"{user}{self._parts.hostname}"]

    def _say(self, words: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(words)
            self._process.stdin.flush()
        except OSError:  # it has ended, and has said why
            pass

    def _ask(self, what: str, way: str) -> str:
        """Have the ssh process `forward` or `cancel` a way, HERE:THERE; return what it has against it."""
        # None of the user's configuration: what that forwards is not wanted. The host is not looked at.
        command = ["ssh", "-F", "none", "-S", _plain(self._control), "-O", what, "-L", way, "--", "it"]
        try:
            done = subprocess.run(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_ANSWER_TIMEOUT,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            return str(error)
        return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else ""

    # -- ports

    def carry(self, port: int, wanted: int | None = None) -> int:
        """Lead a port of 127.0.0.1 here to one of 127.0.0.1 there; `drop` is its undo, and so is the end of ssh.

        :param wanted: The port here, if it is free.
        :returns: The port here.
        :raises HostEngineError: ssh does not do it.
        """
        said = ""
        for here in [*filter(None, [wanted]), *(_free_port() for _ in range(_PORTS))]:
            said = self._ask("forward", f"{_HERE}:{here}:{_HERE}:{port}")
            if not said:
                return here
        raise HostEngineError(f"ssh does not carry port {port} of {_HERE} at {self.address} to here: {said}")

    def drop(self, here: int, port: int) -> None:
        """Lead it there no longer; no error when the connection has ended."""
        self._ask("cancel", f"{_HERE}:{here}:{_HERE}:{port}")

    def leave(self, here: int, port: int, container: str) -> None:
        """Lead a port there for as long as a container runs, also when this process has ended."""
        self.drop(here, port)
        engine = ["-H", f"unix://{self._parts.path}"] if self._parts.path else []
        waits = shlex.join(["docker", *engine, "wait", container])
        own = {"ControlMaster": "no", "ControlPath": "none"}
        command = ["ssh", "-f", *self._ssh(own)[1:], "-L", f"{_HERE}:{here}:{_HERE}:{port}", *self._target(), waits]
        # No pipe, which it would hold open.
        quiet = subprocess.DEVNULL
        subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, check=False, start_new_session=True)  # noqa: S603

    # -- its end

    def close(self) -> None:
        """End it."""
        self._end()

    def _end(self) -> str:
        """End it; return what ssh has complained of."""
        _open.discard(self)
        if self._complaints.closed:
            return ""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.communicate()
        self.socket.unlink(missing_ok=True)
        with self._complaints:
            self._complaints.seek(0)
            return self._complaints.read().decode(errors="replace").strip()

    def let_go(self) -> None:
        """Close this process's copy of the pipe, after a fork."""
        assert self._process.stdin is not None
        self._process.stdin.detach().close()  # type: ignore[attr-defined]


def _plain(path: Path) -> str:
    return str(path).replace("%", "%%")  # https://man.openbsd.org/ssh_config#TOKENS


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((_HERE, 0))
        return int(found.getsockname()[1])


def _free(directory: Path) -> Path:
    """Return a path for a socket; those of processes that were killed are removed."""
    for path in directory.glob("*.sock"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_TIMEOUT)
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
