"""What engines answer, read alike wherever one is asked: an image that is there or not, and why there was no answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .context import root_cause
from .errors import DindError, HostEngineError


def inspect_image(api: Any, name: str) -> Mapping[str, Any] | None:
    """Return what an engine knows of an image; None if it has not got it."""
    from docker.errors import NotFound  # noqa: PLC0415

    try:
        answer: Mapping[str, Any] = api.inspect_image(name)
    except NotFound:
        return None
    return answer


def why_not(address: str, error: OSError) -> DindError:
    """Return our own error for one that was met while an engine was asked for this and that, all of which had answered.

    docker-py's errors are OSErrors, by way of requests'; and so are those of this machine's files.
    """
    from requests.exceptions import HTTPError, RequestException  # noqa: PLC0415

    if isinstance(error, HTTPError):
        said = getattr(error, "explanation", None) or error
        return HostEngineError(f"the Docker engine at {address} answers with an error: {said}")
    if isinstance(error, (RequestException, ConnectionError, TimeoutError)):
        return HostEngineError(f"the Docker engine at {address} has ceased to answer: {root_cause(error)}")
    return DindError(f"a file of this machine cannot be read or written: {error}")
