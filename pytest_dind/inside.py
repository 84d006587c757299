"""Looking into a daemon and reaching what runs in it."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .errors import DaemonStateError

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container


def published_port(client: docker.DockerClient, container: Container | str, port: int | str) -> int:
    """Return the port of the daemon's address that leads to a container's port.

    :raises DaemonStateError: the container is not there, does not run, or does not publish that port.
    """
    from docker.errors import NotFound  # noqa: PLC0415

    identity = container if isinstance(container, str) else str(container.id)
    wanted = str(port) if "/" in str(port) else f"{port}/tcp"
    try:
        found: Any = client.api.inspect_container(identity)
    except NotFound as error:
        raise DaemonStateError(f"container {identity!r} is not in this daemon") from error
    name = found["Name"].lstrip("/")
    ports = found["NetworkSettings"]["Ports"] or {}
    if not ports.get(wanted):
        published = ", ".join(key for key, value in ports.items() if value) or "none"
        raise DaemonStateError(
            f"container {name} ({found['State']['Status']}) does not publish port {wanted} (published: {published}); "
            f"start it with ports={{{wanted!r}: None}} or -p {wanted.partition('/')[0]}",
        )
    return int(ports[wanted][0]["HostPort"])


def run(api: Any, container: str, argv: list[str], environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command in a container; return its exit code and its output."""
    said: list[bytes] = []
    code = stream(api, container, argv, said.append, environment)
    return code, b"".join(said).decode(errors="replace")


def stream(
    api: Any,
    container: str,
    argv: list[str],
    say: Callable[[bytes], object],
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command in a container, with `say` called for what it puts out, as that comes; return its exit code."""
    execution = api.exec_create(container, argv, environment=environment)["Id"]
    # Not api.exec_start, which now and then loses the first output: https://github.com/docker/docker-py/issues/3332
    url = f"{api.base_url}/v{api.api_version}/exec/{execution}/start"
    with api.post(url, json={"Detach": False, "Tty": False}, stream=True, timeout=None) as answer:
        api._raise_for_status(answer)  # noqa: SLF001 (with the engine's own words, which requests leaves out)
        for part in _frames(answer.raw):
            say(part)
    # Its output may end before it does, and what the engine knows of its end comes later still.
    while (state := api.exec_inspect(execution))["Running"] or state["ExitCode"] is None:
        time.sleep(0.01)
    return int(state["ExitCode"])


def _frames(output: Any) -> Iterator[bytes]:
    """Yield what both streams said, in the order it came: a header of 8 bytes, whose last 4 are a length, then text."""
    while len(header := output.read(8)) == 8:  # noqa: PLR2004
        yield output.read(int.from_bytes(header[4:], "big"))


def packed(source: Path | str, target: str) -> bytes:
    """Return a tar file that brings a file or directory of this machine to the absolute path `target`."""
    path = PurePosixPath(target)
    if not path.is_absolute() or path == path.parent:
        raise DaemonStateError(f"cannot put {source} at {target!r}: give an absolute path below /")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        # The folders on the way are made by the archive: the engine wants its root to exist.
        tar.add(source, arcname=str(path.relative_to("/")))
    return archive.getvalue()
