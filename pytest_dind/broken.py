"""What is raised when an engine goes away in the middle of an answer."""

from __future__ import annotations


def connection() -> tuple[type[Exception], ...]:
    """Return the errors of a connection that breaks, for `except`: requests' own are OSErrors, urllib3's are not.

    docker-py reads streams from urllib3, past requests, which would translate them:
    https://github.com/docker/docker-py/blob/7.1.0/docker/api/client.py#L357-L373
    """
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    return OSError, HTTPError
