"""An image is brought from wherever it is, by whatever it is called, and is the same inside; or one error says why."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from pytest_dind import Daemon, DindWarning, ImageNotFoundError, Settings, images, progress, tarball
from pytest_dind.host import HostEngine

from .conftest import IMAGE, MATRIX
from .servers import Registry, TinyImage
from .test_tarball import saved, written

pytestmark = pytest.mark.once

ONE = TinyImage.made(b"one")
OTHER = TinyImage.made(b"other")


@pytest.fixture(scope="module")
def registry(host: docker.DockerClient) -> Iterator[Registry]:
    """A registry where daemons reach it, and nobody outside this machine."""
    (found, *_) = host.networks.get("bridge").attrs["IPAM"]["Config"]
    try:
        with Registry.opened(found["Gateway"]) as registry:
            yield registry
    except OSError as error:
        pytest.skip(f"the host engine's bridge has no address on this machine: {error}")


@pytest.fixture(scope="module")
def own(registry: Registry) -> Iterator[Daemon]:
    """A daemon whose images are these tests'; each begins with none."""
    with Daemon.start(Settings(image=IMAGE, insecure_registry=(registry.place,))) as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def _none_at_first(request: pytest.FixtureRequest) -> None:
    for name in ("own", "containerd"):
        if name in request.fixturenames:
            client = request.getfixturevalue(name).client
            for image in client.images.list(all=True):
                client.images.remove(image.id, force=True)


@pytest.fixture(scope="module")
def containerd(registry: Registry, version_of: Callable[[str], str]) -> Iterator[Daemon]:
    """One that keeps images in containerd's store, as Docker does from 29 on."""
    for image in MATRIX:
        if int(version_of(image).split(".")[0]) >= 28:
            settings = Settings(
                image=image,
                insecure_registry=(registry.place,),
                config={"features": {"containerd-snapshotter": True}},
            )
            with Daemon.start(settings) as daemon:
                yield daemon
            return
    pytest.skip(f"no image of Docker 28 or newer is in PYTEST_DIND_MATRIX: {MATRIX}")


@pytest.fixture
def engine(host: docker.DockerClient) -> HostEngine:
    return HostEngine(host, "the host")


def as_host(daemon: Daemon) -> HostEngine:
    """A daemon in the role of the host engine."""
    return HostEngine(daemon.client, daemon.host)


def pulled(daemon: Daemon, name: str, platform: str | None = None) -> None:
    for line in daemon.client.api.pull(name, stream=True, decode=True, platform=platform):
        assert "error" not in line, line


def content(daemon: Daemon, image: str) -> bytes:
    """What is in the image's only file."""
    container = daemon.client.containers.create(image)
    stream, _ = container.get_archive("/hello")
    archive = b"".join(stream)
    container.remove()
    return archive


# -- from a file


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_all_images_of_a_file_are_there_under_all_their_names(
    name: str, own: Daemon, engine: HostEngine, tmp_path: Path
) -> None:
    path = written(tmp_path / name, saved({"a:1 docker.io/library/a:2": ONE, "": OTHER}))
    found = images.bring(path, engine, own.client)
    nameless = found.pop(next(name for name in found if name.startswith("sha256:")))
    assert found == {"a:1": own.client.images.get("a:1").id, "a:2": own.client.images.get("a:2").id}
    assert content(own, "a:2").count(b"one") == 1
    assert content(own, nameless).count(b"other") == 1
    assert images.present({**found, nameless: nameless}, own.client)


def test_a_file_that_only_the_daemon_can_uncompress_is_loaded_under_the_names_that_it_says(
    own: Daemon, engine: HostEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarball, "read", lambda _: None)  # As Python before 3.14 does for zstd.
    path = written(tmp_path / "a.tar", saved({"a:1": ONE}))
    try:
        subprocess.run(["zstd", "-q", path], check=True)
    except FileNotFoundError:
        pytest.skip("there is no zstd on this machine")
    found = images.bring(Path(f"{path}.zst"), engine, own.client)
    assert found == {"a:1": own.client.images.get("a:1").id}


def test_a_file_whose_image_is_not_what_it_says_is_one_error(own: Daemon, engine: HostEngine, tmp_path: Path) -> None:
    members = saved({"a:1": ONE})
    (layer,) = [name for name in members if name.endswith(".tar")]
    path = written(tmp_path / "a.tar", {**members, layer: OTHER.layer})
    with pytest.raises(ImageNotFoundError) as caught:
        images.bring(path, engine, own.client)
    assert str(caught.value).startswith(f"image '{path}' is nowhere: the daemon cannot load it: invalid diffID")
    assert own.client.images.list() == []


# -- by whatever it is called


def test_an_image_known_by_its_digest_is_pulled_and_goes_by_that_name(
    own: Daemon, engine: HostEngine, registry: Registry
) -> None:
    found = images.bring(registry.by_digest, engine, own.client)
    assert found == {registry.by_digest: own.client.images.get(registry.by_digest).id}
    assert set(found.values()) <= registry.ids
    assert images.present(found, own.client)
    registry.served.clear()
    assert images.bring(registry.by_digest, engine, own.client) == found
    assert registry.served == []


def test_an_image_that_the_host_engine_knows_by_its_digest_goes_by_its_id_where_it_cannot_be_pulled(
    own: Daemon, containerd: Daemon, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled(own, registry.by_digest)
    assert images.bring(registry.by_digest, as_host(own), containerd.client) == {
        registry.by_digest: containerd.client.images.get(registry.by_digest).id
    }
    containerd.client.images.remove(registry.by_digest, force=True)
    monkeypatch.setattr(registry, "manifests", {})
    with pytest.warns(
        DindWarning, match="by its id only and not by that name: .* is a pull, which failed: .*not found"
    ):
        found = images.bring(registry.by_digest, as_host(own), containerd.client)
    assert registry.content in content(containerd, found[registry.by_digest])
    assert images.present(found, containerd.client)
    # Without a warning, where nobody wants a pull.
    assert images.bring(registry.by_digest, as_host(own), containerd.client, "never") == found


def test_an_image_known_by_its_id_goes_by_the_id_that_it_has_inside(
    own: Daemon, containerd: Daemon, engine: HostEngine, tmp_path: Path
) -> None:
    images.bring(written(tmp_path / "a.tar", saved({"a:1": ONE})), engine, own.client)
    identity = str(own.client.images.get("a:1").id)
    for name in (identity, identity[7:], identity[7:19]):
        found = images.bring(name, as_host(own), containerd.client)
        assert content(containerd, found[name]).count(b"one") == 1
        assert found[name] != identity, "containerd's store has ids of another kind"
        assert images.present(found, containerd.client)
        assert images.identity(name, as_host(own), "always") == identity


@pytest.mark.parametrize("name", ["sha256:" + "0" * 64, "0" * 64])
def test_an_id_that_is_nowhere_is_one_error_and_nothing_is_pulled(name: str, own: Daemon, engine: HostEngine) -> None:
    for pull in ("missing", "always", "never"):
        with pytest.raises(ImageNotFoundError) as caught:
            images.bring(name, engine, own.client, pull)
        expected = f"image {name!r} is nowhere: the host engine at the host has not got it, and an id cannot be pulled"
        assert str(caught.value).startswith(expected)
        with pytest.raises(ImageNotFoundError, match=r"and an id cannot be pulled\. Give its name"):
            images.identity(name, engine, pull)


# -- of several platforms


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_of_an_image_of_several_platforms_the_one_that_is_there_arrives_whole(
    architecture: str, own: Daemon, containerd: Daemon, registry: Registry, version_of: Callable[[str], str]
) -> None:
    pulled(containerd, registry.of_many, f"linux/{architecture}")
    found = images.bring(registry.of_many, as_host(containerd), own.client)
    arrived = own.client.images.get(registry.of_many)
    assert found == {registry.of_many: arrived.id}
    assert arrived.attrs["Architecture"] == architecture
    assert arrived.attrs["RootFS"]["Layers"] == [registry.many[architecture].diff_id]
    # And back, into containerd's store; there it can be saved as a whole, without a word of other platforms.
    containerd.client.images.remove(registry.of_many, force=True)
    images.bring(registry.of_many, as_host(own), containerd.client)
    again = containerd.client.images.get(registry.of_many)
    assert again.attrs["Architecture"] == architecture
    assert again.attrs["RootFS"]["Layers"] == [registry.many[architecture].diff_id]
    assert b"manifest.json" in b"".join(again.save())


# -- what there is


def test_an_image_is_told_from_others_by_what_the_host_engine_calls_it_or_by_its_name_if_it_will_be_pulled(
    engine: HostEngine, host: docker.DockerClient, busybox: str, tmp_path: Path
) -> None:
    identity = host.images.get(busybox).id
    for name in (busybox, identity or "", (identity or "")[7:19]):
        assert images.identity(name, engine, "missing") == images.identity(name, engine, "never") == identity
    assert images.identity(busybox, engine, "always") == f"pulled:{busybox}"
    assert images.identity("not/there:1", engine, "missing") == "pulled:not/there:1"
    with pytest.raises(ImageNotFoundError) as caught:
        images.identity("not/there:1", engine, "never")
    assert str(caught.value) == (
        "image 'not/there:1' is nowhere: the host engine at the host has not got it, and with --dind-pull=never "
        "nothing is pulled. Pull or build it there, or give a file of docker save."
    )
    path = written(tmp_path / "a.tar", saved({"a:1": ONE}))
    assert len({images.identity(path, engine, pull) for pull in ("missing", "always", "never")}) == 1


def test_what_is_present_is_asked_once_for_all_names_and_is_no_other_image(
    own: Daemon, engine: HostEngine, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.tar", saved({"a:1": ONE, "b:latest": OTHER}))
    found = images.bring(path, engine, own.client)
    one, other = found["a:1"], found["b:latest"]
    found |= images.bring(registry.name, engine, own.client) | images.bring(registry.by_digest, engine, own.client)
    found |= {"docker.io/library/b": other, one: one, one[7:19]: one}
    asked: list[str] = []
    api: Any = own.client.api
    get = api.get
    monkeypatch.setattr(api, "get", lambda url, **more: (asked.append(url), get(url, **more))[1])  # type: ignore[func-returns-value]
    assert images.present(found, own.client)
    assert [url.rpartition("/v1.")[2].partition("/")[2] for url in asked] == ["images/json"]
    assert not images.present({**found, "a:1": other}, own.client), "it is another image"
    assert not images.present({**found, "c:1": one}, own.client), "it has another name"
    for name in found:
        assert not images.present({**found, name: "sha256:" + "0" * 64}, own.client), name
    own.client.images.remove("b:latest")
    assert not images.present(found, own.client)


# -- meanwhile


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What stages are called, and what they say."""
    said: list[str] = []

    @contextmanager
    def stage(text: str) -> Iterator[progress.Stage]:
        begun = progress.Stage(text)
        monkeypatch.setattr(begun, "say", said.append)
        said.append(text)
        yield begun

    monkeypatch.setattr(progress, "stage", stage)
    return said


def test_what_is_being_brought_says_how_far_it_is(
    own: Daemon, registry: Registry, busybox: str, said: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "busybox.tar"
    path.write_bytes(b"".join(own.engine.save(busybox)))
    images.bring(path, own.engine, own.client)
    own.client.images.remove(busybox)
    images.bring(busybox, own.engine, own.client)
    images.bring(registry.name, own.engine, own.client)
    size = f"{path.stat().st_size / 1e6:.0f}"
    first, second = said.index(f"loading {busybox}"), said.index(f"pulling {registry.name}")
    assert (said[0], said[first - 1]) == (f"loading {path}", f"{size} of {size} MB")
    assert said[second - 1] == f"{size} MB"
    # It is tiny: an engine may have it before it says for the first time how far it is.
    assert set(said[second + 1 :]) <= {"0 of 0 MB"}
