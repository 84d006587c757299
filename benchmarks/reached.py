"""A daemon where it is reached, whoever started it: its client, and images loaded into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker

if TYPE_CHECKING:
    from pytest_dind.host import HostEngine

#: Seconds; eight of them at once on two cores take more than a minute each.
_LONGEST_LOAD = 600


@dataclass(frozen=True)
class Reached:
    """A daemon that answers."""

    #: Name of its container on the host engine; empty if it has none.
    container: str
    #: Its DOCKER_HOST.
    host: str
    #: The directory with its client's certificates; empty if it needs none.
    certificates: str = ""

    @contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        """Have a client of it."""
        tls: Any = False
        if self.certificates:
            key, own, authority = (str(Path(self.certificates) / name) for name in ("key.pem", "cert.pem", "ca.pem"))
            tls = docker.tls.TLSConfig(client_cert=(own, key), ca_cert=authority, verify=True)
        # The first has only one question, which is asked without any version.
        asking = self._connected("1.41", tls)
        version = asking.api.version(api_version=False)["ApiVersion"]
        asking.close()
        client = self._connected(version, tls)
        try:
            yield client
        finally:
            client.close()

    def _connected(self, version: str, tls: Any) -> Any:
        client = docker.DockerClient(self.host, version, timeout=_LONGEST_LOAD, tls=tls)
        # Else requests prefers REQUESTS_CA_BUNDLE, where that is set, to the authority that it was told. For that,
        # docker-py's own "auto" would ask too early.
        client.api.trust_env = False
        return client

    def load(self, engine: HostEngine, image: str) -> None:
        """Load an image of the host engine into it: `docker save` piped into `docker load`, no file in between.

        Docker's library does both, which is as fast as the CLI. Neither testcontainers nor pytest-docker-tools has
        another way to offer.

        :raises RuntimeError: it does not take the image; with its reason.
        """
        with self.client() as client:
            api: Any = client.api
            for line in api.load_image(engine.save(image)):
                if "error" in line:
                    raise RuntimeError(f"{self.container or self.host} cannot load {image}: {line['error']}")
