"""What a build says while it runs: the step that it is at, for those who wait, and its last lines, for its error."""

from __future__ import annotations

from collections import deque

from .build import Build
from .errors import BUILD_TAIL_LINES, ImageBuildError
from .progress import Stage

#: Characters of a step that a message shows.
_MOST = 120


class Output:
    """What one build says, told to `stage` as it comes."""

    def __init__(self, build: Build, stage: Stage) -> None:
        self._build = build
        self._stage = stage
        self._lines: deque[str] = deque(maxlen=BUILD_TAIL_LINES)
        self._step = "reading the Dockerfile"

    def add(self, line: str) -> None:
        """Take one line, without its end."""
        if line.strip():
            self._lines.append(line.rstrip())

    def begin(self, number: str, count: str, what: str) -> str:
        """Say which step begins; return its name."""
        self._step = f"step {number} of {count}: {what[:_MOST]}"
        self._stage.say(self._step)
        return self._step

    def error(self, reason: str, step: str = "") -> ImageBuildError:
        """Return the error for the build, which failed at `step`, or, where nothing is said, at the last that began."""
        return ImageBuildError(str(self._build), step or self._step, reason, "\n".join(self._lines))
