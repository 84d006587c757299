"""A file of `docker save` says what is in it, whoever wrote it and however it is compressed; a broken one says so."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker
import pytest

from pytest_dind import ImageNotFoundError, tarball

from .servers import TinyImage, described, digest

pytestmark = pytest.mark.once

ONE = TinyImage.made(b"one")
OTHER = TinyImage.made(b"other")
NOT_WHOLE = "is nowhere: the file is not a whole one of docker save: "


def written(path: Path, members: Mapping[str, bytes], mtime: int = 0) -> Path:
    """A tar file, compressed as its name says."""
    mode: Any = f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w"
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), mtime
            tar.addfile(entry, io.BytesIO(content))
    return path


def saved(images: Mapping[str, TinyImage]) -> dict[str, bytes]:
    """What is in a file that an old `docker save` wrote; "a:1 b:1" is one image with two names, "" one without."""
    members: dict[str, bytes] = {}
    manifest = []
    for names, image in images.items():
        members |= {"config-" + digest(image.config)[7:] + ".json": image.config, image.diff_id + ".tar": image.layer}
        *_, config, layer = members
        manifest.append({"Config": config, "RepoTags": names.split() or None, "Layers": [layer]})
    return {**members, "manifest.json": json.dumps(manifest).encode()}


def laid_out(name: str, images: Mapping[str, TinyImage]) -> dict[str, bytes]:
    """What is in a file in the OCI's layout: an image of several platforms."""
    index = json.dumps({"manifests": [described(one.manifest, "m") for one in images.values()]}).encode()
    entry = {**described(index, "i"), "annotations": {"io.containerd.image.name": name}}
    blobs = {blob for one in images.values() for blob in (*one.blobs.values(), one.manifest)} | {index}
    members = {"blobs/" + digest(blob).replace(":", "/"): blob for blob in blobs}
    return {**members, "index.json": json.dumps({"manifests": [entry]}).encode()}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_a_file_says_the_names_of_its_images_and_what_they_are_made_of(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, saved({"a:1 docker.io/library/a:2": ONE, "host:5000/b": OTHER, "": OTHER}))
    one, other = frozenset([(ONE.diff_id,)]), frozenset([(OTHER.diff_id,)])
    assert tarball.read(path) == {"a:1": one, "a:2": one, "host:5000/b:latest": other, "": other}


def test_a_file_of_docker_save_says_what_docker_says(host: docker.DockerClient, busybox: str, tmp_path: Path) -> None:
    path = tmp_path / "busybox.tar"
    path.write_bytes(b"".join(host.images.get(busybox).save(named=busybox)))
    layers = tuple(host.images.get(busybox).attrs["RootFS"]["Layers"])
    assert tarball.read(path) == {busybox: frozenset([layers])}


def test_of_an_image_of_several_platforms_an_engine_may_take_each_that_is_there(tmp_path: Path) -> None:
    members = laid_out("docker.io/library/a:1", {"amd64": ONE, "arm64": OTHER})
    both = frozenset([(ONE.diff_id,), (OTHER.diff_id,)])
    assert tarball.read(written(tmp_path / "both.tar", members)) == {"a:1": both}
    del members["blobs/" + digest(OTHER.manifest).replace(":", "/")]
    assert tarball.read(written(tmp_path / "one.tar", members)) == {"a:1": frozenset([(ONE.diff_id,)])}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.xz"])
def test_files_are_told_apart_by_what_is_in_them(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    found = [
        tarball.identity(written(path, saved({"a:1": ONE}))),
        tarball.identity(written(path, saved({"a:2": ONE}))),
        tarball.identity(written(path, saved({"a:1": OTHER}))),
    ]
    assert len(set(found)) == 3
    assert tarball.identity(written(path, saved({"a:1": ONE}))) == found[0]


def test_a_file_written_anew_with_the_same_images_is_the_same(tmp_path: Path) -> None:
    first = tarball.identity(written(tmp_path / "a.tar", saved({"a:1": ONE})))
    assert tarball.identity(written(tmp_path / "b.tar", saved({"a:1": ONE}), mtime=1)) == first


def test_a_large_file_is_not_read_to_tell_it_from_others(tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    small = written(tmp_path / "small.tar", saved({"a:1": ONE})).read_bytes()
    layer = tarfile.TarInfo("large.tar")
    layer.size = 100 * 1024**3
    with path.open("wb") as file:
        file.write(layer.tobuf())
        file.seek(layer.size, io.SEEK_CUR)  # It takes no space on disk.
        file.write(small)
    begun = time.monotonic()
    assert tarball.identity(path) == tarball.identity(tmp_path / "small.tar")
    assert tarball.read(path) == {"a:1": frozenset([(ONE.diff_id,)])}
    assert time.monotonic() - begun < 1


def bytes_read() -> int:
    """What this process has read so far, from whatever file."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_compressed_file_is_read_once_for_all_daemons_and_anew_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_for(path: Path) -> tuple[str, int]:
        before = bytes_read()
        return tarball.identity(path), bytes_read() - before

    size = 4 * 1024**2
    path = tmp_path / "a.tar.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(size))
    # Written just now: it may change again and look the same.
    assert [read_for(path)[1] > size for _ in range(2)] == [True, True]
    monkeypatch.setattr(tarball, "_FRESH", -1.0)
    first, _ = read_for(path)
    again, read = read_for(path)
    assert again == first
    assert read < size / 10
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    time.sleep(0.02)
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(size - 1) + b"1")
    os.utime(path, ns=times)
    assert read_for(path)[0] != first


def test_of_a_file_that_this_python_cannot_uncompress_it_says_nothing_and_yet_tells_it_from_others(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.tar.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + b"one")
    one = tarball.identity(path)
    if sys.version_info < (3, 14):
        assert tarball.read(path) is None
    path.write_bytes(b"\x28\xb5\x2f\xfd" + b"other")
    assert tarball.identity(path) != one


def test_a_broken_file_is_one_error_that_says_what_is_wrong_with_it_and_what_to_do(tmp_path: Path) -> None:
    whole = saved({"a:1": ONE})
    path = written(tmp_path / "a.tar", whole)
    compressed = written(tmp_path / "a.tar.gz", whole).read_bytes()
    unread = "what it says of its images cannot be read: "
    broken: list[tuple[str, bytes | dict[str, bytes]]] = [
        ("it cannot be read: unexpected end of data", path.read_bytes()[:700]),
        ("it cannot be read: unexpected end of data", compressed[: len(compressed) // 2]),
        ("it cannot be read: truncated header", b"no tar file"),
        ("there is neither a manifest.json nor an index.json in it", {"a.json": b"{}"}),
        ("there is no image in it", {"manifest.json": b"[]"}),
        (f"{unread}KeyError('config-", {"manifest.json": whole["manifest.json"]}),
        (f"{unread}JSONDecodeError(", {"manifest.json": b"[{"}),
    ]
    for reason, said in broken:
        content = said if isinstance(said, bytes) else written(path, said).read_bytes()
        path.write_bytes(content)
        with pytest.raises(ImageNotFoundError) as caught:
            tarball.read(path)
        assert str(caught.value).startswith(f"image '{path}' {NOT_WHOLE}")
        assert reason in str(caught.value)
        assert str(caught.value).endswith("Write it anew with docker save --output.")


def test_a_file_that_is_gone_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFoundError, match=f"{NOT_WHOLE}it cannot be read: No such file"):
        tarball.identity(tmp_path / "gone.tar")


@pytest.mark.parametrize(
    ("said", "shown"),
    [("a", "a:latest"), ("docker.io/library/a:1", "a:1"), ("library/a", "a:latest"), ("docker.io/b/a:1", "b/a:1"),
     ("host:5000/a", "host:5000/a:latest"), ("a@sha256:00", "a@sha256:00"), ("sha256:00", "sha256:00")],
)  # fmt: skip
def test_a_name_is_compared_as_engines_show_it(said: str, shown: str) -> None:
    assert tarball.familiar(said) == shown
