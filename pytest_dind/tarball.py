"""What images a file holds that `docker save` or a builder wrote, as it says itself; nothing is unpacked."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import time
import zlib
from collections.abc import Iterator, Mapping
from lzma import LZMAError
from pathlib import Path
from typing import Any

from .errors import ImageNotFoundError

#: How `docker load` knows a compressed file.
_MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst"}
#: Bytes of a manifest or configuration at most, as registries have it; a member of more is a layer.
_MOST = 4 * 1024**2
#: Seconds after a change in which another may come and not be seen, at most: FAT's clock ticks every other second.
_FRESH = 2.0
_BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, LZMAError, ValueError, KeyError, TypeError, AttributeError)


def identity(path: Path) -> str:
    """Return what tells the images in a file from others; a file that is not compressed is not read as a whole.

    :raises ImageNotFoundError: the file cannot be read, or holds no images.
    """
    if _compression(path):
        return f"sha256:{_hash_of_file(path)}"
    found = hashlib.sha256()
    # A manifest names what it is made of by hash, wherever it is written by Docker; the configurations do everywhere.
    for name, content in sorted(_documents(path).items()):
        found.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"sha256:{found.hexdigest()}"


def read(path: Path) -> Mapping[str, frozenset[tuple[str, ...]]] | None:
    """Return each image's name and the diff ids of its layers; for several platforms several, as an engine takes one.

    Images without a name are one entry, whose name is empty. None where this Python cannot uncompress the file, so that
    only an engine can say what is in it.

    :raises ImageNotFoundError: the file cannot be read, or holds no images.
    """
    if _compression(path) == "zst" and "zst" not in tarfile.TarFile.OPEN_METH:  # Python has it from 3.14 on.
        return None
    documents = _documents(path)
    found: dict[str, set[tuple[str, ...]]] = {}
    try:
        for name, config in (*_of_docker(documents), *_of_oci(documents)):
            found.setdefault(familiar(name), set()).add(tuple(config["rootfs"]["diff_ids"]))
    except _BROKEN as error:
        raise _broken(path, f"what it says of its images cannot be read: {error!r}") from error
    if not found:
        raise _broken(path, "there is no image in it")
    return {name: frozenset(contents) for name, contents in found.items()}


def familiar(name: str) -> str:
    """Return a name as engines show it: app:latest for app and for docker.io/library/app:latest."""
    short = name.removeprefix("docker.io/").removeprefix("index.docker.io/").removeprefix("library/")
    return f"{short}:latest" if short and "@" not in short and ":" not in short.rpartition("/")[2] else short


def _of_docker(documents: Mapping[str, bytes]) -> Iterator[tuple[str, Any]]:
    # https://github.com/moby/docker-image-spec/blob/main/spec.md#combined-image-json--filesystem-changeset-format
    for image in json.loads(documents.get("manifest.json", b"[]")):
        for name in image["RepoTags"] or ("",):
            yield name, json.loads(documents[image["Config"]])


def _of_oci(documents: Mapping[str, bytes]) -> Iterator[tuple[str, Any]]:
    # https://github.com/opencontainers/image-spec/blob/main/image-layout.md
    for entry in json.loads(documents.get("index.json", b"{}")).get("manifests", ()):
        name = entry.get("annotations", {}).get("io.containerd.image.name", "")
        # Docker writes both; what has no name here may have one there.
        if name or "manifest.json" not in documents:
            for config in _configs(documents, entry):
                yield name, config


def _configs(documents: Mapping[str, bytes], entry: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the configurations that are there: an index may name platforms which are not."""
    manifest = json.loads(documents.get(_blob(entry), b"{}"))
    for part in manifest.get("manifests", ()):
        yield from _configs(documents, part)
    if "config" in manifest and _blob(manifest["config"]) in documents:
        config = json.loads(documents[_blob(manifest["config"])])
        if "rootfs" in config:
            yield config


def _blob(entry: Mapping[str, Any]) -> str:
    return f"blobs/{entry['digest'].replace(':', '/')}"


def _documents(path: Path) -> dict[str, bytes]:
    """Return the manifests and configurations in a file, by name; the layers are skipped."""
    found = {}
    try:
        # `|` reads compressed files once, from start to end; `:` seeks over what is not wanted.
        with tarfile.open(path, "r|*" if _compression(path) else "r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if member.isreg() and member.size <= _MOST and name.endswith(".json") | name.startswith("blobs/"):
                    content = tar.extractfile(member).read()  # type: ignore[union-attr]
                    if content[:1] in b"{[":
                        found[name] = content
    except _BROKEN as error:
        raise _broken(path, f"it cannot be read: {error}") from error
    if not {"manifest.json", "index.json"} & set(found):
        raise _broken(path, "there is neither a manifest.json nor an index.json in it")
    return found


def _compression(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(6)
    except OSError as error:
        raise _broken(path, f"it cannot be read: {error.strerror}") from error
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "")


#: Every daemon of a process may be asked for the same file, which may be large.
_hashes: dict[tuple[object, ...], str] = {}


def _hash_of_file(path: Path) -> str:
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        # The last of them cannot be set back, as a copy may do with the one before.
        same = (path, info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        if same in _hashes:
            return _hashes[same]
        found = hashlib.sha256()
        while chunk := file.read(1024**2):
            found.update(chunk)
    # Two changes within one tick of a file system's clock look like one.
    if time.time() - info.st_ctime > _FRESH:
        _hashes[same] = found.hexdigest()
    return found.hexdigest()


def _broken(path: Path, reason: str) -> ImageNotFoundError:
    return ImageNotFoundError(
        str(path), f"the file is not a whole one of docker save: {reason}. Write it anew with docker save --output."
    )
