"""What can go wrong, as exceptions that carry their data and survive pickling (xdist moves them between processes).

DindError
├── SettingsError          a bad option, ini value, marker or argument
├── HostEngineError        the host engine cannot be reached
├── EngineRefusedError     the host engine refuses the daemon's container
├── ImageNotFoundError     an image is neither on the host engine nor can it be pulled
├── DaemonStartError       a daemon did not come up: its last log lines, and why where that is known
├── DaemonStateError       a daemon was asked for what it cannot give
├── ImageBuildError        an image cannot be built: the step, why, and the last lines of the build's output
├── ImageStoreError        an image store cannot be filled: the disk is full
└── LockTimeoutError       another process held a lock for too long: who, doing what, for how long
DindWarning                clean-up that is not complete, or a promise that cannot be kept here
"""

from __future__ import annotations

#: How many of the last log lines an error about a daemon shows.
TAIL_LINES = 20
#: How many of the last lines of its output an error about a build shows.
BUILD_TAIL_LINES = 40


class DindWarning(UserWarning):
    """Something was left, or cannot be as promised; the text says what, and what to do."""


class DindError(Exception):
    """The base of all that this package raises."""


class SettingsError(DindError):
    """A value that cannot be used: `where` it was given, the value, and the rule that it breaks."""

    def __init__(self, where: str, value: object, rule: str) -> None:
        super().__init__(where, value, rule)
        self.where = where
        self.value = value
        self.rule = rule

    def __str__(self) -> str:
        return f"{self.where}: {self.value!r} {self.rule}"


class HostEngineError(DindError):
    """The host engine does not answer: what was tried, and how to mend it."""


class EngineRefusedError(DindError):
    """The host engine does not run the daemon's container, with its own words and, where known, cause and cure."""

    def __init__(self, name: str, answer: str, cause: str = "", cure: str = "") -> None:
        super().__init__(name, answer, cause, cure)
        self.name = name
        self.answer = answer
        self.cause = cause
        self.cure = cure

    def __str__(self) -> str:
        text = f"the host engine refuses to run {self.name}: {self.answer}"
        return text + _because(self.cause, self.cure)


class ImageNotFoundError(DindError):
    """An image that is nowhere: its name and the places tried."""

    def __init__(self, image: str, tried: str) -> None:
        super().__init__(image, tried)
        self.image = image
        self.tried = tried

    def __str__(self) -> str:
        return f"image {self.image!r} is nowhere: {self.tried}"


class DaemonStartError(DindError):
    """A daemon that did not come up: `reason`, the last lines of its `log`, and `cause` and `cure` where known."""

    def __init__(self, name: str, reason: str, log: str = "", cause: str = "", cure: str = "") -> None:
        super().__init__(name, reason, log, cause, cure)
        self.name = name
        self.reason = reason
        self.log = log
        self.cause = cause
        self.cure = cure

    def __str__(self) -> str:
        text = f"{self.name} did not start: {self.reason}{_because(self.cause, self.cure)}"
        lines = self.log.splitlines()[-TAIL_LINES:]
        if not lines:
            return f"{text}\n  (its log is empty)"
        return "\n".join([text, f"  the last {len(lines)} lines of its log:", *(f"    {line}" for line in lines)])


class ImageStoreError(DindError):
    """An image store that cannot be filled: what was put into it, why that failed, and the cure."""

    def __init__(self, images: str, reason: str, cure: str = "") -> None:
        super().__init__(images, reason, cure)
        self.images = images
        self.reason = reason
        self.cure = cure

    def __str__(self) -> str:
        return f"the image store for {self.images} cannot be filled: {self.reason}{_because('', self.cure)}"


class ImageBuildError(DindError):
    """An image that cannot be built: `build`, its tag or directory, the `step`, `reason`, and what it put out."""

    def __init__(self, build: str, step: str, reason: str, output: str = "") -> None:
        super().__init__(build, step, reason, output)
        self.build = build
        self.step = step
        self.reason = reason
        self.output = output

    def __str__(self) -> str:
        text = f"building {self.build} failed at {self.step}: {self.reason}"
        lines = self.output.splitlines()[-BUILD_TAIL_LINES:]
        if not lines:
            return text
        return "\n".join([text, f"  the last {len(lines)} lines of its output:", *(f"    {line}" for line in lines)])


class LockTimeoutError(DindError):
    """A lock that another process held for longer than `timeout` seconds; `holder` says who, doing what, how long."""

    def __init__(self, what: str, timeout: float, holder: str, option: str = "--dind-lock-timeout") -> None:
        super().__init__(what, timeout, holder, option)
        self.what = what
        self.timeout = timeout
        self.holder = holder
        self.option = option

    def __str__(self) -> str:
        return (
            f"waited {self.timeout:g} s for a turn at {self.what}: {self.holder}. "
            f"If that may take so long, wait longer: {self.option}"
        )


class DaemonStateError(DindError):
    """A daemon, or a container in it, is not in the state that the call needs."""


def _because(cause: str, cure: str) -> str:
    return (f"\n  cause: {cause}" if cause else "") + (f"\n  cure: {cure}" if cure else "")
