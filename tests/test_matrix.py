"""Every engine that this machine has an image of: what a daemon is for works in it, and nothing of it is left."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from docker.errors import ImageNotFound

from pytest_dind import Daemon, Settings
from pytest_dind.container import BOOT

from .conftest import wait_until
from .remains import nothing_new_remains

CONTAINERD_STORE = {"features": {"containerd-snapshotter": True}}
#: The first engine whose containerd store is what later ones have by default.
WITH_CONTAINERD_STORE = "28.5.2"

SHOW_LIMIT = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"


def engines() -> Iterator[Any]:
    """Yield image and daemon.json of each engine to test."""
    own = os.environ.get("PYTEST_DIND_IMAGE", "docker:dind")
    official = os.environ.get("PYTEST_DIND_OFFICIAL_IMAGE", "docker:dind")
    matrix = os.environ.get("PYTEST_DIND_MATRIX", "").split()
    for image in dict.fromkeys([own, official, *matrix]):
        yield pytest.param(image, None, id=image)
        if WITH_CONTAINERD_STORE in image:
            yield pytest.param(image, CONTAINERD_STORE, id=f"{image}-containerd-store")


def present(host: docker.DockerClient, image: str) -> str:
    try:
        host.images.get(image)
    except ImageNotFound:
        pytest.skip(f"the host engine has no image {image}")
    return image


@pytest.fixture(autouse=True)
def _nothing_is_left(host: docker.DockerClient) -> Iterator[None]:
    with nothing_new_remains(host):
        yield


def reach(daemon: Daemon, busybox: str) -> str:
    """Serve a page from an inner container with a memory limit, and fetch it from here."""
    script = f"mkdir /www && ({SHOW_LIMIT}) >/www/index.html && exec httpd -f -p 80 -h /www"
    container = daemon.client.containers.run(
        busybox, ["sh", "-c", script], detach=True, init=True, mem_limit="64m", ports={"80/tcp": None}
    )
    address, port = daemon.address(container, 80)
    pages: list[str] = []

    def answered() -> bool:
        try:
            with urllib.request.urlopen(f"http://{address}:{port}/", timeout=5) as answer:
                pages.append(answer.read().decode().strip())
        except OSError:  # not yet
            return False
        return True

    wait_until(answered, lambda: f"nobody answers at {address}:{port}; the container says {container.logs()!r}")
    return pages[0]


@pytest.mark.parametrize(("image", "config"), list(engines()))
def test_a_daemon_of_this_engine_does_what_daemons_are_for(
    host: docker.DockerClient, busybox: str, image: str, config: dict[str, Any] | None
) -> None:
    with Daemon.start(Settings(image=present(host, image), config=config)) as daemon:
        if config is CONTAINERD_STORE:
            assert dict(daemon.client.info()["DriverStatus"])["driver-type"] == "io.containerd.snapshotter.v1"
        identity = daemon.load(busybox)
        inside, outside = daemon.client.images.get(busybox), host.images.get(busybox)
        assert inside.id == identity
        assert inside.attrs["RootFS"]["Layers"] == outside.attrs["RootFS"]["Layers"]
        assert daemon.load(busybox) == identity
        assert reach(daemon, busybox) == str(64 * 1024**2)
        daemon.restart()
        assert daemon.client.containers.list(all=True) == []
        assert daemon.client.images.list() == []
        daemon.load(busybox)
        assert daemon.client.containers.run(busybox, ["echo", "again"]) == b"again\n"


@pytest.fixture(scope="module")
def official(host: docker.DockerClient) -> Iterator[Daemon]:
    image = present(host, os.environ.get("PYTEST_DIND_OFFICIAL_IMAGE", "docker:dind"))
    with Daemon.start(Settings(image=image)) as daemon:
        yield daemon


class TestOfficialImage:
    """docker:dind is Alpine with an entrypoint of its own; or a stand-in for it, where no registry is reached."""

    def test_its_variable_that_asks_for_tls_does_no_harm(self, official: Daemon) -> None:
        assert official.exec(["sh", "-c", "echo $DOCKER_TLS_CERTDIR"]) == (0, "/certs\n")
        assert official.client.ping()

    def test_it_makes_no_certificates(self, official: Daemon) -> None:
        assert official.exec(["find", "/certs", "-type", "f"]) == (0, "")

    def test_it_listens_on_no_tcp_port(self, official: Daemon) -> None:
        code, tables = official.exec(["cat", "/proc/net/tcp", "/proc/net/tcp6"])
        assert code == 0
        rows = [line.split() for line in tables.splitlines() if not line.lstrip().startswith("sl")]
        listening = [row[1] for row in rows if row[3] == "0A"]
        assert listening == []

    def test_its_entrypoint_and_wrapper_have_started_dockerd(self, official: Daemon) -> None:
        _, environment = official.exec(["sh", "-c", "tr '\\0' '\\n' </proc/$(cat /var/run/docker.pid)/environ"])
        assert "container=docker" in environment.splitlines(), "moby's hack/dind sets this"

    def test_boot_sh_is_a_script_for_its_shell(self, official: Daemon) -> None:
        assert official.exec(["sh", "-n", BOOT]) == (0, "")
