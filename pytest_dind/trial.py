"""What containers in a throw-away daemon find out: an image made on the spot, so that no registry is needed.

All that an engine image is sure to have is a shell, containerd and what these need. So the image holds a script only,
and its containers see the engine image's own programs, which for the daemon inside are its machine's.
"""

from __future__ import annotations

import http.client
import io
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .daemon import Daemon
from .errors import DaemonStateError

if TYPE_CHECKING:
    from docker.models.containers import Container

#: Bytes that the container may use, and is to see as its limit.
MEMORY = 256 * 1024**2
#: The name of a container in a network of its own.
NEIGHBOUR = "pytest-dind-doctor"
#: What every pull of an image without a registry's name looks up.
REGISTRY = "registry-1.docker.io"
_IMAGE = "pytest-dind-doctor"
#: Which both the server and its daemon have; where the daemon's address is not reached, it must be said beforehand.
PORT = 8080
#: Seconds that a container may take to say what it has found, and a server to serve.
_PATIENCE = 30
_SERVED = 10
_PROGRAMS = ("/bin", "/lib", "/lib64", "/sbin", "/usr")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SAYS = "pytest-dind-doctor: "

#: Looks names up: `lookup NAME=CODE`, where 0 is found and 127 that there is no getent.
_LOOKUP = """
look_up() {
    if command -v timeout >/dev/null; then timeout 4 getent hosts "$1"; else getent hosts "$1"; fi >/dev/null 2>&1
    echo "pytest-dind-doctor: lookup $1=$?"
}
for name in "$@"; do look_up "$name"; done
"""
#: $1 a directory that is to be seen, or empty; $2… names to look up. Reads with the shell alone.
_SCRIPT = """
directory=$1
shift
say() { echo "pytest-dind-doctor: $1=$2"; }
value() { if [ -r "$1" ] && read -r found <"$1"; then say "$2" "$found"; fi; }
value /layer layer
value /sys/fs/cgroup/memory/memory.limit_in_bytes memory
value /sys/fs/cgroup/memory.max memory
if [ -n "$directory" ]; then
    value "$directory/question" seen
    echo answer 2>/dev/null >"$directory/answer"
fi
"""
#: The one server that every engine image has: it shows what it counts.
_SERVER = f"""version = 2
root = "/server/root"
state = "/server/state"
[grpc]
address = "/server/socket"
[metrics]
address = "0.0.0.0:{PORT}"
"""
_FILES = {
    "layer": "unpacked\n",
    "look.sh": _LOOKUP,
    "say.sh": f"{_SCRIPT}{_LOOKUP}say all said\nexec containerd --log-level error --config /server.toml\n",
    "server.toml": _SERVER,
    "etc/nsswitch.conf": "hosts: files dns\n",
}


class NotTriedError(DaemonStateError):
    """Nothing can be said: what is needed to try is not there."""


@dataclass
class Trial:
    """Two containers in a daemon; both end with it."""

    daemon: Daemon
    #: A directory of ours that is to be seen inside; None if none can be.
    directory: Path | None
    #: Names that resolve in the daemon's own container.
    outside: tuple[str, ...] = ()
    _container: Container | None = field(default=None, init=False)

    @cached_property
    def said(self) -> dict[str, str]:
        """What a container on the default network has found, with a limit of memory and a published port.

        :raises NotTriedError: the engine image's programs do not run in it.
        :raises DaemonStateError: it has not said all in time.
        """
        client: Any = self.daemon.client
        client.api.import_image_from_data(_archive(), repository=_IMAGE, tag="1")
        volumes = [f"{path}:{path}:ro" for path in _PROGRAMS]
        volumes += [f"{self.directory}:{self.directory}"] if self.directory else []
        self._container = self._run(
            ["sh", "/say.sh", str(self.directory or ""), *self.outside],
            volumes=volumes,
            mem_limit=MEMORY,
            ports={f"{PORT}/tcp": PORT},
        )
        return self._heard(self._container, "all")

    def neighbours(self) -> dict[str, str]:
        """Return what a container on a network of its own can look up: itself, as others would, and the outside."""
        client = self.daemon.client
        network = client.networks.create("pytest-dind-doctor")
        container = self._run(
            ["sh", "/look.sh", NEIGHBOUR, *self.outside],
            volumes=[f"{path}:{path}:ro" for path in _PROGRAMS],
            network=network.name,
            name=NEIGHBOUR,
        )
        return self._heard(container, f"lookup {[NEIGHBOUR, *self.outside][-1]}")

    def fetch(self) -> str:
        """Fetch a page from the first container, at the address that its published port has for us; return where.

        :raises NotTriedError: nothing serves in it.
        :raises OSError: nobody answers there.
        """
        assert self._container is not None
        host, port = self.daemon.address(self._container, PORT)
        deadline = time.monotonic() + _SERVED
        while True:
            try:
                # Not urllib, which would ask the user's proxy.
                connection = http.client.HTTPConnection(host, port, timeout=_SERVED)
                connection.request("GET", "/v1/metrics")
                connection.getresponse().read()
            except (OSError, http.client.HTTPException) as error:
                if not self._runs(self._container):
                    raise NotTriedError(f"no server runs in the container: {_last_line(self._container)}") from error
                if time.monotonic() > deadline:
                    raise ConnectionError(f"{host}:{port}: {str(error) or type(error).__name__}") from error
                time.sleep(0.05)
            else:
                return f"{host}:{port}"
            finally:
                connection.close()

    def _run(self, command: Sequence[str], **how: Any) -> Container:
        from docker.errors import APIError  # noqa: PLC0415

        try:
            container: Container = self.daemon.client.containers.run(
                f"{_IMAGE}:1", list(command), detach=True, environment={"PATH": _PATH}, **how
            )
        except APIError as error:
            if "executable file not found" in str(error.explanation):
                raise NotTriedError(f"the engine image's programs do not run in it: {error.explanation}") from error
            raise
        return container

    def _heard(self, container: Container, last: str) -> dict[str, str]:
        deadline = time.monotonic() + _PATIENCE
        while True:
            runs = self._runs(container)
            said = said_in(container.logs().decode(errors="replace"))
            if last in said:
                return said
            if not runs:
                raise NotTriedError(f"the engine image's programs do not run in it: {_last_line(container)}")
            if time.monotonic() > deadline:
                raise DaemonStateError(f"it has not said all that it was to find within {_PATIENCE} s: {said}")
            time.sleep(0.02)

    @staticmethod
    def _runs(container: Container) -> bool:
        container.reload()
        return bool(container.status == "running")


def looked_up(daemon: Daemon, names: Sequence[str]) -> dict[str, str]:
    """Return what the daemon's own container can look up: `lookup NAME` with the exit code, 0 for found."""
    _, output = daemon.exec(["sh", "-c", _LOOKUP, "sh", *names])
    return said_in(output)


def said_in(output: str) -> dict[str, str]:
    """Read what the scripts say."""
    lines = (line.removeprefix(_SAYS) for line in output.splitlines() if line.startswith(_SAYS))
    return {name: value for name, _, value in (line.rpartition("=") for line in lines)}


def _archive() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in _FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content.encode()))
    return archive.getvalue()


def _last_line(container: Container) -> str:
    lines = container.logs().decode(errors="replace").splitlines()
    return lines[-1] if lines else "(it says nothing)"
