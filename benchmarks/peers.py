"""The peers: docker:dind started by hand with the Docker SDK, and by testcontainers-python, each until it answers."""

from __future__ import annotations

import http.client
import io
import secrets
import socket
import ssl
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from .machine import OFFICIAL_IMAGE
from .measure import seconds_until

if TYPE_CHECKING:
    from docker.models.containers import Container

    from pytest_dind.host import HostEngine

_TLS_PORT = 2376
#: What is asked of it, every version knows.
_API = "1.41"
#: Seconds; far less than most conftests sleep, so that it is not their sleeping that is beaten.
_LOOK_EVERY = 0.01
#: Seconds; eight of them at once on two cores take more than a minute each.
_LONGEST_LOAD = 600


def start_by_hand(engine: HostEngine) -> float:
    """Start docker:dind as its documentation says; return the seconds until it answers over TLS."""
    begin = time.monotonic()
    with by_hand(engine):
        return time.monotonic() - begin


def start_with_testcontainers() -> float:
    """Start docker:dind as users of testcontainers do; return the seconds until it answers over TLS."""
    begin = time.monotonic()
    with with_testcontainers():
        return time.monotonic() - begin


@dataclass(frozen=True)
class Peer:
    """A daemon that answers over TLS, in docker:dind's container."""

    container: Container
    address: str
    #: The directory with its client's certificates.
    certificates: Path

    @property
    def name(self) -> str:
        """Name of its container on the host engine."""
        return str(self.container.name)

    def load(self, engine: HostEngine, image: str) -> None:
        """Load an image of the host engine into it: `docker save` piped into `docker load`, no file in between.

        Docker's library does both, which is as fast as the CLI. Neither testcontainers nor pytest-docker-tools has
        another way to offer.
        """
        with self._client() as client:
            api: Any = client.api
            for line in api.load_image(engine.save(image)):
                if "error" in line:
                    raise RuntimeError(f"{self.name} cannot load {image}: {line['error']}")

    @contextmanager
    def _client(self) -> Iterator[docker.DockerClient]:
        key, own, authority = (str(self.certificates / name) for name in ("key.pem", "cert.pem", "ca.pem"))
        tls = docker.tls.TLSConfig(client_cert=(own, key), ca_cert=authority, verify=True)
        client = docker.DockerClient(f"tcp://{self.address}:{_TLS_PORT}", _API, timeout=_LONGEST_LOAD, tls=tls)
        # Else requests prefers REQUESTS_CA_BUNDLE, where that is set, to the authority that it was told.
        client.api.trust_env = False
        try:
            yield client
        finally:
            client.close()


@contextmanager
def by_hand(engine: HostEngine) -> Iterator[Peer]:
    """Have docker:dind, started as its documentation says."""
    name = f"dind-benchmark-{secrets.token_hex(4)}"
    try:
        container = engine.client.containers.run(OFFICIAL_IMAGE, name=name, privileged=True, detach=True)
        with _answering(container) as peer:
            yield peer
    finally:
        engine.remove(name)


@contextmanager
def with_testcontainers() -> Iterator[Peer]:
    """Have docker:dind, started as users of testcontainers do."""
    # Its image cannot be had without a registry, and it starts once per process and so would count in no round.
    testcontainers_config.ryuk_disabled = True
    container = DockerContainer(OFFICIAL_IMAGE).with_kwargs(privileged=True)
    container.waiting_for(LogMessageWaitStrategy("API listen on"))
    with container, _answering(container.get_wrapped_container()) as peer:
        yield peer


@contextmanager
def _answering(container: Container) -> Iterator[Peer]:
    address = _address(container)
    # dockerd opens the port when the certificates are made, and answers on it when it is ready.
    seconds_until(lambda: _opens(address), _LOOK_EVERY, time.monotonic())
    with _client_certificates(container) as folder:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        connection = http.client.HTTPSConnection(address, _TLS_PORT, timeout=60, context=context)
        connection.request("GET", "/_ping")
        status = connection.getresponse().status
        connection.close()
        if status != http.HTTPStatus.OK:
            raise ConnectionError(f"/_ping was answered with {status}")
        yield Peer(container, address, folder)


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
