"""Images made to be measured with: big ones and one of many files, removed in the end with all that came of them."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from docker.errors import APIError

from pytest_dind import inside, store
from pytest_dind.host import HostEngine

from . import leftovers
from .measure import progress, seconds_until
from .recipes import Recipe, size_of


@dataclass(frozen=True)
class BigImage:
    """An image on the host engine."""

    recipe: Recipe
    tag: str
    #: Bytes.
    size: int
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
    labels = {**leftovers.labels(), _MADE: token}
    tags = {recipe: f"pytest-dind/bench:{recipe.title.lower().translate(_TO_TAG)}-{token}" for recipe in recipes}
    try:
        yield [_built(engine, recipe, tag, labels) for recipe, tag in tags.items()]
    finally:  # Whatever goes wrong with the stores, the images go, too.
        progress("removing what was made")
        leftovers.attempt("image stores", partial(remove_stores, engine, *tags.values()))
        leftovers.attempt("images", partial(_remove_labelled, engine, f"{_MADE}={token}"))


#: The label of the images that are made together.
_MADE = "pytest-dind.benchmark.made"
_TO_TAG = str.maketrans({" ": "-", ",": None})


def _built(engine: HostEngine, recipe: Recipe, tag: str, labels: Mapping[str, str]) -> BigImage:
    progress(f"making an image: {recipe.title}")
    with recipe.context(engine, labels) as context:
        engine.client.images.build(
            fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True, nocache=True, timeout=600
        )
    size = size_of(engine, tag)
    recipe.require_size(size)
    printed: bytes = engine.client.containers.run(tag, list(_COUNT), remove=True, network_mode="none")
    return BigImage(recipe, tag, size, int(printed), tuple(engine.api.inspect_image(tag)["RootFS"]["Layers"]))


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


def remove_images(engine: HostEngine, label: str) -> None:
    """Remove the images with a label that were made here, and the image stores with any of them."""
    images = engine.api.images(all=True, filters={"label": label})
    remove_stores(engine, *(tag for image in images for tag in image["RepoTags"] or ()))
    _remove_labelled(engine, label)


def _remove_labelled(engine: HostEngine, label: str) -> None:
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
