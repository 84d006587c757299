"""The container that this process runs in, as the engine in use knows it: its networks and its mounts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .host import HostEngine
from .procfs import Process, mount_points, own_ids, upper_directory

#: Networks that every engine has: containers find each other there by address only.
_DEFAULT_BRIDGES = ("bridge", "podman")


@dataclass(frozen=True)
class Network:
    """A network of our container, and where we are on it."""

    name: str
    id: str
    address: str
    gateway: str

    @property
    def is_default_bridge(self) -> bool:
        """Whether it is the network that containers get who ask for none: no names resolve there."""
        return self.name in _DEFAULT_BRIDGES


@dataclass(frozen=True)
class Mount:
    """A mount of our container."""

    #: Here, without links: the engine may have been told /var/run, and has mounted at /run.
    destination: Path
    #: On the engine's machine: for a volume, where the engine keeps it.
    source: Path
    #: The volume's name, or None for a path of that machine.
    volume: str | None
    read_only: bool


@dataclass(frozen=True)
class OwnContainer:
    """The container of this process, as the engine in use knows it."""

    id: str
    name: str
    #: `host`, `none`, or the network that it was started on; where it shares another container's, that one's.
    network_mode: str
    #: Those with an address: none with `host` and `none`.
    networks: tuple[Network, ...]
    mounts: tuple[Mount, ...]

    @classmethod
    def described(cls, answer: Mapping[str, Any], shared: Mapping[str, Any] | None = None) -> OwnContainer:
        """Read what an engine says of a container.

        :param shared: What it says of the container whose network that one shares.
        """
        owner = shared or answer
        return cls(
            id=answer["Id"],
            name=answer["Name"].lstrip("/"),
            network_mode=owner["HostConfig"]["NetworkMode"],
            networks=tuple(_networks(owner["NetworkSettings"].get("Networks") or {})),
            mounts=tuple(
                Mount(
                    destination=Path(os.path.realpath(one["Destination"])),
                    source=Path(one["Source"]),
                    volume=one["Name"] if one["Type"] == "volume" else None,
                    read_only=not one.get("RW", True),
                )
                for one in answer.get("Mounts") or ()
                if one.get("Source")  # a tmpfs has none
            ),
        )

    @property
    def on_host_network(self) -> bool:
        """Whether its network is that of the engine's machine: what is published there is on our localhost."""
        return self.network_mode == "host"


def _networks(networks: Mapping[str, Mapping[str, Any]]) -> Iterator[Network]:
    for name, one in networks.items():
        address = one.get("IPAddress") or one.get("GlobalIPv6Address")
        if address:
            gateway = one.get("Gateway") or one.get("IPv6Gateway") or ""
            yield Network(name, one.get("NetworkID") or "", address, gateway)


def find_itself(engine: HostEngine, process: Process) -> OwnContainer | None:
    """Return the container that this process runs in; None if the engine does not know it.

    A container that shares another's network has its hostname and its files in /etc, and so would take itself for it.
    What tells them apart is the directory that the root's overlay writes to; where the engine does not say it (with the
    containerd store, or without an overlay), the mounts do, and it takes one request more.
    """
    own_upper = upper_directory(process.mountinfo)
    possible = []
    for answer in _candidates(engine, process):
        is_it = _writes_to(answer, own_upper)
        if is_it:
            return _described(engine, answer)
        if is_it is None:
            possible.append(answer)
    points = {mount.path for mount in mount_points(process.mountinfo)}
    fitting = [one for one in possible if _destinations(one) <= points]
    return _described(engine, max(fitting, key=lambda one: len(_destinations(one)))) if fitting else None


def _candidates(engine: HostEngine, process: Process) -> Iterator[Mapping[str, Any]]:
    known = []
    for candidate in own_ids(process):
        answer = engine.container(candidate)
        if answer is not None:
            known.append(answer)
            yield answer
    # Whose network it is; then it is one of those that share it.
    modes = {f"container:{name}" for one in known for name in (one["Id"], one["Name"].lstrip("/"))}
    for listed in engine.api.containers() if known else ():
        if listed["HostConfig"].get("NetworkMode") in modes:
            answer = engine.container(listed["Id"])
            if answer is not None:
                yield answer


def _writes_to(answer: Mapping[str, Any], own_upper: str) -> bool | None:
    upper = str(((answer.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir") or "")
    if not upper or not own_upper:
        return None
    # When an image has many layers, the engine mounts them by paths relative to where it keeps them.
    return f"/{upper}".endswith(f"/{own_upper.lstrip('/')}")


def _destinations(answer: Mapping[str, Any]) -> set[str]:
    return {os.path.realpath(one["Destination"]) for one in answer.get("Mounts") or ()}


def _described(engine: HostEngine, answer: Mapping[str, Any]) -> OwnContainer:
    mode, _, other = answer["HostConfig"]["NetworkMode"].partition(":")
    return OwnContainer.described(answer, engine.container(other) if mode == "container" else None)
