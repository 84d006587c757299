"""The transport over TCP: always with TLS, and both sides show a certificate. Who has none is refused by dockerd."""

from __future__ import annotations

import base64
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import certificates
from .checks import ITS_PORT
from .errors import DaemonStartError
from .lifeline import Lifeline
from .places import write_ours
from .reach import OnNetwork, Reach
from .transport import Transport

if TYPE_CHECKING:
    import docker

#: Where dockerd listens in its container.
PORT = ITS_PORT
#: Seconds in which a connection opens, on one machine or between neighbours.
CONNECT_TIMEOUT = 5
#: How an engine says that the port of the time before has gone to somebody else meanwhile.
_TAKEN = re.compile("port is already allocated|address already in use", re.IGNORECASE)
#: Seconds in which a daemon that says that it serves should be reached.
UNREACHED_AFTER = 5
#: Where and when dockerd says so, whatever the form of its log.
_SERVES = re.compile(rf"API listen on \S*:{PORT}\b")


class Tls(Transport):
    """A directory with what DOCKER_CERT_PATH needs, and an address that is known only when the container runs."""

    #: A connection to a container that goes may hang, and not end, where no engine's process stands between.
    patience = 5.0

    def __init__(self, directory: Path, reach: Reach, further: tuple[int, ...] = ()) -> None:
        """:param further: Ports of the container that are reached as its API is; see `published`."""
        super().__init__(directory)
        self.reach = reach
        #: Where the engine has ports of the container, and where they are dialled; kept after its end.
        self._found: dict[int, tuple[str, int] | None] = dict.fromkeys([PORT, *further])
        self._dialled: dict[int, tuple[str, int]] = {}
        self._opened: list[int] = []
        self._log_read = 0
        self._serves_since = float("inf")
        self._is_reached = False
        self._context: ssl.SSLContext | None = None
        self._bundle: bytes | None = None

    def make(self) -> None:
        """Make the directory; the certificates come when the address is known, and are begun with here."""
        certificates.prepare()
        super().make()

    @property
    def ports(self) -> Mapping[str, list[dict[str, str]]]:
        """Its ports; started anew, a daemon has the same again, so that its clients find it."""
        return self.reach.bindings({port: at[1] if at else None for port, at in self._found.items()})

    def published(self, port: int) -> tuple[str, int] | None:
        """Return where a further port of the container is reached; None if it is none of those that were asked for."""
        return self._dialled.get(port) if port != PORT else None

    @property
    def _address(self) -> tuple[str, int] | None:
        return self._dialled.get(PORT)

    @property
    def network(self) -> str | None:
        """The network, if the daemon is reached there."""
        return self.reach.network if isinstance(self.reach, OnNetwork) else None

    @property
    def host(self) -> str:
        """The DOCKER_HOST."""
        return f"tcp://{self._netloc}"

    @property
    def _netloc(self) -> str:
        address, port = self._address or ("", PORT)
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    def is_taken(self, answer: str) -> bool:
        """Whether a port of the time before is another's now; the next time the engine chooses all."""
        if self._found[PORT] is None or not _TAKEN.search(answer):
            return False
        self._found = dict.fromkeys(self._found)
        return True

    def started(self, name: str, lifeline: Lifeline, inspect: Callable[[], Mapping[str, Any] | None]) -> None:
        """Find the address, and hand boot.sh a certificate for it, over the lifeline: nobody else sees its key.

        :raises DaemonStartError: it has no address.
        :raises HostEngineError: ssh does not lead to it.
        """
        container = inspect() or {}
        self._log_read, self._serves_since, self._is_reached = 0, float("inf"), False
        self._found = {port: self.reach.find(container, port) for port in self._found}
        if self._found[PORT] is None:
            self._dialled.clear()
            if not container.get("State", {}).get("Running"):
                return  # It has ended, as whoever waits for it sees.
            raise DaemonStartError(name, f"it has no address to be dialled at ({self.reach})")
        for port, at in self._found.items():
            if at is not None:
                self._dialled[port] = self.reach.open(at, self._dialled.get(port))
                self._opened.append(port)
        assert self._address is not None
        authority = certificates.authority()
        # idna, which trustme asks, takes no other names.
        names = [name] if re.fullmatch(r"[a-z0-9-]{1,63}", name) else []
        server = authority.issue(*dict.fromkeys([self._address[0], "127.0.0.1", "localhost", *names]))
        self._write(authority)
        pems = (authority.clients, server.certificate, server.key)
        lifeline.say(" ".join(["tls", *(base64.b64encode(pem).decode() for pem in pems)]))

    def remove(self) -> None:
        """Remove the directory, and what leads to the daemon."""
        while self._opened:
            port = self._opened.pop()
            self.reach.close(self._dialled[port], self._found[port] or ("", 0))
        super().remove()

    def leave(self, container: str) -> None:
        """Have what leads to the daemon outlive this process."""
        while self._opened:
            port = self._opened.pop()
            self.reach.leave(self._dialled[port], self._found[port] or ("", 0), container)

    def is_out_of_reach(self, lifeline: Lifeline) -> bool:
        """Whether dockerd says that it serves, and was dialled in vain for some seconds since."""
        position = lifeline.position()
        if _SERVES.search(lifeline.log(self._log_read)):
            self._serves_since = min(self._serves_since, time.monotonic())
        self._log_read = position
        return not self._is_reached and time.monotonic() > self._serves_since + UNREACHED_AFTER

    def _write(self, authority: certificates.Authority) -> None:
        self._context = None
        write_ours(self.directory / "ca.pem", authority.certificate)
        write_ours(self.directory / "cert.pem", authority.client.certificate)
        write_ours(self.directory / "key.pem", authority.client.key)
        if self._bundle is not None:
            write_ours(self.directory / "bundle.pem", self._bundle + authority.certificate)

    def variables(self) -> dict[str, str]:
        """Return what clients must know, in the environment, besides DOCKER_HOST and DOCKER_CONFIG."""
        found = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(self.directory)}
        return found | self._past_proxies() | self._with_bundle()

    def _past_proxies(self) -> dict[str, str]:
        """No proxy of the user's leads to a daemon; docker-py asks one even for 127.0.0.1."""
        if not any(os.environ.get(name) for one in ("https_proxy", "all_proxy") for name in (one, one.upper())):
            return {}
        assert self._address is not None
        known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        past = ",".join(dict.fromkeys([*filter(None, re.split(r"[\s,]+", known)), self._address[0]]))
        return {"no_proxy": past, "NO_PROXY": past}

    def _with_bundle(self) -> dict[str, str]:
        """Whoever has requests trust other authorities has docker-py trust only those: ours comes beside them."""
        # https://github.com/psf/requests/issues/3829: the variable is stronger than a session's own `verify`.
        named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        path = self.directory / "bundle.pem"
        if not named:
            return {}
        if self._bundle is None:
            self._bundle = b"".join(_read(Path(named)))
        write_ours(path, self._bundle + certificates.authority().certificate)
        return {"REQUESTS_CA_BUNDLE": str(path)}

    def connect(self, api_version: str, timeout: int) -> docker.DockerClient:
        """Return a new client of the daemon; close it.

        :param timeout: Seconds that an answer may take.
        """
        import docker  # noqa: PLC0415
        from docker.tls import TLSConfig  # noqa: PLC0415

        certificate = str(self.directory / "cert.pem"), str(self.directory / "key.pem")
        tls = TLSConfig(client_cert=certificate, ca_cert=str(self.directory / "ca.pem"), verify=True)
        client = docker.DockerClient(base_url=self.host, version=api_version, timeout=timeout, tls=tls)
        # Neither proxies nor authorities of the user's: their variables are stronger than what is said here.
        client.api.trust_env = False
        return client

    def redirect(self, client: docker.DockerClient) -> None:
        """Lead a client of `connect` to where the daemon is after it was started anew."""
        client.api.base_url = f"https://{self._netloc}"

    def _dial(self, timeout: float) -> socket.socket:
        if self._address is None:
            raise ConnectionError("its address is not known yet")
        if self._context is None:
            self._context = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
            self._context.load_cert_chain(self.directory / "cert.pem", self.directory / "key.pem")
        # A published port takes connections before dockerd does, and closes them.
        connection = socket.create_connection(self._address, min(timeout, CONNECT_TIMEOUT))
        try:
            connection.settimeout(timeout)
            wrapped = self._context.wrap_socket(connection, server_hostname=self._address[0])
        except BaseException as error:
            connection.close()
            self._is_reached |= isinstance(error, TimeoutError)  # only slow
            raise
        self._is_reached = True
        return wrapped


def _read(path: Path) -> Iterable[bytes]:
    """Read a file of certificates, or all of a directory; what cannot be read is none."""
    for one in sorted(path.iterdir()) if path.is_dir() else [path]:
        try:
            yield one.read_bytes() + b"\n"
        except OSError:
            pass
