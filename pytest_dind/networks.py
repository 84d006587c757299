"""The ranges of a daemon's own networks, and what hides behind them: where they overlap, nobody outside is reached."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Network, collapse_addresses, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .host import HostEngine
    from .settings import Settings

#: What an engine makes its networks from, and how long their prefixes are: Docker's defaults, of every version.
#: https://github.com/moby/moby/blob/v26.1.5/libnetwork/ipamutils/utils.go
_DEFAULT_POOLS = (
    *((IPv4Network(f"172.{number}.0.0/16"), 16) for number in range(17, 32)),
    *((one, 20) for one in IPv4Network("192.168.0.0/16").subnets(new_prefix=20)),
)
#: Networks that a daemon should have room for: half of that.
_ENOUGH = 16
#: Where more is taken when fewer of these are free; from the top, since people count from the bottom.
_SPARE = IPv4Network("10.0.0.0/8")
_SPARE_PREFIX = 24
#: Shorter prefixes are ways to everywhere: the default route, or the halves that VPNs make of it.
_SHORTEST_PREFIX = 8
#: Where name servers are written; systemd's resolver is on loopback, and has those that it asks in a file of its own.
_RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
_ROUTES = "/proc/net/route"

#: Flags of dockerd that network.sh decides on, and how daemon.json calls them.
_IN_CONFIG = {"mtu": "mtu", "default-network-opt": "default-network-opts"}
#: Who says any of these has chosen ranges already.
_CHOOSE_RANGES = {"default-address-pool", "default-address-pools", "bip", "fixed-cidr"}


def undecided(settings: Settings) -> list[str]:
    """Return the flags of dockerd that network.sh may decide on, as the user has not."""
    said = _said(settings)
    return [flag for flag, key in _IN_CONFIG.items() if not {flag, key} & said]


def fitted(settings: Settings, engine: HostEngine, network: str | None) -> Settings:
    """Return settings by which the daemon keeps its networks off what is outside; the same where it does so anyway.

    It takes one request to the engine, of a millisecond.

    :param network: The network of the host engine that the daemon will be on; None for the one that all have.
    :raises HostEngineError: the engine does not answer.
    """
    if _CHOOSE_RANGES & _said(settings):
        return settings
    known = _listed(engine)
    seen = [one for other in known if _is_it(other, network) for one in _ranges_of(other)]
    taken = [one for other in known for one in _ranges_of(other)] + [*_routes(), *_name_servers()]
    flags = [f"--default-address-pool=base={pool},size={prefix}" for pool, prefix in address_pools(taken, seen)]
    return dataclasses.replace(settings, daemon_arg=(*flags, *settings.daemon_arg)) if flags else settings


def address_pools(taken: Iterable[IPv4Network], seen: Iterable[IPv4Network] = ()) -> list[tuple[IPv4Network, int]]:
    """Return Docker's default pools less what is taken: each a range and the prefix of its networks.

    None are returned where Docker's own choice is as good: nothing of its pools is taken but what it sees itself, or
    there is nothing else.

    :param seen: Ranges on the daemon's own interface, which Docker avoids of itself.
    """
    taken, seen = list(taken), list(seen)
    hidden = [one for one in taken if not any(one.subnet_of(other) for other in seen)]
    if not any(pool.overlaps(one) for pool, _ in _DEFAULT_POOLS for one in hidden):
        return []
    free = [(pool, prefix) for pool, prefix in _DEFAULT_POOLS if not _any_overlaps(pool, taken)]
    pools = [
        (pool, prefix)
        for prefix in dict.fromkeys(prefix for _, prefix in free)
        for pool in collapse_addresses(one for one, its in free if its == prefix)
    ]
    if len(free) < _ENOUGH:
        # Not always: from Docker 28 on, the lowest range comes first, whatever the order.
        spares = reversed(list(_SPARE.subnets(new_prefix=16)))
        pools += [(one, _SPARE_PREFIX) for one in spares if not _any_overlaps(one, taken)][:1]
    return pools


def _any_overlaps(one: IPv4Network, others: Iterable[IPv4Network]) -> bool:
    return any(one.overlaps(other) for other in others)


def _said(settings: Settings) -> set[str]:
    """What of dockerd's the user has said himself: flags without their dashes, and keys of daemon.json."""
    return {one.lstrip("-").partition("=")[0] for one in settings.daemon_arg} | set(settings.config or ())


# -- what is outside


def _listed(engine: HostEngine) -> list[Mapping[str, Any]]:
    from docker.errors import APIError  # noqa: PLC0415

    try:
        found: list[Mapping[str, Any]] = engine.api.networks()
    except APIError:  # a proxy of the engine's socket may let only some requests pass
        return []
    except OSError as error:
        raise engine.failure(error) from error
    return found


def _is_it(network: Mapping[str, Any], wanted: str | None) -> bool:
    if wanted is not None:
        return wanted in (network["Name"], network["Id"])
    return (network.get("Options") or {}).get("com.docker.network.bridge.default_bridge") == "true"


def _ranges_of(network: Mapping[str, Any]) -> Iterator[IPv4Network]:
    for one in (network.get("IPAM") or {}).get("Config") or ():
        yield from _ranges([one.get("Subnet")])


def _routes() -> Iterator[IPv4Network]:
    """Ranges that this machine has ways to, a VPN's among them; on the engine's machine or not, that is on our way."""
    for line in _lines(_ROUTES)[1:]:
        _, destination, _, _, _, _, _, mask, *_ = line.split()
        address, netmask = (int(number, 16).to_bytes(4, sys.byteorder) for number in (destination, mask))
        prefix = int.from_bytes(netmask, "big").bit_count()
        if prefix >= _SHORTEST_PREFIX:
            yield IPv4Network((address, prefix))


def _name_servers() -> Iterator[IPv4Network]:
    for path in _RESOLVERS:
        words = [line.split() for line in _lines(path)]
        yield from _ranges(one[1] for one in words if len(one) > 1 and one[0] == "nameserver")


def _ranges(texts: Iterable[str | None]) -> Iterator[IPv4Network]:
    for text in texts:
        with suppress(ValueError):  # an IPv6 zone, an address range that is none
            found = ip_network(text or "", strict=False)
            if isinstance(found, IPv4Network):
                yield found


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not on this system
        return []
