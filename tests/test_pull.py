"""An image that the host engine has not got is pulled: from a registry, if a small one, that really serves it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import ImageNotFound

from pytest_dind import Daemon, DaemonStartError, EngineRefusedError, ImageNotFoundError, Settings, images
from pytest_dind.host import HostEngine

from .conftest import InnerRun
from .servers import Registry

pytestmark = pytest.mark.once

LOGIN = "somebody:a-password-of-theirs"


@pytest.fixture
def address(host: docker.DockerClient) -> str:
    """This machine's address in the host engine's network, where daemons reach it, and nobody outside."""
    (found, *_) = host.networks.get("bridge").attrs["IPAM"]["Config"]
    return str(found["Gateway"])


@pytest.fixture
def registry(address: str) -> Iterator[Registry]:
    """A registry for everybody."""
    try:
        with Registry.opened(address) as registry:
            yield registry
    except OSError as error:
        pytest.skip(f"the host engine's bridge has no address on this machine: {error}")


@pytest.fixture
def locked(registry: Registry, address: str) -> Iterator[Registry]:
    """A registry for those with a login."""
    with Registry.opened(address, LOGIN) as opened:
        yield opened


@pytest.fixture
def pulling(registry: Registry, address: str, image: str) -> Iterator[Daemon]:
    """A daemon that pulls from both."""
    with Daemon.start(Settings(image=image, insecure_registry=(f"{address}/32",))) as daemon:
        yield daemon


def configured(directory: Path, monkeypatch: pytest.MonkeyPatch, **config: Any) -> HostEngine:
    """The host engine, as somebody connects to it whose docker command is configured so."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    with monkeypatch.context() as patch:
        patch.setenv("DOCKER_CONFIG", str(directory))
        return HostEngine.connect()


def helper(directory: Path, script: str) -> None:
    """A credential helper: https://github.com/docker/docker-credential-helpers#usage."""
    path = directory / "docker-credential-tests"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


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
        "--dind",
        "-p",
        "no:xdist",
        f"--dind-preload={registry.name}",
        f"--dind-insecure-registry={registry.place}",
        "--dind-store-keep=0",
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


# -- with whose login


def test_a_pull_inside_uses_the_login_that_the_user_had_when_the_host_engine_was_found_and_leaves_it_nowhere(
    pulling: Daemon, locked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = base64.b64encode(LOGIN.encode()).decode()
    engine = configured(tmp_path / "docker", monkeypatch, auths={locked.place: {"auth": auth}})
    found = images.bring(locked.name, engine, pulling.client)
    engine.close()
    assert set(found.values()) <= locked.ids
    assert locked.content in content(pulling.client, locked.name)
    secrets = ["-e", LOGIN.partition(":")[2], "-e", auth]
    code, left = pulling.exec(["grep", "-rls", *secrets, "/etc", "/root", "/run", "/tmp", "/var"])
    assert (code, left) == (1, ""), "grep finds nothing"


def test_without_a_login_that_is_needed_the_error_says_so_and_where_else_it_was_looked_for(
    pulling: Daemon, locked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = configured(tmp_path / "docker", monkeypatch)
    with pytest.raises(ImageNotFoundError) as caught:
        images.bring(locked.name, engine, pulling.client)
    engine.close()
    beside = f"image '{locked.name}' is nowhere: the host engine at {engine.address} has not got it, and pulling it"
    assert str(caught.value).startswith(beside)
    assert "no basic auth credentials" in str(caught.value)


def test_a_credential_helper_is_asked_and_one_that_fails_matters_only_where_a_login_is_needed(
    pulling: Daemon, registry: Registry, locked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = configured(tmp_path / "docker", monkeypatch, credsStore="tests")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    helper(tmp_path, "echo it is out of order; exit 1")
    assert set(images.bring(registry.name, engine, pulling.client).values()) <= registry.ids
    with pytest.raises(
        ImageNotFoundError, match=r"was asked without a login, because of the user's cred.* out of order"
    ):
        images.bring(locked.name, engine, pulling.client)
    user, _, password = LOGIN.partition(":")
    helper(tmp_path, f"""echo '{{"ServerURL": "", "Username": "{user}", "Secret": "{password}"}}'""")
    assert set(images.bring(locked.name, engine, pulling.client).values()) <= locked.ids
    engine.close()


def test_a_credential_helper_that_is_missing_matters_as_little_where_warnings_are_errors(
    pulling: Daemon, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = configured(tmp_path / "docker", monkeypatch, credHelpers={registry.place: "not-there"})
    assert set(images.bring(registry.name, engine, pulling.client).values()) <= registry.ids
    engine.close()


# -- when, and from where


def test_an_image_is_pulled_even_if_the_host_engine_has_it_or_not_at_all_as_is_said(
    pulling: Daemon, registry: Registry, host: docker.DockerClient, busybox: str
) -> None:
    engine = HostEngine(host, "the host")
    host.images.get(busybox).tag(registry.name)
    try:
        local = host.images.get(registry.name).id
        assert images.bring(registry.name, engine, pulling.client, "never") == {registry.name: local}
        assert images.bring(registry.name, engine, pulling.client, "missing") == {registry.name: local}
        assert registry.served == []
        assert set(images.bring(registry.name, engine, pulling.client, "always").values()) <= registry.ids
    finally:
        host.images.remove(registry.name)
    pulling.client.images.remove(registry.name)
    registry.served.clear()
    with pytest.raises(ImageNotFoundError, match="at the host has not got it, and with --dind-pull=never nothing is"):
        images.bring(registry.name, engine, pulling.client, "never")
    assert registry.served == []
    with pytest.raises(
        ImageNotFoundError, match="with --dind-pull=always no other place is tried, and pulling it in the"
    ):
        images.bring(f"{registry.name}-not", engine, pulling.client, "always")


def test_a_mirror_is_asked_for_images_of_docker_hub_and_of_nowhere_else(registry: Registry, image: str) -> None:
    mirror = f"http://{registry.place}"
    with Daemon.start(Settings(image=image, registry_mirror=(mirror,))) as daemon:
        found = images.bring("tiny:1", daemon.engine, daemon.client)
        assert set(found.values()) <= registry.ids
        assert registry.content in content(daemon.client, "docker.io/library/tiny:1")
        registry.served.clear()
        with pytest.raises(ImageNotFoundError):
            images.bring("localhost:1/tiny:1", daemon.engine, daemon.client)
        assert registry.served == []


def test_a_pull_ends_when_it_is_to_be_broken_off(pulling: Daemon, registry: Registry) -> None:
    class EnoughError(Exception):
        pass

    def check() -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        images.bring(registry.name, HostEngine(pulling.client, "here"), pulling.client, check=check)
