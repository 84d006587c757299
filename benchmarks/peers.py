"""The peers: docker:dind started by hand with the Docker SDK, by testcontainers-python and by pytest-docker-tools."""

from __future__ import annotations

import http.client
import io
import secrets
import socket
import ssl
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import leftovers
from .machine import OFFICIAL_IMAGE
from .measure import seconds_until
from .reached import Reached

#: Who has not got it measures without it.
HAVE_TESTCONTAINERS = find_spec("testcontainers") is not None

if TYPE_CHECKING:
    from docker.models.containers import Container

    from pytest_dind.host import HostEngine

#: Where .ci/venv puts pytest-docker-tools. Among the other packages, every pytest there would load it, and with it
#: Docker's library, which `import_cost` and tests count.
DOCKER_TOOLS = Path(sys.prefix) / "peers"
HAVE_DOCKER_TOOLS = find_spec("pytest_docker_tools") is not None or DOCKER_TOOLS.is_dir()

_TLS_PORT = 2376
#: Seconds; far less than most conftests sleep, so that it is not their sleeping that is beaten.
_LOOK_EVERY = 0.01
_LOOK_AT_CONTAINER_EVERY = 2
#: Seconds until it answers; 32 of them at once, which all make RSA keys, take minutes on two cores.
PATIENCE = 600


def import_testcontainers() -> None:
    """Import it, before any clock runs, where it is wanted: one that is broken costs nobody else anything."""
    import_module("testcontainers.core.container")
    import_module("testcontainers.core.wait_strategies")


def start_by_hand(engine: HostEngine) -> float:
    """Start docker:dind with its own entrypoint; return the seconds until it answers over TLS."""
    begin = time.monotonic()
    with by_hand(engine):
        return time.monotonic() - begin


def start_with_testcontainers() -> float:
    """Start docker:dind as users of testcontainers do; return the seconds until it answers over TLS."""
    begin = time.monotonic()
    with with_testcontainers():
        return time.monotonic() - begin


@contextmanager
def by_hand(engine: HostEngine) -> Iterator[Reached]:
    """Have docker:dind, started with its own entrypoint, which makes new certificates as in any fresh CI job.

    Its documentation has them in volumes, where the second start with the same ones finds them.
    """
    name = f"dind-benchmark-{secrets.token_hex(4)}"
    try:
        container = engine.client.containers.run(
            OFFICIAL_IMAGE, name=name, privileged=True, detach=True, labels=leftovers.labels()
        )
        with answering(container) as peer:
            yield peer
    finally:
        engine.remove(name)


@contextmanager
def with_testcontainers() -> Iterator[Reached]:
    """Have docker:dind, started as users of testcontainers do."""
    # Not above: see import_testcontainers.
    from testcontainers.core.config import testcontainers_config  # noqa: PLC0415
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy  # noqa: PLC0415

    # Its image cannot be had without a registry, and it starts once per process and so would count in no round.
    testcontainers_config.ryuk_disabled = True
    container = DockerContainer(OFFICIAL_IMAGE).with_kwargs(privileged=True, labels=leftovers.labels())
    container.waiting_for(LogMessageWaitStrategy("API listen on").with_startup_timeout(PATIENCE))
    with container, answering(container.get_wrapped_container()) as peer:
        yield peer


@contextmanager
def answering(container: Container) -> Iterator[Reached]:
    """Wait until docker:dind in a container answers over TLS; have it with its client's certificates."""
    address = _address(container)
    leftovers.note(container)
    # dockerd opens the port when the certificates are made, and answers on it when it is ready.
    _wait_for_port(container, address)
    with _client_certificates(container) as folder:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        connection = http.client.HTTPSConnection(address, _TLS_PORT, timeout=PATIENCE, context=context)
        connection.request("GET", "/_ping")
        status = connection.getresponse().status
        connection.close()
        if status != http.HTTPStatus.OK:
            raise ConnectionError(f"/_ping was answered with {status}")
        yield Reached(str(container.name), f"tcp://{address}:{_TLS_PORT}", str(folder))


def _wait_for_port(container: Container, address: str) -> None:
    """Wait until somebody listens there, or nobody ever will.

    :raises RuntimeError: the container has ended instead; with its last words.
    """
    looked = time.monotonic()

    def is_open() -> bool:
        nonlocal looked
        found = _opens(address)
        # The address of one that has ended may be another's by now, with a port that is open.
        if found or time.monotonic() - looked > _LOOK_AT_CONTAINER_EVERY:
            looked = time.monotonic()
            container.reload()
            if container.status == "exited":
                raise RuntimeError(f"{container.name} has ended: {container.logs(tail=20).decode(errors='replace')}")
        return found

    seconds_until(is_open, _LOOK_EVERY, time.monotonic(), PATIENCE)


def _address(container: Container) -> str:
    # Its own address and not a published port, behind which the host engine's proxy listens before anybody is there.
    container.reload()
    networks: dict[str, Any] = container.attrs["NetworkSettings"]["Networks"]
    return str(networks["bridge"]["IPAddress"])


def _opens(address: str) -> bool:
    try:
        socket.create_connection((address, _TLS_PORT), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def _client_certificates(container: Container) -> Iterator[Path]:
    stream, _ = container.get_archive("/certs/client")
    with tempfile.TemporaryDirectory() as name, tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        # By attribute: Debian bookworm's Python has no argument for it yet.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(name)
        yield Path(name) / "client"
