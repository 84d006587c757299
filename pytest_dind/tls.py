"""The transport over TCP: always with TLS, and both sides show a certificate. Who has none is refused by dockerd."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import certificates
from .checks import ITS_PORT
from .errors import DaemonStartError, HostEngineError
from .lifeline import Lifeline
from .places import write_ours
from .transport import Transport

if TYPE_CHECKING:
    import docker

#: Where dockerd listens in its container.
PORT = ITS_PORT
#: Seconds in which a connection opens, on one machine or between neighbours.
CONNECT_TIMEOUT = 5
#: How an engine says that the port of the time before has gone to somebody else meanwhile.
_TAKEN = re.compile("port is already allocated|address already in use", re.IGNORECASE)


@dataclass(frozen=True)
class Published:
    """Reached at a port of the machine that the host engine runs on, at one of its addresses.

    :raises HostEngineError: the address is none that only neighbours can reach.
    """

    address: str = "127.0.0.1"

    def __post_init__(self) -> None:
        address = ipaddress.ip_address(self.address)
        if address.is_unspecified or address.is_multicast or not address.is_private:  # loopback counts as private
            raise HostEngineError(
                f"the host engine is reached at {self.address}, which is not a private address, and a daemon would be "
                "published there for everybody, guarded by its certificate alone. "
                "Reach the engine at a private address, or through a tunnel that ends on 127.0.0.1."
            )

    @classmethod
    def at(cls, host: str) -> Published:
        """Return it for a machine known by its name or address.

        :raises HostEngineError: the name is not known, or the address none that only neighbours can reach.
        """
        try:
            return cls(str(socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)[0][4][0]))
        except socket.gaierror as error:
            raise HostEngineError(f"the host engine's machine {host} is not known here: {error.strerror}") from error

    def bindings(self, ports: Mapping[int, int | None]) -> dict[str, list[dict[str, str]]]:
        """Return the engine's `PortBindings`: for each port of the container one of the machine; None: a free one."""
        return {f"{one}/tcp": [{"HostIp": self.address, "HostPort": str(at or "")}] for one, at in ports.items()}

    def find(self, container: Mapping[str, Any], port: int = PORT) -> tuple[str, int] | None:
        """Return where a port of a running container is reached; None if it is not."""
        bound = (container.get("NetworkSettings", {}).get("Ports") or {}).get(f"{port}/tcp") or ()
        return next(((self.address, int(one["HostPort"])) for one in bound), None)


@dataclass(frozen=True)
class OnNetwork:
    """Reached at its own address on a network that this process's container is on too; nothing is published."""

    #: Name or id.
    network: str

    def bindings(self, ports: Mapping[int, int | None]) -> dict[str, list[dict[str, str]]]:  # noqa: ARG002 (Published's)
        """Return no `PortBindings`."""
        return {}

    def find(self, container: Mapping[str, Any], port: int = PORT) -> tuple[str, int] | None:
        """Return where a port of a running container is reached; None if it is not."""
        networks = container.get("NetworkSettings", {}).get("Networks") or {}
        addresses = (one["IPAddress"] or one.get("GlobalIPv6Address") for one in networks.values())
        return next(((str(address), port) for address in addresses if address), None)


#: Where daemons are dialled, as it follows from where this process and the host engine are.
Reach = Published | OnNetwork


class Tls(Transport):
    """A directory with what DOCKER_CERT_PATH needs, and an address that is known only when the container runs."""

    #: A connection to a container that goes may hang, and not end, where no engine's process stands between.
    patience = 5.0

    def __init__(self, directory: Path, reach: Reach, further: tuple[int, ...] = ()) -> None:
        """:param further: Ports of the container that are reached as its API is; see `published`."""
        super().__init__(directory)
        self.reach = reach
        self._further: dict[int, int | None] = dict.fromkeys(further)
        self._address: tuple[str, int] | None = None
        self._context: ssl.SSLContext | None = None
        self._bundle: bytes | None = None

    def make(self) -> None:
        """Make the directory; the certificates come when the address is known, and are begun with here."""
        certificates.prepare()
        super().make()

    @property
    def ports(self) -> Mapping[str, list[dict[str, str]]]:
        """Its ports; started anew, a daemon has the same again, so that its clients find it."""
        return self.reach.bindings({PORT: self._address[1] if self._address else None, **self._further})

    def published(self, port: int) -> tuple[str, int] | None:
        """Return where a further port of the container is reached; None if it is none of those that were asked for."""
        at = self._further.get(port)
        return (self._address[0], at) if self._address and at else None

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
        if self._address is None or not _TAKEN.search(answer):
            return False
        self._address, self._further = None, dict.fromkeys(self._further)
        return True

    def started(self, name: str, lifeline: Lifeline, inspect: Callable[[], Mapping[str, Any] | None]) -> None:
        """Find the address, and hand boot.sh a certificate for it, over the lifeline: nobody else sees its key.

        :raises DaemonStartError: it has no address.
        """
        container = inspect() or {}
        self._address = self.reach.find(container)
        if self._address is None:
            if not container.get("State", {}).get("Running"):
                return  # It has ended, as whoever waits for it sees.
            raise DaemonStartError(name, f"it has no address to be dialled at ({self.reach})")
        self._further = {port: (self.reach.find(container, port) or (None, None))[1] for port in self._further}
        authority = certificates.authority()
        # idna, which trustme asks, takes no other names.
        names = [name] if re.fullmatch(r"[a-z0-9-]{1,63}", name) else []
        server = authority.issue(*dict.fromkeys([self._address[0], "127.0.0.1", "localhost", *names]))
        self._write(authority)
        pems = (authority.clients, server.certificate, server.key)
        lifeline.say(" ".join(["tls", *(base64.b64encode(pem).decode() for pem in pems)]))

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
            return self._context.wrap_socket(connection, server_hostname=self._address[0])
        except BaseException:
            connection.close()
            raise


def _read(path: Path) -> Iterable[bytes]:
    """Read a file of certificates, or all of a directory; what cannot be read is none."""
    for one in sorted(path.iterdir()) if path.is_dir() else [path]:
        try:
            yield one.read_bytes() + b"\n"
        except OSError:
            pass
