"""Images made to be measured with: big ones and one of many files, removed in the end with all that came of them."""

from __future__ import annotations

import io
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from docker.errors import APIError

from pytest_dind import inside, store
from pytest_dind.host import HostEngine

from .machine import IMAGE, TEST_IMAGE
from .measure import progress, seconds_until


@dataclass(frozen=True)
class Recipe(ABC):
    """How an image is to be."""

    title: str

    @abstractmethod
    def dockerfile(self, label: str) -> str:
        """Return the Dockerfile, for a base with busybox' tools; every step's image has the label."""


class SystemFiles(Recipe):
    """An image as most are: the files of an operating system with some big programs, in five layers."""

    def dockerfile(self, label: str) -> str:
        """Return the Dockerfile."""
        copied = ("bin", "lib", "libexec", "share", "sbin")
        # Without the biggest one, it is of about 370 MB.
        system = [f"FROM {IMAGE} AS system", f"LABEL {label}", "RUN rm -f /usr/sbin/dockerd /usr/local/bin/dockerd"]
        steps = (f"COPY --from=system /usr/{name} /data/{name}" for name in copied)
        return "\n".join([*system, f"FROM {TEST_IMAGE}", f"LABEL {label}", *steps]) + "\n"


@dataclass(frozen=True)
class RandomBytes(Recipe):
    """Layers of files, each other bytes by chance."""

    layers: int
    files_per_layer: int
    bytes_per_file: int

    def dockerfile(self, label: str) -> str:
        """Return the Dockerfile."""
        fill = self._fill_with_few() if self.files_per_layer < _MANY else self._fill_with_many()
        steps = (f"RUN mkdir -p /data/{layer} && cd /data/{layer} && {fill}" for layer in range(self.layers))
        return "\n".join([f"FROM {TEST_IMAGE}", f"LABEL {label}", *steps]) + "\n"

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
MB_370 = SystemFiles("370 MB")
GB_1 = RandomBytes("1 GB", layers=10, files_per_layer=50, bytes_per_file=2_000_000)
SMALL = RandomBytes("small", layers=1, files_per_layer=1, bytes_per_file=1000)
MANY_FILES = RandomBytes("50,000 files", layers=5, files_per_layer=10_000, bytes_per_file=2_000)


@dataclass(frozen=True)
class BigImage:
    """An image on the host engine."""

    recipe: Recipe
    tag: str
    #: How many files are in it.
    files: int
    #: The hashes of what each layer holds: the same wherever it is loaded, whatever ids an engine makes of them.
    layers: tuple[str, ...]

    def require(self, engine: HostEngine, container: str) -> None:
        """Fail if the daemon in a container does not have this very image.

        :raises RuntimeError: it has not got it, or has another.
        """
        argv = ["docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", self.tag]
        code, output = inside.run(engine.api, container, argv)
        if code or tuple(json.loads(output)) != self.layers:
            raise RuntimeError(f"{container} has not got {self.tag}: {output.strip()}")

    def require_files(self, engine: HostEngine, container: str) -> None:
        """Fail if a container made from this image, in the daemon in `container`, does not see all its files.

        :raises RuntimeError: it sees others.
        """
        count = ["docker", "run", "--rm", "--network=none", self.tag, *_COUNT]
        code, output = inside.run(engine.api, container, count)
        if code or int(output) != self.files:
            raise RuntimeError(f"{self.tag} in {container} has {output.strip()} files, not {self.files}")


_COUNT = ("sh", "-c", "find /data -type f | wc -l")


@contextmanager
def made(engine: HostEngine, *recipes: Recipe) -> Iterator[list[BigImage]]:
    """Have images; in the end they are gone from the host engine, and the image stores with any of them, too."""
    token = secrets.token_hex(4)
    # By it those are known that have no name yet when the build is interrupted.
    label = f"pytest-dind.benchmark={token}"
    tags = {recipe: f"pytest-dind/bench:{recipe.title.lower().translate(_TO_TAG)}-{token}" for recipe in recipes}
    with ExitStack() as stack:  # Whatever goes wrong with the stores, the images go, too.
        stack.callback(_remove_images, engine, label)
        stack.callback(remove_stores, engine, *tags.values())
        for recipe, tag in tags.items():
            progress(f"making an image: {recipe.title}")
            dockerfile = io.BytesIO(recipe.dockerfile(label).encode())
            engine.client.images.build(fileobj=dockerfile, tag=tag, rm=True, forcerm=True, nocache=True, timeout=600)
        yield [_described(engine, recipe, tag) for recipe, tag in tags.items()]
        progress("removing what was made")


_TO_TAG = str.maketrans({" ": "-", ",": None})


def _described(engine: HostEngine, recipe: Recipe, tag: str) -> BigImage:
    printed: bytes = engine.client.containers.run(tag, list(_COUNT), remove=True, network_mode="none")
    return BigImage(recipe, tag, int(printed), tuple(engine.api.inspect_image(tag)["RootFS"]["Layers"]))


def remove_stores(engine: HostEngine, *tags: str) -> None:
    """Remove the image stores with any of these images, so that the next daemon fills one.

    :raises TimeoutError: one stays in use; with its volume's name.
    """
    store.let_go()
    for one in store.all_stores(engine):
        if not one.images.keys().isdisjoint(tags):
            try:
                # The containers of daemons that were killed take a moment to go, on a busy machine a long one.
                seconds_until(partial(store.remove, engine, one), 0.1, time.monotonic())
            except TimeoutError as error:
                raise TimeoutError(
                    f"the image store {one.volume} is still in use ({error}): `pytest-dind prune` removes it later"
                ) from error


def _remove_images(engine: HostEngine, label: str) -> None:
    seconds_until(partial(_none_left, engine, label), 0.2, time.monotonic())


def _none_left(engine: HostEngine, label: str) -> bool:
    """Remove the images with a label; return whether there was none any more."""
    images = engine.api.images(all=True, filters={"label": label})
    # What lies below them and has no name goes with them.
    below = {image["ParentId"] for image in images}
    for image in images:
        if image["Id"] not in below:
            try:
                engine.api.remove_image(image["Id"], force=True)
            except APIError:  # A step of a build that was interrupted is ending on top of it.
                progress(f"waiting for the end of a build: {image['Id']}")
    return not images
