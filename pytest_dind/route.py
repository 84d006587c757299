"""The way to daemons from here: over which transport, dialled where, and which of our paths they see."""

from __future__ import annotations

import socket
import urllib.parse
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path

from .errors import HostEngineError
from .host import HostEngine
from .labels import Ownership
from .owncontainer import Network, OwnContainer
from .owner import Owner
from .places import sockets_dir
from .procfs import default_gateways, routed_interfaces
from .reach import Carried, OnNetwork, Published, Reach
from .settings import Settings
from .surroundings import Surroundings
from .tls import Tls
from .transport import Transport, UnixSocket

#: Who listens on an engine's socket where it is surely an engine of this very machine.
_NATIVE = ("dockerd", "systemd", "init")


@dataclass(frozen=True)
class Route:
    """How daemons on one host engine are reached."""

    #: unix or tls.
    kind: str
    #: Where they are dialled, if it is over TLS.
    reach: Reach
    #: Why it is this way, for the header.
    why: str
    surroundings: Surroundings | None = field(default=None, repr=False, compare=False)
    #: For an engine that is a daemon of ours: the way to that, since it sees of our paths what was mounted into it.
    outer: Route | None = None
    #: Whether this process reaches the daemons' own addresses, and so every port that their containers publish.
    addresses_reached: bool = True

    def transport(self, name: str, ports: tuple[int, ...] = ()) -> Transport:
        """Return the transport of one daemon, whose directory gets a name.

        :param ports: Of the daemon: published as its API is, if its address is not reached.
        """
        directory = sockets_dir() / name
        if self.kind == "unix":
            return UnixSocket(directory)
        return Tls(directory, self.reach, () if self.addresses_reached else ports)

    def seen(self, path: Path) -> Path | None:
        """Return where a path of ours lies for the engine, which can mount it; None where it does not see it."""
        if self.outer is not None:
            return path if self.outer.seen(path) else None
        return self.surroundings.translate(path) if self.surroundings else path

    def __str__(self) -> str:
        return f"{self.kind} ({self.why})"


#: Of engines whose way does not follow from where this process runs.
_led: weakref.WeakKeyDictionary[HostEngine, Route] = weakref.WeakKeyDictionary()


def around(engine: HostEngine) -> Surroundings:
    """Return where this process runs, as seen from an engine; looked up once."""
    if engine.surroundings is None:
        # On the engine itself, and in no table: what is found holds the engine, and the two go together.
        engine.surroundings = Surroundings.of(engine)
    found: Surroundings = engine.surroundings
    return found


def ownership_on(engine: HostEngine, owner: Owner) -> Ownership:
    """Return what the labels say of everything that an owner makes on an engine."""
    if engine in _led:
        return owner.ownership
    here = around(engine)
    return replace(owner.ownership, build=here.ci.build, container=here.container.id if here.container else "")


def lead(engine: HostEngine, route: Route) -> None:
    """Say how daemons on an engine are reached, where it does not follow from where this process runs."""
    _led[engine] = route


def inside(outer: Route, address: str) -> Route:
    """Return the way to daemons in a daemon of ours, which has an address and is itself reached by `outer`."""
    why = "the host engine is a daemon of ours"
    return Route(outer.kind, Published(address), why, outer=outer, addresses_reached=False)


def route_to(engine: HostEngine, settings: Settings) -> Route:
    """Return the way to daemons on an engine.

    :raises HostEngineError: there is none, or not the one that the settings ask for.
    """
    if engine in _led:
        return _led[engine]
    here = around(engine)
    if settings.transport == "unix" or (settings.transport == "auto" and _takes_sockets(here)):
        if here.translate(sockets_dir()) is None:
            raise HostEngineError(
                f"--dind-transport=unix: the host engine at {engine.address} does not see {sockets_dir()}, where the "
                "sockets are to be. Leave --dind-transport at auto, or set XDG_RUNTIME_DIR to a directory both see."
            )
        why = "the host engine is on this machine"
        return Route("unix", Published(), why, here, addresses_reached=reaches_addresses(here))
    if settings.network == "none":
        raise HostEngineError(
            "--dind-network=none: daemons are reached over TLS here, and with this network they would have no address. "
            "Leave it out, or name a network."
        )
    reach, why = _dialled(engine, settings, here)
    return Route("tls", reach, why, here, addresses_reached=reaches_addresses(here))


def reaches_addresses(here: Surroundings) -> bool:
    """Whether addresses on the engine's networks, and so those of daemons, are reached from here."""
    if here.container:
        return True  # Daemons join its network.
    if _is_native(here) and here.listener and here.listener.user == 0 and not here.listener.is_nested:
        return True  # What follows asks the engine, which takes 15 ms.
    if here.engine_is_desktop or here.engine_is_rootless:
        return False
    # A port of this machine may be a tunnel's.
    host = urllib.parse.urlsplit(here.engine.address).hostname
    is_here = host in ("localhost", "127.0.0.1", "::1") and here.engine_scheme != "ssh"
    return here.engine_is_beside or (is_here and here.engine.info.get("Name") == here.hostname)


def _is_native(here: Surroundings) -> bool:
    return bool(here.listener and here.listener.program in _NATIVE)


def _takes_sockets(here: Surroundings) -> bool:
    """Whether a socket in a directory of ours can be had from the engine."""
    if here.container is not None or here.translate(sockets_dir()) is None:
        return False
    # Docker Desktop shares directories with its virtual machine, but no sockets. To ask it costs 15 ms.
    return _is_native(here) or not here.engine_is_desktop


def _dialled(engine: HostEngine, settings: Settings, here: Surroundings) -> tuple[Reach, str]:
    """Return where daemons are dialled over TLS, and why there."""
    if here.container is not None and not here.container.on_host_network:
        network = _shared_network(here.container, settings.network)
        return OnNetwork(network.id or network.name), (
            f"at their addresses on network {network.name}, which this container is on"
        )
    if engine.tunnel is not None:
        return Carried(tunnel=engine.tunnel), "at ports of the host engine's 127.0.0.1, through ssh"
    if here.engine_scheme in ("tcp", "http", "https"):
        # With a port, also where none was said.
        at = urllib.parse.urlsplit(engine.api.base_url)
        host, port = at.hostname or "", at.port or (443 if at.scheme == "https" else 80)
        return Published.at(host, port), f"at ports of {host}, where the host engine is"
    if here.engine_is_beyond_its_socket:
        return _by_name(engine, here)
    return Published(), "at ports of 127.0.0.1"


def _by_name(engine: HostEngine, here: Surroundings) -> tuple[Reach, str]:
    """Return where daemons are dialled on an engine that shares a socket with us, but no network: by its name there."""
    name = str(engine.info.get("Name"))
    if here.listener and here.listener.pid:
        raise HostEngineError(
            f"the socket of the host engine at {engine.address} leads to another machine, {name}, and so daemons "
            "cannot be reached. Have ssh itself lead there (DOCKER_HOST=ssh://USER@HOST), or use TCP and TLS."
        )
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        raise HostEngineError(
            f"the host engine at {engine.address} is in another network, under the name of {name}, which is not known "
            "here, and so daemons cannot be reached. Have it and this container on one network, which somebody made "
            "(names are not known on the default one), or use TCP and TLS."
        ) from error
    return Published(address), f"at ports of {name}, where the host engine is"


def _shared_network(container: OwnContainer, wanted: str | None) -> Network:
    """Return the network that daemons join to be reached.

    The one that our default route leads over comes first: from an internal one, daemons could pull nothing. Then those
    with names rather than the engine's default one.
    """
    gateways = default_gateways()
    networks = sorted(container.networks, key=lambda one: (one.gateway not in gateways, one.is_default_bridge))
    if not networks:
        raise HostEngineError(_on_no_network(container))
    if wanted is None:
        return networks[0]
    found = next((network for network in networks if wanted in (network.name, network.id)), None)
    if found is None:
        raise HostEngineError(
            f"--dind-network={wanted}: this process runs in container {container.name}, which is not on that network "
            f"but on {', '.join(network.name for network in networks)}, and so daemons there could not be reached. "
            f"Leave it out, name one of those, or connect the container: docker network connect {wanted} "
            f"{container.name}"
        )
    return found


def _on_no_network(container: OwnContainer) -> str:
    where = f"this process runs in container {container.name}, which is on no network of the host engine"
    if not routed_interfaces():
        return f"{where} (its mode is {container.network_mode}), and so daemons cannot be reached. Start it on one."
    # As in a pod: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/network-plugins/
    return (
        f"{where} but on one that somebody else made, as Kubernetes makes its pods', and so daemons cannot join it. "
        "Run a docker:dind beside it in the pod, with DOCKER_HOST=tcp://localhost:2376, or the pod with hostNetwork."
    )
