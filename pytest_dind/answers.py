"""What engines answer, read alike wherever one is asked: an image that is there or not, and why there was no answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def inspect_image(api: Any, name: str) -> Mapping[str, Any] | None:
    """Return what an engine knows of an image; None if it has not got it."""
    from docker.errors import NotFound  # noqa: PLC0415

    try:
        answer: Mapping[str, Any] = api.inspect_image(name)
    except NotFound:
        return None
    return answer
