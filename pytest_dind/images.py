"""Bringing an image into a daemon, plainly: streamed from the host engine, or pulled inside; checked by id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import ImageNotFoundError
from .host import HostEngine, pull

if TYPE_CHECKING:
    import docker


def bring(name: str, engine: HostEngine, client: docker.DockerClient) -> str:
    """Bring an image into the daemon behind `client` and return its id there.

    :raises ImageNotFoundError: it is nowhere, or what arrived is not that image.
    """
    wanted = engine.image(name)
    api: Any = client.api
    if wanted is None:
        return _pull(name, engine, client)
    present = _inspect(api, name)
    if present is None or not _is_same(present, wanted):
        # One stream from engine to daemon, no file in between.
        for line in api.load_image(engine.save(name)):
            if "error" in line:
                raise ImageNotFoundError(name, f"the daemon cannot load it: {line['error']}")
        # A name with a digest does not survive a save; the id does.
        present = _inspect(api, name) or _inspect(api, wanted["Id"])
    if present is None or not _is_same(present, wanted):
        raise ImageNotFoundError(
            name,
            f"what the host engine streams for it is another image: {wanted['Id']} there, "
            f"{present['Id'] if present else 'nothing of that name'} in the daemon; pull it anew on the host engine",
        )
    return str(present["Id"])


def _pull(name: str, engine: HostEngine, client: docker.DockerClient) -> str:
    present = _inspect(client.api, name)
    failure = pull(client.api, name) if present is None else ""
    present = present or _inspect(client.api, name)
    if present is None:
        raise ImageNotFoundError(
            name,
            f"the host engine at {engine.address} has not got it, and pulling it in the daemon failed: {failure}. "
            "Mind the spelling, or pull or build it on the host engine.",
        )
    return str(present["Id"])


def _inspect(api: Any, name: str) -> Mapping[str, Any] | None:
    from docker.errors import NotFound  # noqa: PLC0415

    try:
        answer: Mapping[str, Any] = api.inspect_image(name)
    except NotFound:
        return None
    return answer


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two engines mean the same image.

    One with the containerd store calls an image by its manifest and one with a graph driver by its configuration, so
    their ids differ for the same image; what it is made of then tells.
    """
    return bool(one["Id"] == other["Id"] or (one["Created"] == other["Created"] and _content(one) == _content(other)))


def _content(image: Mapping[str, Any]) -> object:
    config = image.get("Config") or {}
    said = {key: config.get(key) or None for key in ("Cmd", "Entrypoint", "Env", "Labels", "User", "WorkingDir")}
    return image["RootFS"].get("Layers"), image["Architecture"], said
