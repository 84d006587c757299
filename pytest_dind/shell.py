"""`pytest-dind shell`: the user's shell, or a command, with a throw-away daemon for its Docker."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from .daemon import Daemon
from .settings import Settings

#: What a shell says of a command that is not there.
_NOT_FOUND = 127


def run_in_daemon(settings: Settings, command: Sequence[str]) -> tuple[int, str]:
    """Run a command, or the user's shell, with a daemon that goes when it ends; return its exit code, and an error.

    :raises DindError: no daemon comes up.
    """
    with Daemon.start(settings) as daemon:
        argv = list(command) or [os.environ.get("SHELL") or "sh"]
        try:
            process = subprocess.Popen(argv, env=daemon.env)  # noqa: S603 (what the user has asked for)
        except OSError as error:
            return _NOT_FOUND, f"{argv[0]} cannot be run: {error.strerror}"
        with _signals_are_for(process):
            code = process.wait()
        return code if code >= 0 else 128 - code, ""


@contextmanager
def _signals_are_for(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave Ctrl-C to the command, which the terminal sends it too; pass on what is to end us."""

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (as signal.signal wants it)
        process.send_signal(number)

    def ignore(number: int, frame: FrameType | None) -> None:
        """Not SIG_IGN, which programs that are started meanwhile would inherit."""

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, ignore),
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
        signal.SIGHUP: signal.signal(signal.SIGHUP, pass_on),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
