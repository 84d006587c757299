"""How a test process talks to a daemon: over a unix socket, or what every other transport shares with that."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .lifeline import Lifeline
from .places import sockets_dir

if TYPE_CHECKING:
    import docker

#: A request sent before the daemon serves waits in the socket's queue and is answered at the instant of readiness, so
#: this is only how often the socket is looked for until it is there.
LOOK_EVERY = 0.003
#: Seconds in which a kept daemon's address takes a connection, if it still runs.
_KEPT_TIMEOUT = 2
_PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"


class Transport(ABC):
    """A directory of its own for one daemon, with a DOCKER_CONFIG in it, and the way to the daemon."""

    #: Seconds after which a request to a daemon that has not served yet is better sent anew.
    patience = float("inf")

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: Why the last request had no answer.
        self.failure = ""

    def make(self) -> None:
        """Make the directory, as it is for a daemon that has not started yet; `remove` is its undo."""
        for directory in (self.directory, self.config):
            directory.mkdir(mode=0o700, exist_ok=True)
        # Plugins such as compose may be installed for the user only; nothing else of the user's is taken over.
        plugins = Path(os.path.expanduser("~/.docker/cli-plugins"))  # noqa: PTH111 (raises nothing without a home)
        config = {"cliPluginsExtraDirs": [str(plugins)]} if plugins.is_dir() else {}
        (self.config / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def belong_to(self, lease: str) -> None:
        """Write down whose the directory is: any run of this user, whatever its home, can then prove that one dead."""
        path = self.directory / "lease"
        path.touch(mode=0o600)
        path.write_text(lease, encoding="utf-8")

    @property
    def lease(self) -> str:
        """The label of the lease of whoever the directory belongs to; nothing where that was not written down."""
        try:
            return (self.directory / "lease").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def remove(self) -> None:
        """Remove the directory; no error when it is gone, which boot.sh sees to when the owner was killed."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def mark_kept(self) -> None:
        """Have the sweep leave the directory alone for as long as somebody serves at the daemon's address."""
        (self.directory / "kept").write_text(self.host, encoding="utf-8")

    @property
    def is_kept(self) -> bool:
        """Whether a daemon that was kept on purpose serves here, over whichever transport."""
        try:
            kept = urllib.parse.urlsplit((self.directory / "kept").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        family, address = socket.AF_UNIX, kept.path or str(self.directory / "docker.sock")
        target: Any = address
        if kept.scheme == "tcp":
            family = socket.AF_INET6 if ":" in str(kept.hostname) else socket.AF_INET
            target = kept.hostname, kept.port
        with socket.socket(family) as connection:
            connection.settimeout(_KEPT_TIMEOUT)
            return connection.connect_ex(target) == 0

    @property
    def config(self) -> Path:
        """The private DOCKER_CONFIG."""
        return self.directory / "config"

    # -- what the container needs

    @property
    def mounts(self) -> tuple[Path, ...]:
        """Paths of this machine that the container sees at the same place."""
        return ()

    @property
    def ports(self) -> Mapping[str, list[dict[str, str]]]:
        """Ports of the container that are published, as the engine's `PortBindings`."""
        return {}

    @property
    def network(self) -> str | None:
        """The network that the container must be on; None if any will do."""
        return None

    def started(  # noqa: B027 (nothing, where nothing is said)
        self, name: str, lifeline: Lifeline, inspect: Callable[[], Mapping[str, Any] | None]
    ) -> None:
        """Do what can only be done when the container runs.

        :param inspect: Asks the engine what it knows of the container; None if it is gone.
        """

    def published(self, port: int) -> tuple[str, int] | None:  # noqa: ARG002 (where any is)
        """Return where a port of the container other than its API's is reached; None if it is not published."""
        return None

    def is_taken(self, answer: str) -> bool:  # noqa: ARG002 (where there is an address to be taken)
        """Whether the engine refused the container for an address that another time will not be asked for."""
        return False

    def leave(self, container: str) -> None:  # noqa: B027 (nothing, where the engine's machine is reached as such)
        """Have what leads to the daemon outlive this process, for as long as its container runs."""

    # -- the way to the daemon

    @property
    @abstractmethod
    def host(self) -> str:
        """The DOCKER_HOST."""

    def variables(self) -> dict[str, str]:
        """Return what clients must know, in the environment, besides DOCKER_HOST and DOCKER_CONFIG."""
        return {}

    def connect(self, api_version: str, timeout: int) -> docker.DockerClient:
        """Return a new client of the daemon; close it.

        :param timeout: Seconds that an answer may take.
        """
        import docker  # noqa: PLC0415

        client = docker.DockerClient(base_url=self.host, version=api_version, timeout=timeout)
        client.api.trust_env = False  # What it would look for there, threads could not; see context.py.
        return client

    def redirect(self, client: docker.DockerClient) -> None:  # noqa: B027 (nothing, where the address is the same)
        """Lead a client of `connect` to where the daemon is after it was started anew."""

    @abstractmethod
    def _dial(self, timeout: float) -> socket.socket:
        """Open a connection, whose every answer may take `timeout` seconds."""

    def ping(self, timeout: float) -> str:
        """Ask the daemon whether it serves; return its newest API version.

        :param timeout: Seconds to wait for the answer.
        :raises OSError: nobody answers at its address, or not in time.
        """
        with self._dial(timeout) as connection:
            connection.sendall(_PING)
            answer = b""
            while part := connection.recv(4096):
                answer += part
        head, _, _ = answer.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(f"/_ping was answered with {answer[:200]!r}")
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        return headers.get(b"api-version", b"").decode()

    def is_out_of_reach(self, lifeline: Lifeline) -> bool:  # noqa: ARG002 (where there is a network between)
        """Whether the daemon serves, as its log says, and is not reached from here."""
        return False

    def wait_ready(self, lifeline: Lifeline, deadline: float) -> str | None:
        """Wait until the daemon serves; return its newest API version, None if it ended, or is late or out of reach.

        :param deadline: On the clock of time.monotonic.
        """
        patience = self.patience
        while (left := deadline - time.monotonic()) > 0:
            try:
                return self.ping(min(left, patience))
            except TimeoutError as error:
                self.failure, patience = str(error), 2 * patience
            except OSError as error:  # no socket yet, or the daemon ended with the request in its queue
                self.failure = str(error)
            if lifeline.wait_ended(LOOK_EVERY) or self.is_out_of_reach(lifeline):
                return None
        return None


class UnixSocket(Transport):
    """A socket in a directory that only this user can enter, and that the container sees at the same place."""

    @classmethod
    def named(cls, name: str) -> UnixSocket:
        """Return the transport whose directory has a name; `make` makes it."""
        return cls(sockets_dir() / name)

    @property
    def path(self) -> Path:
        """The socket."""
        return self.directory / "docker.sock"

    @property
    def host(self) -> str:
        """The DOCKER_HOST."""
        return f"unix://{self.path}"

    @property
    def mounts(self) -> tuple[Path, ...]:
        """The directory of all daemons' directories, so that boot.sh can remove this one's."""
        return (self.directory.parent,)

    def _dial(self, timeout: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(str(self.path))
        except BaseException:
            connection.close()
            raise
        return connection
