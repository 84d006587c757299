"""Every engine that this machine has an image of: what a daemon is for works in it, and nothing of it is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import docker
import pytest

from pytest_dind import Daemon, Settings
from pytest_dind.container import BOOT

from .conftest import IMAGE, MATRIX, OFFICIAL, SHOW_LIMIT, fetch, tags_on

pytestmark = [pytest.mark.usefixtures("nothing_is_left"), pytest.mark.once]

ENGINES = list(dict.fromkeys([IMAGE, OFFICIAL, *MATRIX]))


def does_what_daemons_are_for(daemon: Daemon, host: docker.DockerClient, busybox: str) -> None:
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


def reach(daemon: Daemon, busybox: str) -> str:
    """Serve a page from an inner container with a memory limit, and fetch it from here."""
    script = f"mkdir /www && ({SHOW_LIMIT}) >/www/index.html && exec httpd -f -p 80 -h /www"
    container = daemon.client.containers.run(
        busybox, ["sh", "-c", script], detach=True, init=True, mem_limit="64m", ports={"80/tcp": None}
    )
    return fetch(daemon.address(container, 80)).strip()


@pytest.mark.parametrize("image", ENGINES)
def test_a_daemon_of_this_engine_does_what_daemons_are_for(
    host: docker.DockerClient, busybox: str, image: str, version_of: Callable[[str], str]
) -> None:
    version = version_of(image)
    with Daemon.start(Settings(image=image)) as daemon:
        assert daemon.version == version
        does_what_daemons_are_for(daemon, host, busybox)


def test_so_does_one_with_the_containerd_store_of_every_engine_from_28_on(
    host: docker.DockerClient, busybox: str, version_of: Callable[[str], str]
) -> None:
    present = [image for image in ENGINES if image in tags_on(host)]
    new = [image for image in present if int(version_of(image).partition(".")[0]) >= 28]
    if not new:
        pytest.skip(f"none of the engines here is Docker 28 or newer: {', '.join(present)}")
    for image in new:
        store = {"features": {"containerd-snapshotter": True}}
        with Daemon.start(Settings(image=image, config=store)) as daemon:
            assert dict(daemon.client.info()["DriverStatus"])["driver-type"] == "io.containerd.snapshotter.v1", image
            does_what_daemons_are_for(daemon, host, busybox)


@pytest.fixture(scope="module")
def official(version_of: Callable[[str], str]) -> Iterator[Daemon]:
    version_of(OFFICIAL)
    with Daemon.start(Settings(image=OFFICIAL)) as daemon:
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
