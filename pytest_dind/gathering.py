"""Gathers the facts of a run, by which caveats apply or do not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from .container import DATA_ROOT, BaseTemp
from .facts import Facts
from .labels import HOST
from .locks import host_id
from .places import leases_dir
from .procfs import hierarchies, routed_interfaces
from .route import reaches_addresses
from .settings import Settings
from .surroundings import Surroundings


def gather(
    surroundings: Surroundings,
    settings: Sequence[Settings],
    *,
    base_temp: BaseTemp | None,
    project: str,
    workers: int,
) -> Facts:
    """Gather the facts of a run: the kernel's files, and a request or two to the engine.

    :param settings: Those of the run, which differ in their image only.
    """
    one = settings[0]
    networks = surroundings.engine.api.networks()
    return Facts(
        **_place(surroundings),
        workspace_owner=os.stat(project).st_uid,  # noqa: PTH116 (a text)
        workers=workers,
        **_kernel(surroundings),
        **_engine(surroundings),
        mtu=_mtu(surroundings, one.network, networks),
        outer_subnets=tuple(_subnets(networks)),
        images=tuple(settings.image for settings in settings),
        **_daemons(surroundings, one, base_temp),
    )


def _place(surroundings: Surroundings) -> Mapping[str, Any]:
    return {
        "ci": surroundings.ci.system,
        "in_kubernetes": "KUBERNETES_SERVICE_HOST" in os.environ,
        "in_container": bool(surroundings.container_sign),
        "own_container": surroundings.container.name if surroundings.container else "",
        "user": os.geteuid(),
        "lost_state": _lost_state(surroundings),
    }


def _engine(surroundings: Surroundings) -> Mapping[str, Any]:
    engine = surroundings.engine
    is_plain = surroundings.engine_scheme in ("tcp", "http") and engine.api.base_url.startswith("http://")
    return {
        "engine": _in_words(surroundings),
        "engine_version": "" if surroundings.engine_is_podman else engine.version["Version"],
        "engine_driver": engine.info.get("Driver", ""),
        "engine_in_container": surroundings.engine_is_in_container,
        "apparmor": any("name=apparmor" in option for option in engine.info.get("SecurityOptions") or ()),
        "plain_tcp": is_plain,
        "socket_mode": _socket_mode(surroundings),
        "addresses_reached": reaches_addresses(surroundings),
    }


def _daemons(surroundings: Surroundings, settings: Settings, base_temp: BaseTemp | None) -> Mapping[str, Any]:
    paths = (*([base_temp.mount] if base_temp else []), *settings.mount)
    return {
        "preloaded_names": tuple(str(image) for image in settings.preload if not isinstance(image, Path)),
        "keep": settings.keep,
        "ports": settings.port,
        "mounts": tuple(f"--dind-mount={path}" for path in settings.mount),
        "unseen_paths": tuple(str(path) for path in paths if surroundings.translate(path) is None),
        "unlimited": tuple(f"--dind-{name}" for name in ("memory", "cpus") if getattr(settings, name) is None),
        "storage_driver": next(settings.told("storage-driver"), ""),
        "data_on_overlay": _data_on_overlay(surroundings, settings),
        "inner_subnets": tuple(_inner_subnets(settings)),
    }


def _in_words(surroundings: Surroundings) -> str:
    kinds = {
        "Docker Desktop": surroundings.engine_is_desktop,
        "Podman": surroundings.engine_is_podman,
        "rootless": surroundings.engine_is_rootless,
    }
    return ", ".join([surroundings.engine.address, *(kind for kind, is_it in kinds.items() if is_it)])


def _kernel(surroundings: Surroundings) -> Mapping[str, Any]:
    engine = surroundings.engine
    if not surroundings.engine_is_local or engine.info.get("KernelVersion") != os.uname().release:
        return {}
    v1 = engine.info.get("CgroupVersion", "1") == "1"
    return {
        "inotify_instances": _number("/proc/sys/fs/inotify/max_user_instances"),
        "inotify_watches": _number("/proc/sys/fs/inotify/max_user_watches"),
        "cgroup_v1_hierarchies": hierarchies() if v1 else frozenset(),
    }


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):  # a hardened /proc, or none
        return None


def _lost_state(surroundings: Surroundings) -> str:
    """Say where state is kept that ends with this container, if others use the engine who would want it."""
    if not surroundings.container_sign or surroundings.engine_is_beside:
        return ""
    directory = leases_dir().parent
    if surroundings.is_on_a_mount(directory):
        return ""
    if surroundings.container is not None:  # The engine is that of the machine.
        return f"{directory} is on no mount"
    # One beside it may end with this job, or has been there for others before.
    volumes = surroundings.engine.api.volumes(filters={"label": HOST})["Volumes"] or []
    others = {one["Labels"][HOST] for one in volumes} - {host_id()}
    return f"{directory} is on no mount, and the engine has volumes of other jobs" if others else ""


def _socket_mode(surroundings: Surroundings) -> int:
    path = surroundings.engine.address.partition("://")[2]
    try:
        return os.stat(path).st_mode & 0o777 if surroundings.engine_scheme == "unix" else 0  # noqa: PTH116 (a text)
    except OSError:  # somebody else's directory
        return 0


def _mtu(surroundings: Surroundings, name: str | None, networks: Sequence[Mapping[str, Any]]) -> int | None:
    own = surroundings.container.networks if surroundings.container else ()
    joined = {name} if name else {one.name for one in own} or {"bridge", "podman"}
    options = [one.get("Options") or {} for one in networks if one["Name"] in joined]
    said = [int(each["com.docker.network.driver.mtu"]) for each in options if "com.docker.network.driver.mtu" in each]
    # A network that says nothing has its engine's own; in a container, it is the interfaces' too.
    routed = routed_interfaces() if surroundings.container_sign else ()
    seen = [_number(f"/sys/class/net/{interface}/mtu") for interface in routed]
    return min([*said, *(one for one in seen if one)], default=None)


def _subnets(networks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for network in networks:
        yield from (one["Subnet"] for one in (network.get("IPAM") or {}).get("Config") or () if one.get("Subnet"))


def _inner_subnets(settings: Settings) -> Iterator[str]:
    pools = [match[1] for pool in settings.told("default-address-pool") if (match := re.search("base=([^,]+)", pool))]
    listed = (settings.config or {}).get("default-address-pools") or ()
    pools += [str(pool.get("base", "")) for pool in listed if isinstance(pool, Mapping)]
    for subnet in (*settings.told("bip"), *pools):
        try:
            ip_network(subnet, strict=False)
        except ValueError:  # dockerd says what is wrong with it
            continue
        yield subnet


def _data_on_overlay(surroundings: Surroundings, settings: Settings) -> str:
    for told in settings.told("data-root"):
        if not any(Path(told).is_relative_to(kept) for kept in (Path(DATA_ROOT), *settings.mount)):
            return f"--data-root={told} is in no volume"
    info = surroundings.engine.info
    root, backing = info.get("DockerRootDir") or DATA_ROOT, dict(map(_pair, info.get("DriverStatus") or ()))
    if str(backing.get("Backing Filesystem", "")).startswith("overlay"):
        return f"{root} of the host engine"
    if surroundings.engine_is_beside and surroundings.file_system_of(root) == "overlay":
        return f"{root} of the engine in this container"
    return ""


def _pair(row: Sequence[str]) -> tuple[str, str]:
    return row[0], row[-1]
