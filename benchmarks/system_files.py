"""An image as most are, of a size that is known: files of an operating system, whichever an engine's image has.

Bytes by chance would not do: an image of few big files is loaded in less time than one of as many bytes in many files.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import IO, TYPE_CHECKING

from . import leftovers

if TYPE_CHECKING:
    from pytest_dind.host import HostEngine

LAYERS = 5


@dataclass(frozen=True)
class Picked:
    """A file of an image, and under which name the other image has it."""

    source: str
    target: str
    size: int


def pick(files: Iterable[tuple[str, int]], wanted: int) -> list[Picked]:
    """Pick files, the smallest first, until there are so many bytes; where all are less, each again and again.

    :param files: Their names and sizes.
    """
    ascending = sorted(files, key=lambda file: (file[1], file[0]))
    picked: list[Picked] = []
    left, time, before = wanted, 0, -1
    while len(picked) != before:  # until not even the smallest ones have room
        time, before = time + 1, len(picked)
        for name, size in ascending:
            if 0 < size <= left or (size == 0 and time == 1):
                picked.append(Picked(name, f"{time}/{name}", size))
                left -= size
    return picked


def layered(picked: list[Picked]) -> Iterator[tuple[int, Picked]]:
    """Yield each file with the number of its layer: neighbours in one, and about as many bytes in each."""
    ordered = sorted(picked, key=lambda file: file.target)
    total = sum(file.size for file in ordered) or 1
    for end, file in zip(accumulate(file.size for file in ordered), ordered, strict=True):
        yield min(LAYERS - 1, (end - file.size // 2) * LAYERS // total), file


@contextmanager
def exported(engine: HostEngine, image: str) -> Iterator[Iterator[bytes]]:
    """Have the file system of an image, as a tar file that is streamed."""
    container = engine.api.create_container(image, labels=leftovers.labels())["Id"]
    try:
        yield engine.api.export(container)
    finally:
        engine.remove(container)


@contextmanager
def context(engine: HostEngine, image: str, wanted: int, dockerfile: bytes) -> Iterator[IO[bytes]]:
    """Have a build context with a Dockerfile and files that are picked of an image, a directory for each layer."""
    with tempfile.TemporaryFile() as spooled, tempfile.TemporaryFile() as made:
        with exported(engine, image) as stream:
            spooled.writelines(stream)
        spooled.seek(0)
        with tarfile.open(fileobj=spooled) as system, tarfile.open(fileobj=made, mode="w") as archive:
            add(archive, "Dockerfile", dockerfile)
            members = {member.name: member for member in system if member.isreg()}
            sizes = ((name, member.size) for name, member in members.items())
            for layer, file in layered(pick(sizes, wanted)):
                archive.addfile(_header(f"{layer}/{file.target}", file.size), system.extractfile(members[file.source]))
        made.seek(0)
        yield made


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to an archive."""
    archive.addfile(_header(name, len(content)), io.BytesIO(content))


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size = size
    return header
