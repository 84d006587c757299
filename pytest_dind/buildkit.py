"""Building with BuildKit: by the docker CLI with buildx that the engine image has, run beside the daemon."""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Callable
from io import BytesIO

from . import broken, inside
from .build import Build
from .buildcontext import Context
from .buildoutput import Output
from .errors import DaemonStateError, ImageBuildError
from .workshop import Workshop

#: What a build needs lies here, in the container and not in the data: it is gone with the daemon.
WORK = "pytest-dind-build"
_CONFIG = f"/{WORK}/config"
#: Only what is said here: nothing of this machine's docker is to have a say.
_ENVIRONMENT = {
    "DOCKER_HOST": "unix:///var/run/docker.sock",
    "DOCKER_CONFIG": _CONFIG,
    "DOCKER_BUILDKIT": "1",
    # They hold the time, and so each build's id would differ: https://docs.docker.com/build/metadata/attestations/
    "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
    "NO_COLOR": "1",
}


def is_there(daemon: Workshop) -> bool:
    """Whether the daemon's image has the docker CLI with buildx."""
    code, _ = daemon.exec(["sh", "-c", "command -v docker >/dev/null && docker buildx version"], _ENVIRONMENT)
    return code == 0


def build(context: Context, tag: str, daemon: Workshop, output: Output) -> str:
    """Build an image under a tag; return the digest of the context that it was built from.

    :raises ImageBuildError: it cannot be built.
    """
    with tempfile.TemporaryFile() as archive:
        digest = context.write(archive, below=f"{WORK}/context/", also=_beside(context))
        archive.seek(0)
        daemon.put(archive)
    if context.build.secrets:
        daemon.put(_secrets(context.build))
    said = _Plain(output)
    code = _run(daemon, _command(context.build, tag), said.add)
    if code != 0:
        raise output.error(said.reason + _cure(context, said.reason), said.step)
    return digest


def _beside(context: Context) -> dict[str, str]:
    # The Dockerfile may lie outside the context, or be left out of it; what is left out has been so already.
    return {
        f"{WORK}/Dockerfile": context.dockerfile,
        f"{WORK}/Dockerfile.dockerignore": context.dockerignore,
        f"{_CONFIG[1:]}/config.json": "{}",
    }


def _secrets(build: Build) -> BytesIO:
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, path in build.secrets.items():
            try:
                content = path.read_bytes()
            except OSError as error:
                raise ImageBuildError(str(build), f"reading the secret {name}", f"{path}: {error.strerror}") from error
            entry = tarfile.TarInfo(f"{WORK}/secrets/{name}")
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, BytesIO(content))
    archive.seek(0)
    return archive


def _command(build: Build, tag: str) -> list[str]:
    command = ["docker", "buildx", "build", "--builder=default", "--progress=plain", f"--tag={tag}"]
    command += [f"--file=/{WORK}/Dockerfile"]
    command += [f"--build-arg={name}={value}" for name, value in build.buildargs.items()]
    command += [f"--secret=id={name},src=/{WORK}/secrets/{name}" for name in build.secrets]
    command += [f"--target={build.target}"] if build.target else []
    return [*command, f"/{WORK}/context"]


def _cure(context: Context, reason: str) -> str:
    syntax = context.needed.syntax
    if syntax is None or syntax not in reason:
        return ""
    return (
        f". The Dockerfile asks for the frontend {syntax}, which is neither on the host engine nor could be pulled: "
        "pull it on the host engine, or leave the line `# syntax=…` out; Docker 23 and newer know RUN --mount, "
        "heredocs and COPY --link without it"
    )


class _Plain:
    """What `--progress=plain` says of steps and of failures."""

    _STEP = re.compile(r"#(\d+) \[(?:.* )?(\d+)/(\d+)\] (.*)")
    _STEP_FAILED = re.compile(r"#(\d+) ERROR: (.*)")
    _FAILED = re.compile(r"ERROR: (?:failed to build: )?(?:failed to solve: )?(.*)")

    def __init__(self, output: Output) -> None:
        self._output = output
        self._steps: dict[str, str] = {}
        #: Which failed, and why.
        self.step = ""
        self.reason = ""

    def add(self, line: str) -> None:
        """Take one line."""
        self._output.add(line)
        if match := self._STEP.fullmatch(line):
            self._steps[match[1]] = self._output.begin(match[2], match[3], match[4])
        elif (match := self._STEP_FAILED.fullmatch(line)) and match[1] in self._steps and not self.step:
            self.step, self.reason = self._steps[match[1]], match[2]
        elif (match := self._FAILED.fullmatch(line)) and not self.reason:
            self.reason = match[1]


def _run(daemon: Workshop, argv: list[str], say: Callable[[str], None]) -> int:
    """Run a command beside the daemon, told of each line as it comes; return its exit code.

    :raises DaemonStateError: the daemon ended meanwhile.
    """
    lines = _Lines(say)
    try:
        code = inside.stream(daemon.life.engine.api, daemon.life.name, argv, lines.add, _ENVIRONMENT)
    except broken.connection() as error:  # which the engine's own answers are, too
        raise DaemonStateError(f"{daemon.life.name} ended while it was building: {error}") from error
    lines.end()
    return code


class _Lines:
    """Output, cut into lines."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._partial = b""

    def add(self, part: bytes) -> None:
        *lines, self._partial = (self._partial + part).split(b"\n")
        for line in lines:
            self._say(line.decode(errors="replace").rstrip("\r"))

    def end(self) -> None:
        if self._partial:
            self._say(self._partial.decode(errors="replace"))
