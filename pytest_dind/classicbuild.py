"""Building with the classic builder, which every daemon has: where the engine image has no docker CLI with buildx."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from . import broken
from .buildcontext import Context
from .buildoutput import Output
from .errors import DaemonStateError
from .workshop import Workshop

_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)")
#: What it says of what only BuildKit does.
_NEEDS_BUILDKIT = re.compile(r"requires BuildKit|Unknown flag|unknown flag|unknown instruction", re.IGNORECASE)
_WITHOUT_BUILDKIT = (
    ", and here only the classic builder can be had, which knows neither RUN --mount nor heredocs nor secrets: the "
    "image of the daemons has no docker CLI with buildx. Give a --dind-image that has it, as docker:dind has"
)


def build(context: Context, tag: str, daemon: Workshop, output: Output) -> str:
    """Build an image under a tag; return the digest of the context that it was built from.

    :raises ImageBuildError: it cannot be built.
    """
    from docker.errors import DockerException  # noqa: PLC0415

    what = context.build
    if what.secrets:
        raise output.error(f"it has secrets{_WITHOUT_BUILDKIT}")
    dockerfile, also = _dockerfile(context)
    api: Any = daemon.client.api
    with tempfile.TemporaryFile() as archive:
        digest = context.write(archive, also=also)
        archive.seek(0)
        try:
            lines = api.build(
                fileobj=archive, custom_context=True, tag=tag, dockerfile=dockerfile, target=what.target,
                buildargs=dict(what.buildargs), rm=True, forcerm=True, decode=True,
            )  # fmt: skip
            _follow(lines, output)
        except DockerException as error:  # what is seen before it begins, such as a mistake in the Dockerfile
            raise output.error(_with_cure(str(getattr(error, "explanation", None) or error))) from error
        except broken.connection() as error:
            raise DaemonStateError(f"{daemon.life.name} ended while it was building: {error}") from error
    return digest


def _dockerfile(context: Context) -> tuple[str, Mapping[str, str]]:
    """Return the Dockerfile's name in the archive, and what has to be in that besides the context."""
    if context.dockerfile_inside is not None:
        return context.dockerfile_inside, {}
    name = f".dockerfile.{hashlib.sha256(context.dockerfile.encode()).hexdigest()[:20]}"
    # Left out by the daemon when it has been read, as the list of what to leave out is.
    return name, {name: context.dockerfile, ".dockerignore": f"{context.dockerignore}\n.dockerignore\n{name}\n"}


def _follow(lines: Iterator[Mapping[str, Any]], output: Output) -> None:
    partial, failure = "", ""
    for line in lines:  # To the end, with which the connection is closed.
        failure = failure or str(line.get("error") or "")
        *whole, partial = (partial + line.get("stream", "")).split("\n")
        for text in whole:
            output.add(text)
            if match := _STEP.fullmatch(text.strip()):
                output.begin(match[1], match[2], match[3])
    output.add(partial)
    if failure:
        raise output.error(_with_cure(failure.strip()))


def _with_cure(reason: str) -> str:
    return reason + (_WITHOUT_BUILDKIT if _NEEDS_BUILDKIT.search(reason) else "")
