"""Where daemons are dialled over TLS, as it follows from where this process and the host engine are."""

from __future__ import annotations

import ipaddress
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .checks import ITS_PORT
from .errors import HostEngineError
from .tunnel import Tunnel

#: Seconds in which the host engine takes one more connection.
_CONNECT_TIMEOUT = 10
#: Addresses that are neither private nor public: a provider's customers, or the machines of one Tailscale network.
_SHARED = ipaddress.ip_network("100.64.0.0/10")  # RFC 6598


class Reach(ABC):
    """A way to ports of a container."""

    @abstractmethod
    def bindings(self, ports: Mapping[int, int | None]) -> dict[str, list[dict[str, str]]]:
        """Return the engine's `PortBindings`: for each port of the container one of the machine; None: a free one."""

    @abstractmethod
    def find(self, container: Mapping[str, Any], port: int = ITS_PORT) -> tuple[str, int] | None:
        """Return where the engine has a port of a running container; None if it has not."""

    def open(self, at: tuple[str, int], before: tuple[str, int] | None) -> tuple[str, int]:  # noqa: ARG002 (`Carried`)
        """Return where this process dials what `find` has found; `close` is its undo.

        :param before: Where it was the time before, and should be again.
        """
        return at

    def close(self, dialled: tuple[str, int], at: tuple[str, int]) -> None:  # noqa: B027 (nothing, if nothing was done)
        """Undo `open`."""

    def leave(self, dialled: tuple[str, int], at: tuple[str, int], container: str) -> None:  # noqa: B027
        """Have what was opened outlive this process, for as long as a container runs."""

    @property
    @abstractmethod
    def cure(self) -> str:
        """What to do where the way is found closed."""


@dataclass(frozen=True)
class Published(Reach):
    """At a port of the machine that the host engine runs on, at one of its addresses.

    :raises HostEngineError: the address is none that only neighbours can reach.
    """

    address: str = "127.0.0.1"

    def __post_init__(self) -> None:
        address = ipaddress.ip_address(self.address)
        is_shared = address.version == _SHARED.version and address in _SHARED
        # Loopback counts as private.
        if address.is_unspecified or address.is_multicast or not (address.is_private or is_shared):
            raise HostEngineError(
                f"the host engine is reached at {self.address}, which is a public address, and a daemon would be "
                "published there for everybody, guarded by its certificate alone. Reach the engine with ssh "
                "(DOCKER_HOST=ssh://USER@HOST; daemons are carried through it), or at a private address."
            )

    @classmethod
    def at(cls, host: str, port: int) -> Published:
        """Return it for a machine known by its name or address, at the one of its addresses where a port answers.

        :param port: The engine's own.
        :raises HostEngineError: none answers, or the address is none that only neighbours can reach.
        """
        try:
            with socket.create_connection((host, port), _CONNECT_TIMEOUT) as connection:
                address = str(connection.getpeername()[0])
        except socket.gaierror as error:
            raise HostEngineError(f"the host engine's machine {host} is not known here: {error.strerror}") from error
        except OSError as error:
            raise HostEngineError(f"the host engine no longer answers at {host}:{port}: {error}") from error
        # A container is published on ::1 only where its engine has a proxy of its own for that.
        return cls() if ipaddress.ip_address(address).is_loopback else cls(address)

    def bindings(self, ports: Mapping[int, int | None]) -> dict[str, list[dict[str, str]]]:
        """Return them for the address."""
        return {f"{one}/tcp": [{"HostIp": self.address, "HostPort": str(at or "")}] for one, at in ports.items()}

    def find(self, container: Mapping[str, Any], port: int = ITS_PORT) -> tuple[str, int] | None:
        """Return address and port of the machine."""
        bound = (container.get("NetworkSettings", {}).get("Ports") or {}).get(f"{port}/tcp") or ()
        return next(((self.address, int(one["HostPort"])) for one in bound), None)

    @property
    def cure(self) -> str:
        """It is another machine's, or another network namespace's."""
        return (
            "The engine seems to be behind a forwarder (ssh -L, socat), a firewall, or in a network of its own. Reach "
            "it with ssh (DOCKER_HOST=ssh://USER@HOST), or over TCP and TLS at an address of its machine."
        )


@dataclass(frozen=True)
class Carried(Published):
    """At a port of this machine, through ssh: published on 127.0.0.1 of the engine's machine, and nowhere else."""

    #: What the host engine itself is reached through.
    tunnel: Tunnel = field(kw_only=True)

    def open(self, at: tuple[str, int], before: tuple[str, int] | None) -> tuple[str, int]:
        """Return the port here.

        :raises HostEngineError: ssh does not do it.
        """
        return self.address, self.tunnel.carry(at[1], before[1] if before else None)

    def close(self, dialled: tuple[str, int], at: tuple[str, int]) -> None:
        """Carry it no longer."""
        self.tunnel.drop(dialled[1], at[1])

    def leave(self, dialled: tuple[str, int], at: tuple[str, int], container: str) -> None:
        """Have an ssh process that outlives this one carry it."""
        self.tunnel.leave(dialled[1], at[1], container)

    @property
    def cure(self) -> str:
        """The other side may allow sockets and not ports."""
        return f"ssh must be allowed to carry ports: AllowTcpForwarding in the sshd_config of {self.tunnel.address}."


@dataclass(frozen=True)
class OnNetwork(Reach):
    """At its own address on a network that this process's container is on too; nothing is published."""

    #: Name or id.
    network: str

    def bindings(self, ports: Mapping[int, int | None]) -> dict[str, list[dict[str, str]]]:  # noqa: ARG002 (Published's)
        """Return none."""
        return {}

    def find(self, container: Mapping[str, Any], port: int = ITS_PORT) -> tuple[str, int] | None:
        """Return the container's own address."""
        networks = container.get("NetworkSettings", {}).get("Networks") or {}
        addresses = (one["IPAddress"] or one.get("GlobalIPv6Address") for one in networks.values())
        return next(((str(address), port) for address in addresses if address), None)

    @property
    def cure(self) -> str:
        """Neighbours do not always reach each other."""
        return (
            f"Containers on network {self.network} seem not to reach each other, for its option "
            "com.docker.network.bridge.enable_icc or a firewall. Name another that this one is on: --dind-network"
        )
