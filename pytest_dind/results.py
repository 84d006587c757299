"""What builds have come to: images as files, kept until they are of no use, and how the last ones failed.

The file of an image is whole: it is renamed to its name when it is. All files are named by hashes; an image's by its
identity, a failure's by what it was built for, so that there is one at most of each place that is built.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ImageBuildError
from .places import builds_dir, refuse_foreign, write_ours

#: Seconds after which the record of a failure, or half a file, is of no use to anybody.
_STALE = 86400.0


@dataclass(frozen=True)
class Built:
    """An image that was built, in a file as `docker save` writes it."""

    identity: str
    #: Removed when nobody has asked for it for long: open it soon, and ask again should it be gone.
    path: Path
    #: Its name in the daemons: the tag, or one of ours.
    name: str
    #: Its id where it was built.
    image: str

    @property
    def names(self) -> Mapping[str, str]:
        """Its name with its id."""
        return {self.name: self.image}


def find(identity: str) -> Built | None:
    """Return what was built of an identity, marked as used now; None if nothing is there."""
    path = builds_dir() / f"{identity}.tar"
    for one in (path, path.with_suffix(".json")):
        refuse_foreign(one)
    try:
        said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        os.utime(path)
        if path.stat().st_size != said["size"]:
            return None  # Cut off, as a machine that lost its power leaves it.
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return Built(identity, path, said["name"], said["image"])


def draft(identity: str) -> Path:
    """Return the path for an image that is being built; `add` makes it count. Hold the lock of the identity.

    What another left of it who was killed is removed.
    """
    for path in builds_dir().glob(f"{identity}.*.part"):
        path.unlink(missing_ok=True)
    return builds_dir() / f"{identity}.{secrets.token_hex(4)}.part"


def add(identity: str, purpose: str, written: Path, name: str, image: str) -> Built:
    """Keep an image that was built, in the place of others that were built for the same before."""
    path = builds_dir() / f"{identity}.tar"
    _sync(written)
    said = {"name": name, "image": image, "purpose": purpose, "size": written.stat().st_size}
    _write(path.with_suffix(".json"), said)
    written.replace(path)
    for other in builds_dir().glob("*.json"):
        if other.stem != identity and _read(other).get("purpose") == purpose:
            _remove(other.with_suffix(".tar"))
    (builds_dir() / f"{purpose}.failed").unlink(missing_ok=True)
    return Built(identity, path, name, image)


@dataclass(frozen=True)
class Failure:
    """How a build failed, in which run; `token` tells it from all other failures."""

    identity: str
    run: str
    token: str
    error: ImageBuildError


def failure(purpose: str, identity: str) -> Failure | None:
    """Return how the last build of an identity failed; None if it did not."""
    said = _read(builds_dir() / f"{purpose}.failed")
    if said.get("identity") != identity:
        return None
    return Failure(identity, said["run"], said["token"], ImageBuildError(*said["error"]))


def fail(purpose: str, identity: str, run: str, error: ImageBuildError) -> None:
    """Record that a build has failed."""
    said = {"identity": identity, "run": run, "token": secrets.token_hex(8), "error": error.args}
    _write(builds_dir() / f"{purpose}.failed", said)
    _remove_stale()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unused(days: float) -> int:
    """Remove the images that nobody has asked for in so many days; return the bytes that they took.

    Who is reading one reads on.
    """
    freed = sum(_remove(path) for path in _older_than(days * 86400, "*.tar"))
    _remove_stale()
    return freed


def size() -> int:
    """Return the bytes that all images here take."""
    return sum(_size(path) for path in builds_dir().glob("*.tar"))


def _remove_stale() -> None:
    for path in _older_than(_STALE, "*.part", "*.failed", "*.tmp", "*.json"):
        if path.suffix != ".json" or not path.with_suffix(".tar").exists():
            path.unlink(missing_ok=True)


def _older_than(seconds: float, *patterns: str) -> Iterator[Path]:
    limit = time.time() - seconds
    for pattern in patterns:
        for path in builds_dir().glob(pattern):
            try:
                old = path.stat().st_mtime <= limit
            except FileNotFoundError:  # another was faster
                continue
            if old:
                yield path


def _remove(archive: Path) -> int:
    freed = _size(archive)
    archive.unlink(missing_ok=True)
    archive.with_suffix(".json").unlink(missing_ok=True)
    return freed


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path) -> Mapping[str, Any]:
    try:
        said: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return said


def _write(path: Path, what: Mapping[str, Any]) -> None:
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    write_ours(fresh, json.dumps(what).encode())
    fresh.replace(path)
