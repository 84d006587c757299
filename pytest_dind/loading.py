"""Loading a built image into a daemon; the layers that the daemon has already are not streamed again."""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from . import broken
from .answers import inspect_image
from .errors import ImageNotFoundError

if TYPE_CHECKING:
    import docker

_CHUNK = 1024 * 1024
#: Storage drivers of daemons that never look for the file of a layer that they have.
_LEAVING_OUT = ("overlay2", "vfs")
_END = bytes(2 * tarfile.BLOCKSIZE)


def load(archive: Path, name: str, identity: str, client: docker.DockerClient) -> str:
    """Have the one image of an archive in the daemon behind `client`, under its name; return its id there.

    :param identity: Its id where it was built, which a daemon that stores images in another way does not know.
    :raises FileNotFoundError: there is no such archive any more.
    :raises ImageNotFoundError: the daemon cannot load it.
    """
    api: Any = client.api
    inside = inspect_image(api, identity)
    if inside is not None:
        # Its name may be another image's by now.
        if name not in (inside["RepoTags"] or ()):
            repository, _, tag = name.rpartition(":")
            api.tag(identity, repository, tag, force=True)
        return identity
    with archive.open("rb") as file:
        # Without a layer that was there a moment ago it fails; then as a whole.
        failure = _load(api, _lacking(file, api)) and _load(api, _whole(file))
    inside = inspect_image(api, name)
    if failure or inside is None:
        raise ImageNotFoundError(name, f"the daemon cannot load what was built: {failure or 'it then has it not'}")
    return str(inside["Id"])


def _load(api: Any, chunks: Iterator[bytes]) -> str:
    """Stream an archive into the daemon; return why that failed, or an empty text."""
    failure = ""
    try:
        for line in api.load_image(chunks):
            failure = failure or str(line.get("error") or line.get("message") or "")
    except broken.connection() as error:
        failure = str(error)
    return failure


def _whole(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(_CHUNK):
        yield chunk


def _lacking(file: IO[bytes], api: Any) -> Iterator[bytes]:
    """Return the archive without the layers that the daemon has: it never opens the file of one that it knows."""
    # https://github.com/moby/moby/blob/v28.5.2/image/tarexport/load.go#L93-L101
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        members = tar.getmembers()
        left_out = _known(tar, {member.name: member for member in members}, api)
    return _members(file, [member for member in members if member.name not in left_out])


def _members(file: IO[bytes], members: list[tarfile.TarInfo]) -> Iterator[bytes]:
    for member in members:
        end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        yield from _part(file, member.offset, end)
    yield _END


def _part(file: IO[bytes], start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end and (chunk := file.read(min(_CHUNK, end - start))):
        start += len(chunk)
        yield chunk


def _known(tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], api: Any) -> set[str]:
    """Return the files of the layers at the bottom of the image that the daemon has in this very order."""

    def document(name: str) -> Any:
        file = tar.extractfile(members[name])
        assert file is not None
        return json.load(file)

    (image,) = document("manifest.json")
    wanted = document(image["Config"])["rootfs"]["diff_ids"]
    count = max((_common(wanted, layers) for layers in _layers_inside(api)), default=0)
    # A layer that is there twice is written once, or the second time as a link.
    needed = {_file_of(name, members) for name in image["Layers"][count:]}
    return {name for name in image["Layers"][:count] if _file_of(name, members) not in needed}


def _file_of(name: str, members: Mapping[str, tarfile.TarInfo]) -> str:
    member = members[name]
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname)) if member.issym() else name


def _layers_inside(api: Any) -> Iterator[list[str]]:
    for image in api.images():
        inside = inspect_image(api, image["Id"]) or {}
        # The containerd store wants every part of an image that is named to be there, or in the archive. Its drivers
        # have names of their own; `docker info` would say it too, and first asks runc and others for their versions.
        if (inside.get("GraphDriver") or {}).get("Name") in _LEAVING_OUT:
            yield inside.get("RootFS", {}).get("Layers") or []


def _common(one: list[str], other: list[str]) -> int:
    same = [mine == theirs for mine, theirs in zip(one, other, strict=False)]
    return (*same, False).index(False)
