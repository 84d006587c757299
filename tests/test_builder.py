"""Images are really built: by BuildKit where the engine image has it, else by the classic builder."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from pytest_dind import (
    Build,
    Daemon,
    DaemonStartError,
    ImageBuildError,
    ImageNotFoundError,
    Settings,
    buildcache,
    builder,
    built,
    loading,
    results,
)
from pytest_dind.places import builds_dir

from .builds import Witness, Workplace, witness_near, workplace, write
from .conftest import BUSYBOX, IMAGE, MATRIX, nothing_new_remains

pytestmark = pytest.mark.once

#: An engine image without buildx, if there is one.
CLASSIC = next((image for image in MATRIX if ":20.10" in image), None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """Where this module builds."""
    with workplace(IMAGE, tmp_path_factory.mktemp("place")) as place:
        yield place


@pytest.fixture
def classic(place: Workplace) -> Workplace:
    """The same with an engine image that has no buildx."""
    if CLASSIC is None:
        pytest.skip("no image of Docker 20.10 is in PYTEST_DIND_MATRIX")
    return dataclasses.replace(place, image=CLASSIC)


@pytest.fixture(params=["buildkit", "classic"])
def either(request: pytest.FixtureRequest, place: Workplace) -> Workplace:
    """Each of the two in turn."""
    found: Workplace = place if request.param == "buildkit" else request.getfixturevalue("classic")
    return found


@pytest.fixture(scope="module")
def witness(host: docker.DockerClient) -> Iterator[Witness]:
    """Who hears of the steps."""
    with witness_near(host) as witness:
        yield witness


@pytest.fixture(scope="module")
def receiver(place: Workplace) -> Iterator[Daemon]:
    """A daemon that gets what is built."""
    with Daemon.start(place.settings(), engine=place.engine) as daemon:
        yield daemon


def build_into(daemon: Daemon, build: Build, place: Workplace) -> str:
    return built.build_into(daemon.client, build, place.engine, place.settings(), place.owner)


def tar_of(build: Build, place: Workplace, **changes: object) -> results.Built:
    return built.tar_of(build, place.engine, place.settings(**changes), place.owner)


def cat(daemon: Daemon, image: str, *paths: str) -> str:
    shown: bytes = daemon.client.containers.run(image, ["cat", *paths], remove=True)
    return shown.decode()


MODERN = """\
FROM {busybox} AS first
ARG WORD=none
RUN --mount=type=secret,id=key tr a-z A-Z </run/secrets/key >/secret
RUN --mount=type=cache,target=/cache echo $WORD >>/cache/words && cp /cache/words /words
COPY <<END /heredoc
a ${{WORD}}
END
COPY . /context
FROM first
RUN false
"""


def test_buildkit_builds_with_secrets_caches_heredocs_arguments_and_targets(
    place: Workplace, receiver: Daemon, busybox: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "app", "FROM scratch\n", left="out", kept="in")
    (path / ".dockerignore").write_text("left\nDockerfile\n")
    (path / "out").symlink_to("/nowhere")
    os.mkfifo(path / "pipe")
    (tmp_path / "Dockerfile.modern").write_text(MODERN.format(busybox=busybox))
    (tmp_path / "key").write_text("secret\n")

    def build(word: str) -> Build:
        return Build(
            path,
            dockerfile="../Dockerfile.modern",
            buildargs={"WORD": word},
            target="first",
            secrets={"key": tmp_path / "key"},
        )

    with nothing_new_remains(receiver.engine.client):
        first = build_into(receiver, build("one"), place)
    assert cat(receiver, first, "/secret", "/words", "/heredoc") == "SECRET\none\na one\n"
    listed: bytes = receiver.client.containers.run(first, ["ls", "-A", "/context"], remove=True)
    assert listed.decode().split() == [".dockerignore", "kept", "out", "pipe"]
    # Another secret is no other build; another argument is one, by the same builder, whose cache lives on.
    (tmp_path / "key").write_text("another\n")
    assert build_into(receiver, build("one"), place) == first
    second = build_into(receiver, build("two"), place)
    assert cat(receiver, second, "/words") == "one\ntwo\n"


def test_the_classic_builder_builds_where_there_is_no_buildx(
    classic: Workplace, receiver: Daemon, busybox: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "app", "FROM scratch\n", left="out", kept="in")
    (path / ".dockerignore").write_text("left\n")
    (tmp_path / "Dockerfile.out").write_text(
        f"FROM {busybox} AS first\nARG WORD\nCOPY . /context\nRUN echo $WORD >/word\nFROM first\nRUN false\n"
    )
    build = Build(path, tag="app:old", dockerfile="../Dockerfile.out", buildargs={"WORD": "one"}, target="first")
    build_into(receiver, build, classic)
    assert cat(receiver, "app:old", "/word") == "one\n"
    listed: bytes = receiver.client.containers.run("app:old", ["ls", "/context"], remove=True)
    assert listed.decode().split() == ["Dockerfile", "kept"]


def test_the_classic_builder_says_what_it_cannot_do_and_what_to_do(
    classic: Workplace, busybox: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "app", f"FROM {busybox}\nRUN --mount=type=cache,target=/c true\n", key="k")
    cure = (
        "and here only the classic builder can be had, which knows neither RUN --mount nor heredocs nor secrets: the "
        "image of the daemons has no docker CLI with buildx. Give a --dind-image that has it, as docker:dind has"
    )
    with pytest.raises(ImageBuildError, match=r"building app:mount failed at .*--mount") as caught:
        tar_of(Build(path, tag="app:mount"), classic)
    assert cure in caught.value.reason
    with pytest.raises(ImageBuildError) as caught:
        tar_of(Build(path, tag="app:secret", secrets={"key": path / "key"}), classic)
    assert caught.value.reason == f"it has secrets, {cure}"


def test_a_step_that_fails_is_told_with_its_last_lines(either: Workplace, busybox: str, tmp_path: Path) -> None:
    path = write(tmp_path / "app", f"FROM {busybox}\nRUN seq 100 199; echo ERROR: so it is; exit 7\n")
    with pytest.raises(ImageBuildError) as caught:
        tar_of(Build(path, tag="app:fails"), either)
    first, heading, *lines = str(caught.value).splitlines()
    step = r"building app:fails failed at step 2 of 2: (/bin/sh -c )?RUN seq 100 199; echo ERROR: so it is; exit 7: "
    assert re.match(step + r".*(returned a non-zero code: 7|exit code: 7)$", first)
    assert heading == "  the last 40 lines of its output:"
    assert len(lines) == 40
    assert any(line.endswith("ERROR: so it is") for line in lines)
    assert any(line.endswith(" 199") for line in lines)


def test_a_dockerfile_that_cannot_be_read_is_told_so(place: Workplace, busybox: str, tmp_path: Path) -> None:
    path = write(tmp_path / "app", f"FROM {busybox}\nRUMBA\n")
    with pytest.raises(ImageBuildError, match=r"failed at reading the Dockerfile: .*unknown instruction: RUMBA"):
        tar_of(Build(path, tag="app:odd"), place)


def test_a_frontend_that_is_nowhere_is_told_with_what_to_do(place: Workplace, busybox: str, tmp_path: Path) -> None:
    path = write(tmp_path / "app", f"# syntax=127.0.0.1:1/frontend:1\nFROM {busybox}\n")
    with pytest.raises(ImageBuildError) as caught:
        tar_of(Build(path, tag="app:front"), place)
    assert (
        "The Dockerfile asks for the frontend 127.0.0.1:1/frontend:1, which is neither on the host engine nor could be "
        "pulled: pull it on the host engine, or leave the line `# syntax=…` out"
    ) in caught.value.reason


def test_only_what_comes_after_a_change_is_run_again(
    either: Workplace, witness: Witness, busybox: str, tmp_path: Path
) -> None:
    below, above = f"{tmp_path.name}-below", f"{tmp_path.name}-above"
    dockerfile = f"FROM {busybox}\nRUN {witness.run(below)}\nCOPY data /\nRUN {witness.run(above)}\n"
    path = write(tmp_path / "app", dockerfile, data="one")
    before = tar_of(Build(path, tag="app:cached"), either)
    (path / "data").write_text("two")
    uses = builds_dir() / f"{buildcache.newest(either.engine, builder.layout(either.settings(), either.engine))}.used"
    uses.write_text(json.dumps({before.image: 1.0}))
    after = tar_of(Build(path, tag="app:cached"), either)
    assert json.loads(uses.read_text())[before.image] > 1, "what is cached is needed again, and counts as used"
    assert (witness.seen[below], witness.seen[above]) == (1, 2)
    assert after.identity != before.identity
    assert after.path.exists()
    assert not before.path.exists(), "a newer one has taken its place"


def test_a_build_that_takes_too_long_is_ended_and_the_builder_goes_on(
    either: Workplace, receiver: Daemon, busybox: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "app", f"FROM {busybox}\nRUN sleep ${{TIME:-600}}\n")
    begin = time.monotonic()
    with nothing_new_remains(receiver.engine.client), pytest.raises(ImageBuildError) as caught:
        tar_of(Build(path, tag="app:slow"), either, build_timeout=3)
    assert time.monotonic() - begin < 60
    assert str(caught.value).splitlines()[0] == (
        "building app:slow failed at step 2 of 2: RUN sleep ${TIME:-600}: it did not end within 3 s. If it may take "
        "longer, say so: --dind-build-timeout"
    )
    write(path, f"FROM {busybox}\nRUN true after all\n")
    assert tar_of(Build(path, tag="app:slow"), either).path.exists()


def test_a_builder_whose_data_is_broken_is_made_anew(
    place: Workplace, host: docker.DockerClient, busybox: str, tmp_path: Path
) -> None:
    volume = buildcache.newest(place.engine, builder.layout(place.settings(), place.engine))
    host.containers.run(
        busybox, ["sh", "-c", "rm -rf /data/image; echo broken >/data/image"], volumes=[f"{volume}:/data"], remove=True
    )
    path = write(tmp_path / "app", f"FROM {busybox}\nRUN echo anew\n")
    assert tar_of(Build(path, tag="app:anew"), place).path.exists()
    assert volume not in buildcache.own(place.engine)


def test_a_builder_that_never_comes_up_keeps_what_it_has_cached(place: Workplace, busybox: str, tmp_path: Path) -> None:
    path = write(tmp_path / "app", f"FROM {busybox}\nRUN echo never\n")
    before = buildcache.own(place.engine)
    with pytest.raises(DaemonStartError, match="unknown flag: --nonsense"):
        tar_of(Build(path, tag="app:never"), place, daemon_arg=["--nonsense"])
    assert buildcache.own(place.engine) == before


def test_an_image_is_built_on_another_that_is_built(
    place: Workplace, receiver: Daemon, busybox: str, tmp_path: Path
) -> None:
    below = write(tmp_path / "below", f"FROM {busybox}\nCOPY data /\n", data="one")
    above = write(tmp_path / "above", "FROM below:test\nRUN cp /data /copy\n")
    with_below = Settings(image=place.image, builds=(Build(below, tag="below:test"),))
    asked = receiver.client, Build(above, tag="above:test"), place.engine, with_below, place.owner
    built.build_into(*asked)
    assert cat(receiver, "above:test", "/copy") == "one"
    (below / "data").write_text("two")
    built.build_into(*asked)
    assert cat(receiver, "above:test", "/copy") == "two"


def test_an_image_is_built_on_one_that_only_a_file_to_preload_has(
    place: Workplace, receiver: Daemon, host: docker.DockerClient, busybox: str, tmp_path: Path
) -> None:
    name, other = "pytest-dind-test/filed:1", tmp_path / "other.tar"
    filed = saved(host, busybox, name, tmp_path / "filed.tar")
    saved(host, busybox, "pytest-dind-test/other:1", other)
    path = write(tmp_path / "app", f"FROM {name}\nRUN echo on top >/top\n")
    build = Build(path, tag="app:filed")

    def identity(*files: Path) -> str:
        return built.identity_of(build, place.engine, place.settings(preload=files, pull="never"), place.owner)

    with pytest.raises(ImageNotFoundError, match=f"image '{name}' is nowhere"):
        identity(other)
    found = tar_of(build, place, preload=[filed, other], pull="never")
    assert loading.load(found.path, "app:filed", found.image, receiver.client)
    assert cat(receiver, "app:filed", "/top") == "on top\n"
    assert identity(other, filed) == found.identity, "the other has nothing to do with it"
    # The last one of the name counts, as in the daemons, and so does what the file holds now.
    assert identity(filed, saved(host, IMAGE, name, other)) != found.identity
    assert identity(filed) == found.identity
    other.replace(filed)
    assert identity(filed) != found.identity


def saved(host: docker.DockerClient, image: str, name: str, path: Path) -> Path:
    """Save an image under another name, which the host engine then does not know."""
    host.images.get(image).tag(name)
    try:
        with path.open("wb") as file:
            file.writelines(host.images.get(name).save(named=name))
    finally:
        host.images.remove(name)
    return path


def test_what_a_builder_has_not_used_for_a_week_is_removed_and_what_a_build_needs_is_not(place: Workplace) -> None:
    with Daemon.start(place.settings(), engine=place.engine) as daemon:
        api: Any = daemon.client.api
        daemon.load(BUSYBOX)
        for tag, base in (
            ("old:below", BUSYBOX),
            ("old:above", "old:below"),
            ("new:1", BUSYBOX),
            ("needed:1", BUSYBOX),
        ):
            daemon.client.images.build(fileobj=io.BytesIO(f"FROM {base}\nRUN echo {tag}\n".encode()), tag=tag)
        api.create_container("old:above", name="left-by-one-that-was-killed")
        ages = {"old:below": 7.1, "old:above": 7.1, "new:1": 6.9, "needed:1": 7.1, BUSYBOX: 7.1}
        uses = {daemon.client.images.get(tag).id: time.time() - age * 86400 for tag, age in ages.items()}
        (builds_dir() / "a-volume.used").write_text(json.dumps(uses))
        for _ in range(2):  # What others are built on may go one build later.
            buildcache.tidy(api, "a-volume", ["needed:1", f"docker.io/{BUSYBOX}"])
        assert {tag for image in daemon.client.images.list() for tag in image.tags} == {"new:1", "needed:1", BUSYBOX}
        assert api.containers(all=True) == []


def test_layers_that_a_daemon_has_are_not_streamed_again(place: Workplace, busybox: str, tmp_path: Path) -> None:
    path = write(tmp_path / "app", f"FROM {busybox}\nRUN echo top >/top\n")
    for image in MATRIX or [IMAGE]:
        at = dataclasses.replace(place, image=image)
        found = tar_of(Build(path, tag="app:top"), at)
        with Daemon.start(at.settings(), engine=at.engine) as daemon:
            daemon.load(busybox)
            with found.path.open("rb") as file:
                streamed = sum(map(len, loading._lacking(file, daemon.client.api)))
                assert streamed < 100_000 < found.path.stat().st_size
                assert loading._load(daemon.client.api, loading._lacking(file, daemon.client.api)) == ""
            assert daemon.client.images.get("app:top").id == found.image
            assert cat(daemon, "app:top", "/top") == "top\n"


def test_what_a_daemon_has_already_gets_its_name_back_without_being_loaded(
    place: Workplace, receiver: Daemon, busybox: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "app", f"FROM {busybox}\nRUN echo named\n")
    build = Build(path, tag="app:named")
    identity = build_into(receiver, build, place)
    receiver.client.images.get(identity).tag("another:name")
    receiver.client.images.remove("app:named")
    tar_of(build, place).path.write_bytes(b"not to be loaded")
    assert build_into(receiver, build, place) == identity
    assert receiver.client.images.get("app:named").id == identity


def test_an_image_that_a_build_needs_and_nobody_has_is_told(place: Workplace, tmp_path: Path) -> None:
    path = write(tmp_path / "app", "FROM 127.0.0.1:1/base:1\nRUN true\n")
    with pytest.raises(ImageBuildError, match=r"building app:none failed at .*127\.0\.0\.1:1/base:1"):
        tar_of(Build(path, tag="app:none"), place)


def test_builders_that_have_long_not_been_used_are_removed(place: Workplace) -> None:
    used, unused = (buildcache.newest(place.engine, key) for key in ("a" * 16, "b" * 16))
    for name in (used, unused):
        buildcache.make(place.engine, name)
    os.utime(builds_dir() / f"{unused}.used", (1, 1))
    # Longer than there have been any: others' are none of this test's business.
    assert buildcache.remove_all(place.engine, older_than_days=10_000) == [unused]
    assert used in buildcache.own(place.engine)
    assert unused not in buildcache.own(place.engine)
