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


def variables(host: str, config: Path, ip: str | None) -> dict[str, str]:
    """Return what to set so that the docker CLI, compose, testcontainers and SDKs use one daemon.

    :param config: A DOCKER_CONFIG of its own: no log-in, context or builder of the user's is used or changed.
    :param ip: Where published ports are reached.
    """
    found = {"DOCKER_HOST": host, "DOCKER_CONFIG": str(config)}
    if ip is not None:
        # https://testcontainers-python.readthedocs.io: the host for published ports, which is not localhost here.
        found["TESTCONTAINERS_HOST_OVERRIDE"] = ip
    return found


def without_misleading(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment less the names that would mislead a client."""
    return {name: value for name, value in environment.items() if name not in MISLEADING}


class Patched:
    """`os.environ` as one daemon's users need it; `undo` puts back what was there."""

    def __init__(self, wanted: Mapping[str, str]) -> None:
        changed = {name: wanted.get(name) for name in (*MISLEADING, *variables("", Path(), ""))}
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
