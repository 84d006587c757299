"""Images made by hand, with all that a layer can hold, and what is in them, worked out without Docker."""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .servers import digest

#: What `setcap cap_net_raw=ep` writes: version 2, effective, and bit 13. See capabilities(7).
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
#: How GNU tar and Docker write an extended attribute.
XATTR = "SCHILY.xattr."
#: The moment at which everything in these images was made; not now, which would hide that it is lost.
MOMENT = 1_000_000_000


class File(NamedTuple):
    """A file in an image, as far as tests can tell it from another."""

    kind: bytes
    mode: int
    owner: tuple[int, int]
    #: When it was changed; that of a directory is its content's, too, and is not looked at.
    moment: int
    content: str
    #: Where a link leads to.
    link: str
    capability: bytes


def entry(name: str, content: bytes | None = b"", mode: int = 0o644, **more: object) -> tuple[tarfile.TarInfo, bytes]:
    """An entry of a layer: a file, or a directory if there is no content."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    info.mode, info.mtime, info.size = mode, MOMENT, len(content or b"")
    for attribute, value in more.items():
        setattr(info, attribute, value)
    return info, content or b""


def layer(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A layer, as it is in an image that was saved."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", errors="surrogateescape") as tar:
        for info, content in entries:
            # Extended attributes are written in the one format, and names that are no text in the other.
            tar.format = tarfile.PAX_FORMAT if info.pax_headers else tarfile.GNU_FORMAT
            tar.addfile(info, io.BytesIO(content))
    return archive.getvalue()


def strange_layers() -> tuple[bytes, ...]:
    """Layers with one of each kind of thing in /s, and on top of them others that take some of it away."""
    capable = {f"{XATTR}security.capability": CAPABILITY.decode("utf-8", "surrogateescape")}
    lower = layer(
        entry("s", None, 0o755),
        entry("s/plain", b"as it was"),
        entry("s/changed", b"before"),
        entry("s/removed", b"to be removed"),
        entry("s/setuid", b"#!", 0o6755),
        entry("s/sticky", None, 0o1777),
        entry("s/owned", b"by somebody", 0o600, uid=100_000, gid=70_000),
        entry("s/capable", b"of raw sockets", 0o755, pax_headers=capable),
        entry("s/one-of-two", b"two names"),
        entry("s/other-of-two", b"", type=tarfile.LNKTYPE, linkname="s/one-of-two"),
        entry("s/link", type=tarfile.SYMTYPE, linkname="plain", mode=0o777),
        entry("s/dangling", type=tarfile.SYMTYPE, linkname="../not/there", mode=0o777),
        entry("s/pipe", type=tarfile.FIFOTYPE),
        entry("s/not-\udcff\udcfe-text", b"a name of no encoding"),
        entry("s/sp ace\nand line", b"a name of two lines"),
        entry("s/" + "long" * 60, b"a name of 240 bytes"),
        entry("s/opaque", None, 0o700),
        entry("s/opaque/hidden", b"from below"),
        entry("s/opaque/deep", None, 0o755),
        entry("s/opaque/deep/hidden", b"from below"),
        entry("s/directory", None, 0o755),
        entry("s/directory/file", b"in a directory"),
        entry("s/file", b"a file"),
    )
    empty = layer()
    upper = layer(
        entry("s", None, 0o755),
        entry("s/changed", b"after", 0o640),
        entry("s/.wh.removed"),
        entry("s/opaque", None, 0o750),
        entry("s/opaque/.wh..wh..opq"),
        entry("s/opaque/shown", b"from above"),
        entry("s/.wh.directory"),
        entry("s/directory", b"a file where a directory was"),
        entry("s/.wh.file"),
        entry("s/file", None, 0o711),
        entry("s/file/below", b"a directory where a file was"),
    )
    return lower, empty, upper, empty


def many_layers(count: int) -> tuple[bytes, ...]:
    """Layers, each with a file of its own in /s, and the number of the last in one that all write."""
    return tuple(
        layer(entry("s", None, 0o755), entry(f"s/{number}", b"%d" % number), entry("s/newest", b"%d" % number))
        for number in range(count)
    )


def small_files(count: int) -> bytes:
    """A layer of so many small files."""
    folders = (entry(f"s/{number}", None, 0o755) for number in range(0, count, 1000))
    files = (entry(f"s/{number - number % 1000}/{number}", b"%d" % number) for number in range(count))
    return layer(entry("s", None, 0o755), *folders, *files)


def write_images(path: Path, images: Mapping[str, Sequence[bytes]], command: Sequence[str] = ("sh",)) -> Path:
    """Write a file as an old `docker save` does, with these images of these layers; return it."""
    manifest: list[dict[str, object]] = []
    members: dict[str, bytes] = {}
    for name, layers in images.items():
        config = _configuration(layers, command)
        members |= {digest(part)[7:] + ".tar": part for part in layers} | {digest(config)[7:] + ".json": config}
        names = {"Config": digest(config)[7:] + ".json", "Layers": [digest(part)[7:] + ".tar" for part in layers]}
        manifest.append({**names, "RepoTags": [name]})
    members["manifest.json"] = json.dumps(manifest).encode()
    path.write_bytes(layer(*(entry(name, content) for name, content in members.items())))
    return path


def _configuration(layers: Sequence[bytes], command: Sequence[str]) -> bytes:
    steps = [{"created": "2001-09-09T01:46:40Z", "created_by": f"step {number}"} for number in range(len(layers))]
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2001-09-09T01:46:40Z",
            "config": {"Cmd": list(command), "Env": ["PATH=/bin:/usr/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(part) for part in layers]},
            "history": steps,
        }
    ).encode()


def layers_of(saved: bytes) -> tuple[bytes, ...]:
    """The layers of the only image in what `docker save` wrote."""
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:

        def content(name: str) -> bytes:
            found = tar.extractfile(name)
            assert found is not None
            return found.read()

        (image,) = json.loads(content("manifest.json"))
        return tuple(content(name) for name in image["Layers"])


# -- what is in an image


def contents(layers: Iterable[bytes], below: str = "s") -> dict[str, File]:
    """What is in an image of these layers, below a directory; or in a container, for the archive of its export."""
    # https://github.com/opencontainers/image-spec/blob/main/layer.md
    found: dict[str, File] = {}
    for archive in layers:
        files = _files(archive, below)
        for name in files:
            folder, _, base = name.rpartition("/")
            if base == ".wh..wh..opq":
                _forget(found, f"{folder}/")
            elif base.startswith(".wh."):
                removed = f"{folder}/{base[4:]}"
                found.pop(removed, None)
                _forget(found, f"{removed}/")
        found |= {name: file for name, file in files.items() if "/.wh." not in name}
    return found


def _forget(found: dict[str, File], beginning: str) -> None:
    for name in [name for name in found if name.startswith(beginning)]:
        del found[name]


def _files(archive: bytes, below: str) -> dict[str, File]:
    found: dict[str, File] = {}
    with tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape") as tar:
        for info in tar:
            name = posixpath.normpath(info.name)
            if name != below and not name.startswith(f"{below}/"):
                continue
            # Of two hard links one is written as the other's, and it does not matter which.
            file = tar.extractfile(info) if info.isreg() or info.islnk() else None
            found[name] = File(
                tarfile.REGTYPE if info.islnk() else info.type,
                info.mode & 0o7777,
                (info.uid, info.gid),
                0 if info.isdir() else int(info.mtime),
                digest(file.read()) if file else "",
                info.linkname if info.issym() else "",
                info.pax_headers.get(f"{XATTR}security.capability", "").encode("utf-8", "surrogateescape"),
            )
    return found
