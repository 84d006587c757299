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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from .machine import OFFICIAL_IMAGE
from .measure import seconds_until

if TYPE_CHECKING:
    from docker.models.containers import Container

    from pytest_dind.host import HostEngine

_TLS_PORT = 2376
#: Seconds; far less than most conftests sleep, so that it is not their sleeping that is beaten.
_LOOK_EVERY = 0.01


def start_by_hand(engine: HostEngine) -> float:
    """Start docker:dind as its documentation says; return the seconds until it answers over TLS."""
    name = f"dind-benchmark-{secrets.token_hex(4)}"
    begin = time.monotonic()
    try:
        _wait_until_answered(engine.client.containers.run(OFFICIAL_IMAGE, name=name, privileged=True, detach=True))
        return time.monotonic() - begin
    finally:
        engine.remove(name)


def start_with_testcontainers() -> float:
    """Start docker:dind as users of testcontainers do; return the seconds until it answers over TLS."""
    # Its image cannot be had without a registry, and it starts once per process and so would count in no round.
    testcontainers_config.ryuk_disabled = True
    container = DockerContainer(OFFICIAL_IMAGE).with_kwargs(privileged=True)
    container.waiting_for(LogMessageWaitStrategy("API listen on"))
    begin = time.monotonic()
    with container:
        _wait_until_answered(container.get_wrapped_container())
        return time.monotonic() - begin


def _wait_until_answered(container: Container) -> None:
    address = _address(container)
    # dockerd opens the port when the certificates are made, and answers on it when it is ready.
    seconds_until(lambda: _opens(address), _LOOK_EVERY, time.monotonic())
    with _client_certificates(container) as context:
        connection = http.client.HTTPSConnection(address, _TLS_PORT, timeout=60, context=context)
        connection.request("GET", "/_ping")
        status = connection.getresponse().status
        connection.close()
    if status != http.HTTPStatus.OK:
        raise ConnectionError(f"/_ping was answered with {status}")


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
def _client_certificates(container: Container) -> Iterator[ssl.SSLContext]:
    stream, _ = container.get_archive("/certs/client")
    with tempfile.TemporaryDirectory() as name, tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        # By attribute: Debian bookworm's Python has no argument for it yet.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(name)
        folder = Path(name) / "client"
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        yield context
