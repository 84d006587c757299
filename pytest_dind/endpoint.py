"""A daemon as others reach it: where it is, what it says, and what can be asked of it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from . import inside
from .checkup import Checkup
from .environment import variables, without_misleading
from .errors import DaemonStateError
from .host import HostEngine
from .life import Life

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container

#: Seconds that `client` waits for an answer; a build or a load is silent for long.
CLIENT_TIMEOUT = 600


class Endpoint:
    """The outside of a daemon. Its container may come and go; `host`, `client` and `env` stay the same."""

    #: The host engine that it runs on.
    engine: HostEngine

    def __init__(self, engine: HostEngine, life: Life) -> None:
        self.engine = engine
        self._life = life
        #: Whether it is good for further tests.
        self.checkup = Checkup(life)
        self._client: docker.DockerClient | None = None
        self._env: dict[str, str] = {}

    # -- where it is

    @property
    def name(self) -> str:
        """Name of its container on the host engine."""
        return self._life.name

    @property
    def start_seconds(self) -> float:
        """Seconds that it took from nothing to its first answer."""
        return self._life.seconds

    @property
    def host(self) -> str:
        """Its DOCKER_HOST."""
        return self._life.transport.host

    @property
    def client(self) -> docker.DockerClient:
        """A client of the daemon; the same one every time, closed when the daemon is stopped."""
        if self._client is None:
            self._client = self.connect(CLIENT_TIMEOUT)
        return self._client

    def connect(self, timeout: int) -> docker.DockerClient:
        """Return a new client of the daemon, for whoever wants one of their own; close it.

        :param timeout: Seconds that an answer may take.
        """
        return self._life.transport.connect(self._life.api_version, timeout)

    @property
    def version(self) -> str:
        """Its version, such as 28.5.2."""
        return str(self.client.version()["Version"])

    @property
    def ip(self) -> str:
        """Its address on the host engine's network; to reach what its containers publish, ask `address`.

        :raises DaemonStateError: it is gone, or on no network.
        """
        container = self.engine.container(self.name) or {}
        networks = container.get("NetworkSettings", {}).get("Networks", {})
        for network in networks.values():
            if address := network["IPAddress"] or network.get("GlobalIPv6Address"):
                return str(address)
        raise DaemonStateError(f"{self.name} has no address: it has ended, or --dind-network gave it none")

    @property
    def env(self) -> dict[str, str]:
        """The environment for subprocesses that are to use this daemon: this process's, less what would mislead them.

        The same dict every time, kept right when the daemon is started anew.
        """
        if not self._env:
            self._env.update(without_misleading(os.environ) | self._variables())
        return self._env

    @property
    def export(self) -> str:
        """What to export in a shell so that the docker CLI there uses this daemon."""
        wanted = {"DOCKER_HOST": self.host, **self._life.transport.variables()}
        return " ".join(f"{name}={shlex.quote(value)}" for name, value in wanted.items() if name.startswith("DOCKER_"))

    def _lead_here(self) -> None:
        """Lead those who had the client and the environment before a new start to where the daemon is now."""
        if self._client is not None:
            self._life.transport.redirect(self._client)
        if self._env:
            self._env.update(self._variables())

    def _variables(self) -> dict[str, str]:
        try:
            ip = self.ip if self._life.route.addresses_reached else None
        except DaemonStateError:  # --dind-network=none
            ip = None
        transport = self._life.transport
        return variables(transport.host, transport.config, ip, transport.variables())

    @property
    def ended(self) -> bool:
        """Whether its container has ended, for whatever reason."""
        return self._life.ended

    @property
    def alive(self) -> bool:
        """Whether it serves, asked for real: it answers within 5 seconds."""
        return not self.ended and self.checkup.why_silent() is None

    # -- what can be asked of it

    def address(self, container: Container | str, port: int | str) -> tuple[str, int]:
        """Return where this process reaches a published port of a container in the daemon: IP address and port.

        :param port: The container's own port: 80, "80/tcp" or "53/udp".
        :raises DaemonStateError: the container is not there, does not publish that port, or it is out of reach.
        """
        ip, at = self.ip, inside.published_port(self.client, container, port)
        if self._life.route.addresses_reached:
            return ip, at
        is_tcp = not str(port).endswith(("/udp", "/sctp"))
        found = self._life.transport.published(at) if is_tcp else None
        if found is None:
            reason = f"port {at} of {self.name} cannot be reached from here, and nor can its address, {ip}"
            raise DaemonStateError(f"{reason}: the host engine is at {self.engine.address}. {self._cure(port, at)}")
        return found

    def _cure(self, port: int | str, at: int) -> str:
        if self._life.route.kind == "unix" or str(port).endswith(("/udp", "/sctp")):
            return "Run the client in a container of the same engine; --dind-port is for TCP ports of TLS daemons."
        return (
            f"--dind-port={at} makes it so, with the container publishing at just that port: ports={{{port!r}: {at}}}"
        )

    def log_position(self) -> int:
        """Where its log is now, for `logs(since=…)`."""
        return self._life.lifeline.position() if self._life.lifeline else 0

    def logs(self, since: int = 0) -> str:
        """Return the daemon's own log, all of it or from a `log_position()` on; the last 4 MiB are kept."""
        return self._life.lifeline.log(since) if self._life.lifeline else ""

    def put(self, source: Path | str, target: str) -> None:
        """Copy a file or directory of this machine into the daemon's container, as the absolute path `target`.

        :raises DaemonStateError: it has ended, or `target` is no such path.
        """
        self._require_running()
        self.engine.put(self.name, inside.packed(source, target))

    def exec(self, argv: list[str]) -> tuple[int, str]:
        """Run a command in the daemon's container, beside dockerd; return its exit code and output.

        :raises DaemonStateError: it has ended.
        """
        self._require_running()
        return inside.run(self.engine.api, self.name, argv)

    def _require_running(self) -> None:
        if self.ended:
            raise DaemonStateError(
                f"{self.name} has ended; its next user gets it from restart(), or from the next test"
            )
