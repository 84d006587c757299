"""Where images come from: the host engine, a tar file, a pull inside; brought plainly, and checked by what they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import broken, notices, progress, pulling, tarball
from .answers import inspect_image
from .errors import ImageNotFoundError
from .host import HostEngine

if TYPE_CHECKING:
    import docker

#: An id without its algorithm, or the beginning of one; also the name of a repository, if a strange one.
_HEX = re.compile("[0-9a-f]{4,64}")
_FULL_HEX = 64
#: Bytes of a file that is loaded, at a time.
_CHUNK = 1024**2
_LOADED = re.compile(r"Loaded image(?: ID)?: (\S+)")


def identity(wanted: str | Path, engine: HostEngine, pull: str) -> str:
    """Return what tells an image from others, without bringing it.

    :param wanted: A name or an id; or a file that `docker save` wrote.
    :param pull: `missing`, `always` or `never`; what it says of images that are pulled is `pulled:NAME`.
    :raises ImageNotFoundError: a name that is not to be pulled is nowhere; or a file cannot be read.
    """
    if isinstance(wanted, Path):
        return tarball.identity(wanted)
    if pull == "always" and not _is_id(wanted, engine):
        return f"pulled:{wanted}"
    found = engine.image(wanted)
    if found is not None:
        return str(found["Id"])
    if pull == "never" or _is_id(wanted, engine):
        raise _not_to_be_pulled(wanted, engine)
    return f"pulled:{wanted}"


def is_at_hand(wanted: str | Path, engine: HostEngine, pull: str) -> bool:
    """Whether an image can surely be had: it need not be pulled."""
    try:
        return not identity(wanted, engine, pull).startswith("pulled:")
    except ImageNotFoundError:
        return False


def bring(
    wanted: str | Path,
    engine: HostEngine,
    client: docker.DockerClient,
    pull: str = "missing",
    check: Callable[[], object] = lambda: None,
) -> dict[str, str]:
    """Have an image in the daemon behind `client`; return its name there, or all names of a file, each with its id.

    :param wanted: A name or an id; or a file that `docker save` wrote.
    :param pull: `missing`: what the host engine has is streamed; `always`: pulled even so; `never`.
    :param check: Called again and again meanwhile; what it raises ends it.
    :raises ImageNotFoundError: it is nowhere, or what arrived is not that image.
    """
    bringing = _Bringing(engine, client.api, pull, check)
    if isinstance(wanted, Path):
        return bringing.from_file(wanted)
    if pull == "always" and not _is_id(wanted, engine):
        return {wanted: bringing.from_registry(wanted, "with --dind-pull=always no other place is tried")}
    on_host = engine.image(wanted)
    if on_host is not None:
        return {wanted: bringing.from_host(wanted, on_host)}
    inside = inspect_image(client.api, wanted)
    if inside is not None:
        return {wanted: str(inside["Id"])}
    if pull == "never" or _is_id(wanted, engine):
        raise _not_to_be_pulled(wanted, engine)
    return {wanted: bringing.from_registry(wanted, _not_there(engine))}


def present(names: Mapping[str, str], client: docker.DockerClient) -> bool:
    """Whether a daemon has all images of these names, with these ids; asks it once."""
    api: Any = client.api
    ids: dict[str, str] = {}
    for image in api.images(all=True):
        ids[image["Id"]] = image["Id"]
        ids |= dict.fromkeys([*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())], image["Id"])

    def found(name: str, identity: str) -> bool:
        # The host engine's digests and ids do not always survive the way here: then the id inside is what it goes by.
        otherwise = identity if "@" in name or _HEX.fullmatch(_digits(name)) else ""
        return identity in ids and ids.get(tarball.familiar(name), otherwise) == identity

    return all(found(name, identity) for name, identity in names.items())


@dataclass(frozen=True)
class _Bringing:
    """Whence, whereto and how."""

    engine: HostEngine
    api: Any
    pull: str
    check: Callable[[], object]

    def from_host(self, name: str, on_host: Mapping[str, Any]) -> str:
        inside = inspect_image(self.api, name)
        if inside is not None and _is_same(inside, on_host):
            return str(inside["Id"])
        if "@" in name and self.pull != "never":
            # Only a pull gives an image a name with a digest: what is saved has none, and nobody may make one up.
            failure = pulling.pull(self.api, name, self.check, user=self.engine.api)
            if not failure:
                return self._id_inside(name)
            notices.warn(_by_id_only(name, failure), stacklevel=3)
        # One stream from engine to daemon, no file in between.
        loaded = self._load(name, self.engine.save(name))
        has_tag = tarball.familiar(name) in (on_host["RepoTags"] or ())
        for known_as in (name,) if has_tag else (name, on_host["Id"], *loaded):
            inside = inspect_image(self.api, known_as)
            if inside is not None and _is_same(inside, on_host):
                return str(inside["Id"])
        there = inside["Id"] if inside else "nothing of that name"
        raise ImageNotFoundError(
            name,
            f"what the host engine streams for it is another image: {on_host['Id']} there, {there} in the daemon; "
            "pull it anew on the host engine",
        )

    def from_file(self, path: Path) -> dict[str, str]:
        said = tarball.read(path)
        with path.open("rb") as file:
            loaded = self._load(str(path), iter(lambda: file.read(_CHUNK), b""), path.stat().st_size)
        if said is None:
            found = {name: self._checked(path, name) for name in loaded}
        else:
            found = {name: self._checked(path, name, contents) for name, contents in said.items() if name}
            # An engine says the ids of images with names, too, if it says any.
            nameless = [one for one in loaded if one.startswith("sha256:") and one not in found.values()]
            found |= {one: self._checked(path, one, said.get("", ())) for one in nameless}
        if not found:
            raise ImageNotFoundError(str(path), "the daemon that has loaded it does not say which images it held")
        return found

    def _checked(self, path: Path, name: str, contents: Collection[tuple[str, ...]] | None = None) -> str:
        inside = inspect_image(self.api, name)
        if inside is None or not (contents is None or tuple(inside["RootFS"].get("Layers") or ()) in contents):
            there = f"another image, {inside['Id']}" if inside else "nothing of that name"
            raise ImageNotFoundError(str(path), f"it holds {name}, and the daemon that has loaded it has {there}")
        return str(inside["Id"])

    def from_registry(self, name: str, beside: str) -> str:
        """Pull it inside; `beside` says what else was tried, or why nothing was."""
        failure = pulling.pull(self.api, name, self.check, user=self.engine.api)
        if failure:
            raise ImageNotFoundError(
                name,
                f"{beside}, and pulling it in the daemon failed: {failure}. "
                "Mind the spelling, pull or build it on the host engine, or give a file of docker save.",
            )
        return self._id_inside(name)

    def _id_inside(self, name: str) -> str:
        inside = inspect_image(self.api, name)
        if inside is None:
            raise ImageNotFoundError(name, "the daemon says that it has pulled it, and then does not know it")
        return str(inside["Id"])

    def _load(self, name: str, chunks: Iterable[bytes], size: int = 0) -> list[str]:
        """Load what `docker save` made; return the names and ids that the daemon says it has loaded."""
        loaded, failure = [], ""
        with progress.stage(f"loading {name}") as stage:
            try:
                for line in self.api.load_image(self._counted(chunks, stage, size)):
                    # An answer that is one error as a whole has a `message`; docker-py takes it for a line.
                    failure = failure or str(line.get("error") or line.get("message") or "")
                    loaded += _LOADED.findall(line.get("stream", ""))
            except broken.connection() as error:
                failure = f"it broke off: {error}"
        if failure:
            raise ImageNotFoundError(name, f"the daemon cannot load it: {failure}")
        return loaded

    def _counted(self, chunks: Iterable[bytes], stage: progress.Stage, size: int) -> Iterator[bytes]:
        done = 0
        for chunk in chunks:
            self.check()
            done += len(chunk)
            stage.say(f"{done / 1e6:.0f} of {size / 1e6:.0f} MB" if size else f"{done / 1e6:.0f} MB")
            yield chunk


def _by_id_only(name: str, failure: str) -> str:
    return (
        f"image {name!r} is in the daemon by its id only and not by that name: it comes from the host engine, and what "
        f"gives a name with a digest is a pull, which failed: {failure}"
    )


def _not_to_be_pulled(name: str, engine: HostEngine) -> ImageNotFoundError:
    if _is_id(name, engine):
        reason = "an id cannot be pulled. Give its name, or build it on the host engine."
    else:
        reason = "with --dind-pull=never nothing is pulled. Pull or build it there, or give a file of docker save."
    return ImageNotFoundError(name, f"{_not_there(engine)}, and {reason}")


def _not_there(engine: HostEngine) -> str:
    return f"the host engine at {engine.address} has not got it"


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two engines mean the same image.

    One with the containerd store calls an image by its manifest and one with a graph driver by its configuration, so
    their ids differ for the same image; what it is made of then tells.
    """
    return bool(one["Id"] == other["Id"] or _content(one) == _content(other))


def _content(image: Mapping[str, Any]) -> object:
    config = image.get("Config") or {}
    said = {key: config.get(key) or None for key in ("Cmd", "Entrypoint", "Env", "Labels", "User", "WorkingDir")}
    # Engines say in either way that nobody knows when it was created.
    created = image.get("Created") or "0001-01-01T00:00:00Z"
    return created, image["RootFS"].get("Layers"), image["Architecture"], said


def _is_id(name: str, engine: HostEngine) -> bool:
    """Whether a name is an id, whole or its beginning; no engine takes a repository that is called as a whole one."""
    digits = _digits(name)
    if digits != name or len(digits) == _FULL_HEX or not _HEX.fullmatch(digits):
        return bool(_HEX.fullmatch(digits))
    on_host = engine.image(name)
    return on_host is not None and tarball.familiar(name) not in (on_host["RepoTags"] or ())


def _digits(name: str) -> str:
    return name.removeprefix("sha256:")
