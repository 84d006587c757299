"""Bringing an image into a daemon, plainly: streamed from the host engine, or pulled inside; checked by id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import ImageNotFoundError
from .host import HostEngine

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
        present = _inspect(api, name)
    if present is None or not _is_same(present, wanted):
        raise ImageNotFoundError(
            name, f"the host engine has {wanted['Id']}, the daemon got {present and present['Id']}"
        )
    return str(present["Id"])


def _pull(name: str, engine: HostEngine, client: docker.DockerClient) -> str:
    from docker.errors import APIError  # noqa: PLC0415

    present = _inspect(client.api, name)
    if present is not None:
        return str(present["Id"])
    try:
        return str(client.images.pull(name).id)
    except APIError as error:
        raise ImageNotFoundError(
            name,
            f"the host engine at {engine.address} has not got it, and pulling it in the daemon failed: "
            f"{error.explanation}",
        ) from error


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
    their ids differ for the same image; its layers, which are content, then tell.
    """
    return bool(one["Id"] == other["Id"] or one["RootFS"].get("Layers") == other["RootFS"].get("Layers") != None)  # noqa: E711
