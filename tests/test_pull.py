"""An image that the host engine has not got is pulled: from a registry, if a small one, that really serves it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import docker
import pytest
from docker.errors import ImageNotFound

from pytest_dind import Daemon, DaemonStartError, EngineRefusedError, Settings
from pytest_dind.host import HostEngine

from .conftest import InnerRun
from .servers import Registry


@pytest.fixture
def registry(host: docker.DockerClient) -> Iterator[Registry]:
    """A registry on this machine's address in the host engine's network, where daemons reach it, and nobody outside."""
    (found, *_) = host.networks.get("bridge").attrs["IPAM"]["Config"]
    try:
        with Registry.opened(found["Gateway"]) as registry:
            yield registry
    except OSError as error:
        pytest.skip(f"the host engine's bridge has no address on this machine: {error}")


@pytest.fixture
def pulling(registry: Registry, image: str) -> Iterator[Daemon]:
    """A daemon that pulls from it."""
    with Daemon.start(Settings(image=image, daemon_arg=(insecure(registry),))) as daemon:
        yield daemon


def insecure(registry: Registry) -> str:
    """What lets a daemon use a registry without TLS."""
    return f"--insecure-registry={registry.name.partition('/')[0]}"


def content(client: docker.DockerClient, image: str) -> bytes:
    """What is in the image's only file."""
    container = client.containers.create(image)
    stream, _ = container.get_archive("/hello")
    archive = b"".join(stream)
    container.remove()
    return archive


def test_an_image_to_preload_that_the_host_engine_has_not_got_is_pulled_inside(
    inner: InnerRun, registry: Registry, host: docker.DockerClient
) -> None:
    inner.pytester.makepyfile(
        f"""
        def test_it(dind_client):
            assert dind_client.images.get({registry.name!r}).id in {registry.ids!r}
            stream, _ = dind_client.containers.create({registry.name!r}).get_archive("/hello")
            assert {registry.content!r} in b"".join(stream)
        """
    )
    result = inner.run(
        "--dind", "-p", "no:xdist", f"--dind-preload={registry.name}", f"--dind-daemon-arg={insecure(registry)}"
    )
    result.assert_outcomes(passed=1)
    assert [path for path in registry.served if "/manifests/" in path] != []
    with pytest.raises(ImageNotFound):
        host.images.get(registry.name)


def test_a_pulled_image_has_the_id_that_load_returns_and_is_not_pulled_again(
    pulling: Daemon, registry: Registry
) -> None:
    identity = pulling.load(registry.name)
    assert identity in registry.ids
    assert pulling.client.images.get(registry.name).id == identity
    assert registry.content in content(pulling.client, registry.name)
    registry.served.clear()
    assert pulling.load(registry.name) == identity
    assert registry.served == []


def test_an_image_that_the_registry_has_not_got_is_an_error_with_its_answer(
    pulling: Daemon, registry: Registry
) -> None:
    engine = HostEngine(pulling.client, pulling.host)
    with pytest.raises(Exception, match=r"is nowhere: the host engine at .* pulling it failed: .*(unknown|not found)"):
        engine.require_image(registry.name.replace("tiny:1", "tiny:2"))


def test_the_image_of_the_daemons_is_pulled_by_the_host_engine_once(pulling: Daemon, registry: Registry) -> None:
    engine = HostEngine(pulling.client, pulling.host)
    engine.require_image(registry.name)
    assert registry.content in content(pulling.client, registry.name)
    assert pulling.client.images.get(registry.name).id in registry.ids
    registry.served.clear()
    engine.require_image(registry.name)
    assert registry.served == []


def test_a_daemon_is_started_from_an_image_that_has_to_be_pulled_for_it(pulling: Daemon, registry: Registry) -> None:
    # It holds no engine; to see that, its container has been made.
    with pytest.raises((DaemonStartError, EngineRefusedError)) as caught:
        pulling.nest(Settings(image=registry.name)).stop()
    error: Any = caught.value
    assert error.cause == "The image has no shell, so nothing can start a daemon in it."
    assert pulling.client.images.get(registry.name).id in registry.ids
