"""The environment in which a process uses a daemon, and nothing else by mistake."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

#: Names that would lead a client to another daemon than DOCKER_HOST, or make it speak in another way.
MISLEADING = frozenset({
    "BUILDKIT_HOST",
    "BUILDX_BUILDER",
    "BUILDX_CONFIG",
    "CONTAINER_HOST",
    "DOCKER_API_VERSION",
    "DOCKER_CERT_PATH",
    "DOCKER_CONTEXT",
    "DOCKER_TLS",
    "DOCKER_TLS_VERIFY",
    "TC_HOST",
    "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE",
})  # fmt: skip


#: Set to where the daemon's ports are, or not at all: the user's own value is for the user's own Docker.
_PORTS_AT = "TESTCONTAINERS_HOST_OVERRIDE"
#: What a transport over TLS sets besides, where the user has set it, so that neither proxies nor authorities mislead.
_PAST_THE_USERS = ("NO_PROXY", "REQUESTS_CA_BUNDLE", "no_proxy")


def variables(host: str, config: Path, ip: str | None, further: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what to set so that the docker CLI, compose, testcontainers and SDKs use one daemon.

    :param config: A DOCKER_CONFIG of its own: no log-in, context or builder of the user's is used or changed.
    :param ip: Where published ports are reached; None if they are nowhere, or each at another port.
    :param further: What the transport needs besides.
    """
    found = {"DOCKER_HOST": host, "DOCKER_CONFIG": str(config), **(further or {})}
    if ip is not None:
        # https://testcontainers-python.readthedocs.io: the host for published ports, which is not localhost here.
        found[_PORTS_AT] = ip
    return found


def without_misleading(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment less the names that would mislead a client."""
    return {name: value for name, value in environment.items() if name not in (*MISLEADING, _PORTS_AT)}


class Patched:
    """`os.environ` as one daemon's users need it; `undo` puts back what was there."""

    def __init__(self, wanted: Mapping[str, str]) -> None:
        changed = {name: wanted.get(name) for name in (*MISLEADING, *variables("", Path(), ""))}
        if "DOCKER_TLS_VERIFY" in wanted:
            changed |= {name: wanted[name] for name in _PAST_THE_USERS if name in wanted}
        self._before = {name: os.environ.get(name) for name in changed}
        _set(changed)

    def undo(self) -> None:
        """Put back what was there before."""
        _set(self._before)


def _set(changes: Mapping[str, str | None]) -> None:
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
