"""What a daemon's container is made of: the engine's description of it, from the settings."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from . import networks
from .errors import HostEngineError
from .labels import Ownership
from .route import Route
from .settings import Settings
from .transport import Transport

#: Where every docker:dind image keeps what its daemon owns.
DATA_ROOT = "/var/lib/docker"
#: Where an image store is mounted; links in what daemons adopt lead there.
STORE_ROOT = "/pytest-dind-store"
#: Where boot.sh lies in the container: not in /tmp, which the image's wrapper mounts over, nor in /run.
BOOT = "/pytest-dind-boot.sh"
#: What boot.sh reads in.
NETWORK = "/pytest-dind-network.sh"
FIT = "/pytest-dind-fit.sh"
#: The first who attaches is the owner, and when it goes, the input ends.
_LIFELINE = ("AttachStdin", "AttachStdout", "AttachStderr", "OpenStdin", "StdinOnce")
#: Bytes of log that the host engine keeps of a daemon; ours comes over the lifeline.
_ENGINE_LOG = "16m"


@dataclass(frozen=True)
class Storage:
    """Where a daemon's data lies, and which image store it adopts; see store.py."""

    #: A named volume that lives on; an anonymous one, which goes with the container, where there is none.
    data: str | None = None
    #: The volume of an image store, mounted read-only.
    store: str | None = None


@dataclass(frozen=True)
class BaseTemp:
    """pytest's base temp directory: what daemons see of it, and what only this process writes to, if known yet."""

    mount: Path
    own: Path | None

    def identity(self) -> tuple[int, int]:
        """What tells the mounted directory from one that later takes its place; zeros when it is gone."""
        try:
            info = self.mount.stat()
        except OSError:
            return 0, 0
        return info.st_dev, info.st_ino


def describe(
    settings: Settings,
    transport: Transport,
    ownership: Ownership,
    paths: Mapping[Path, Path],
    storage: Storage = Storage(),
) -> Mapping[str, Any]:
    """Return the body of the engine's `POST /containers/create`.

    :param paths: What is `shared` with the container: by its path there, where it lies on the engine's machine.
    """
    # https://docs.docker.com/reference/api/engine/#tag/Container/operation/ContainerCreate
    return {
        "Image": settings.image,
        "Entrypoint": ["sh", BOOT],
        # Some images name another user, as docker:dind-rootless does; this container is privileged anyway.
        "User": "0:0",
        "Cmd": _boot_arguments(settings, transport),
        "Labels": ownership.labels(),
        # Explicit, so that nothing of the user's (DOCKER_*, proxies) gets into the daemon unseen.
        "Env": [],
        **dict.fromkeys(_LIFELINE, True),
        "ExposedPorts": {port: {} for port in transport.ports},
        "HostConfig": _host_config(settings, transport, _mounts(ownership, paths, storage)),
    }


@cache
def boot_archive() -> bytes:
    """Return what is put into the container before it starts: our scripts, as the tar file that the engine takes."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, place in (("boot.sh", BOOT), ("network.sh", NETWORK), ("fit.sh", FIT)):
            script = Path(__file__).with_name(name).read_bytes()
            entry = tarfile.TarInfo(place.lstrip("/"))
            entry.size = len(script)
            tar.addfile(entry, io.BytesIO(script))
    return archive.getvalue()


def _boot_arguments(settings: Settings, transport: Transport) -> list[str]:
    config = "" if settings.config is None else json.dumps(dict(settings.config))
    owner = "" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"
    registries = [f"--registry-mirror={url}" for url in settings.registry_mirror]
    registries += [f"--insecure-registry={place}" for place in settings.insecure_registry]
    directory = str(transport.directory) if transport.mounts else ""
    undecided = " ".join(networks.undecided(settings))
    return [config, directory, owner, undecided, f"--group={os.getegid()}", *registries, *settings.daemon_arg]


def shared(route: Route, transport: Transport, base_temp: BaseTemp | None, settings: Settings) -> dict[Path, Path]:
    """Return the paths of ours that the container sees at the same place, each with where it lies for the engine.

    :raises HostEngineError: the engine does not see one.
    """
    found = {}
    for path in (*transport.mounts, *([base_temp.mount] if base_temp else ()), *settings.mount):
        source = route.seen(path)
        if source is None:
            raise HostEngineError(
                f"--dind-mount={path}: the host engine does not see this path, as it is of another machine or "
                "container than this process. Mount the directory into this container from where the engine runs, "
                "or copy what is in it with daemon.put()"
            )
        found[path] = source
    return found


def _mounts(ownership: Ownership, paths: Mapping[Path, Path], storage: Storage) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        # Kind `bind` and not `-v`: it fails where the path does not exist on the engine's machine.
        {"Type": "bind", "Source": str(source), "Target": str(path)}
        for path, source in paths.items()
    ]
    # Overlay does not work on overlay, so the data is a volume, whether the image declares one or not. Without a name
    # the engine removes it with the container; it has our labels, so that it can be found if that goes wrong.
    labels = {"VolumeOptions": {"Labels": ownership.labels()}}
    name = {"Source": storage.data} if storage.data else {}
    mounts.append({"Type": "volume", "Target": DATA_ROOT, **name, **labels})
    if storage.store:
        mounts.append({"Type": "volume", "Target": STORE_ROOT, "Source": storage.store, "ReadOnly": True, **labels})
    return mounts


def _host_config(settings: Settings, transport: Transport, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    # The image's wrapper mounts a tmpfs over /tmp, and would hide base temp, unless something is mounted there.
    scratch = {} if any(mount["Target"] == "/tmp" for mount in mounts) else {"/tmp": "exec,mode=1777"}  # noqa: S108 (the container's)
    config: dict[str, Any] = {
        "Privileged": settings.privileged,
        "Init": True,
        "AutoRemove": True,
        "CgroupnsMode": "private",
        "Mounts": mounts,
        "Tmpfs": scratch,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": _ENGINE_LOG}},
        "NetworkMode": transport.network or settings.network or "default",
        "PortBindings": transport.ports,
    }
    if settings.memory is not None:
        # Swap would make the limit a suggestion.
        config |= {"Memory": settings.memory, "MemorySwap": settings.memory}
    if settings.cpus is not None:
        config["NanoCpus"] = round(settings.cpus * 1e9)
    if settings.pids is not None:
        config["PidsLimit"] = settings.pids
    if settings.runtime is not None:
        config["Runtime"] = settings.runtime
    return config
