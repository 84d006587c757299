"""Which engine the docker CLI would use here, for messages: DOCKER_HOST, the current context, or the default."""

from __future__ import annotations

import os


def engine_address() -> tuple[str, str]:
    """Return where docker.from_env() looks for an engine, and who says so."""
    from docker.context import ContextAPI  # noqa: PLC0415
    from docker.errors import DockerException  # noqa: PLC0415

    if os.environ.get("DOCKER_HOST"):
        return os.environ["DOCKER_HOST"], "from DOCKER_HOST"
    try:
        named = os.environ.get("DOCKER_CONTEXT")
        context = ContextAPI.get_context(named) if named else ContextAPI.get_current_context()
        if context.Host and context.Name != "default":
            return context.Host, f"from the docker context {context.Name!r}"
    except (DockerException, AttributeError, OSError, ValueError):  # a context that is no more: from_env says so
        pass
    return "unix:///var/run/docker.sock", "the default; neither DOCKER_HOST nor a docker context is set"


def root_cause(error: BaseException) -> str:
    """Return the innermost reason: docker-py wraps urllib3, which wraps the socket's own."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error)
