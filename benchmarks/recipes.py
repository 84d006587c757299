"""Of what the images are made that benchmarks measure with: an operating system's files, or bytes by chance."""

from __future__ import annotations

import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from . import system_files
from .machine import OFFICIAL_IMAGE, TEST_IMAGE

if TYPE_CHECKING:
    from pytest_dind.host import HostEngine

#: By how much the size of an image may differ from what its name says.
_TOLERANCE = 0.05


@dataclass(frozen=True)
class Recipe(ABC):
    """How an image is to be."""

    title: str

    @abstractmethod
    def context(self, engine: HostEngine, labels: Mapping[str, str]) -> AbstractContextManager[IO[bytes]]:
        """Have what to build it from, on a base with busybox' tools; every step's image has the labels."""

    def require_size(self, found: int) -> None:  # noqa: B027 (nothing, where it is not in the title)
        """Fail if an image of so many bytes is not what the title says."""


@dataclass(frozen=True)
class SystemFiles(Recipe):
    """An image as most are: the files of an operating system with some big programs, in five layers."""

    size: int

    @contextmanager
    def context(self, engine: HostEngine, labels: Mapping[str, str]) -> Iterator[IO[bytes]]:
        """Have a build context with files of the image that peers run."""
        steps = (f"COPY {layer} /data/{layer}" for layer in range(system_files.LAYERS))
        dockerfile = "\n".join([*_begin(labels), *steps])
        wanted = self.size - size_of(engine, TEST_IMAGE)
        with system_files.context(engine, OFFICIAL_IMAGE, wanted, dockerfile.encode()) as archive:
            yield archive

    def require_size(self, found: int) -> None:
        """Fail if it is another.

        :raises RuntimeError: with both.
        """
        if abs(found - self.size) > _TOLERANCE * self.size:
            raise RuntimeError(f"the image of {self.title} has {found / 1e6:.0f} MB")


@dataclass(frozen=True)
class RandomBytes(Recipe):
    """Layers of files, each other bytes by chance."""

    layers: int
    files_per_layer: int
    bytes_per_file: int

    @contextmanager
    def context(self, engine: HostEngine, labels: Mapping[str, str]) -> Iterator[IO[bytes]]:
        """Have a build context with nothing but a Dockerfile."""
        del engine
        fill = self._fill_with_few() if self.files_per_layer < _MANY else self._fill_with_many()
        steps = (f"RUN mkdir -p /data/{layer} && cd /data/{layer} && {fill}" for layer in range(self.layers))
        with io.BytesIO() as made:
            with tarfile.open(fileobj=made, mode="w") as archive:
                dockerfile = "\n".join([*_begin(labels), *steps])
                system_files.add(archive, "Dockerfile", dockerfile.encode())
            made.seek(0)
            yield made

    def _fill_with_few(self) -> str:
        numbers = f"$(seq {self.files_per_layer})"
        return f"for n in {numbers}; do head -c {self.bytes_per_file} /dev/urandom >$n || exit; done"

    def _fill_with_many(self) -> str:
        # A process for each file would take minutes: so by one, which can do lines of text only.
        half = self.bytes_per_file // 2
        lines = f"head -c {self.files_per_layer * half} /dev/urandom | xxd -p -c {half}"
        return f"{lines} | awk '{{ print >NR; close(NR) }}'"


#: Files of a layer.
_MANY = 1000
MB_370 = SystemFiles("370 MB", size=370_000_000)
GB_1 = RandomBytes("1 GB", layers=10, files_per_layer=50, bytes_per_file=2_000_000)
SMALL = RandomBytes("small", layers=1, files_per_layer=1, bytes_per_file=1000)
MANY_FILES = RandomBytes("50,000 files", layers=5, files_per_layer=10_000, bytes_per_file=2_000)


def _begin(labels: Mapping[str, str]) -> list[str]:
    """Return the first lines of a Dockerfile."""
    return [f"FROM {TEST_IMAGE}", *(f"LABEL {json.dumps(name)}={json.dumps(value)}" for name, value in labels.items())]


def size_of(engine: HostEngine, image: str) -> int:
    """Return the bytes of all that an image has."""
    if "io.containerd.snapshotter.v1" in str(engine.info["DriverStatus"]):
        # There the image's own size counts what is compressed, too.
        return sum(layer["Size"] for layer in engine.api.history(image))
    return int(engine.api.inspect_image(image)["Size"])
