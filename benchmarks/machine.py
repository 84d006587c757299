"""The machine that is measured: its facts, the images used on it, and what a daemon has there."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from docker.errors import NotFound

from pytest_dind import Daemon
from pytest_dind.host import HostEngine

#: The image of our daemons.
IMAGE = os.environ.get("PYTEST_DIND_IMAGE", "docker:dind")
#: The same engine in an image with docker:dind's entrypoint, or docker:dind itself.
OFFICIAL_IMAGE = os.environ.get("PYTEST_DIND_OFFICIAL_IMAGE", "docker:dind")
_DATA_ROOT = "/var/lib/docker"
#: A small one, to run inside.
TEST_IMAGE = os.environ.get("PYTEST_DIND_TEST_IMAGE", "busybox:latest")


def facts(engine: HostEngine) -> Iterator[tuple[str, str]]:
    """Say what the numbers hang on."""
    info = engine.info
    models = [line.partition(": ")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    processor = models[0] if models else platform.machine()
    disk = dict(info["DriverStatus"] or []).get("Backing Filesystem", "unknown")
    yield (
        "machine",
        f"{os.cpu_count()} x {processor}, {info['MemTotal'] / 2**30:.0f} GiB",
    )
    yield "system", f"{info['OperatingSystem']}, Linux {platform.release()}, cgroup v{info.get('CgroupVersion', '1')}"
    yield "engine", f"Docker {info['ServerVersion']}, {info['Driver']} on {disk}"
    yield "images", f"{IMAGE}, {OFFICIAL_IMAGE}, {TEST_IMAGE}"
    load = os.getloadavg()[0]
    busy = ": other work runs here, and slows down most what uses all cores" if load > (os.cpu_count() or 1) / 2 else ""
    yield "load", f"{load:.1f}{busy}"
    yield "python", f"{platform.python_implementation()} {platform.python_version()}"


def memory_available() -> int:
    """Return the bytes that programs can still have."""
    return next(int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable"))


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


@dataclass(frozen=True)
class Traces:
    """What a daemon has on this machine: its container, its volume and its socket's directory."""

    container: str
    volume: str
    directory: Path | None

    @classmethod
    def of(cls, engine: HostEngine, name: str, host: str | None = None) -> Traces:
        """Find the traces of a running daemon.

        :param host: Its DOCKER_HOST, where its directory counts.
        """
        container = engine.api.inspect_container(name)
        (volume,) = (mount["Name"] for mount in container["Mounts"] if mount["Destination"] == _DATA_ROOT)
        directory = Path(host.removeprefix("unix://")).parent if host and host.startswith("unix://") else None
        return cls(container["Id"], volume, directory)

    @classmethod
    def of_daemon(cls, daemon: Daemon) -> Traces:
        """Find the traces of a running daemon of ours."""
        return cls.of(daemon.engine, daemon.name, daemon.host)

    def gone(self, engine: HostEngine) -> bool:
        """Whether nothing is left."""
        if self.directory is not None and self.directory.exists():
            return False
        return self.container_gone(engine) and _gone(engine.api.inspect_volume, self.volume)

    def container_gone(self, engine: HostEngine) -> bool:
        """Whether the container is gone, whatever else is left."""
        return _gone(engine.api.inspect_container, self.container)


def _gone(inspect: Callable[[str], object], name: str) -> bool:
    try:
        inspect(name)
    except NotFound:
        return True
    return False
