"""`pytest-dind shell`: the user's shell, or a command, with a throw-away daemon for its Docker."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        with _signals_are_for_command() as begin:
            try:
                process = begin(argv, daemon.env)
            except OSError as error:
                return _NOT_FOUND, f"{argv[0]} cannot be run: {error.strerror}"
            code = process.wait()
        return code if code >= 0 else 128 - code, ""


@contextmanager
def _signals_are_for_command() -> Iterator[Callable[[Sequence[str], Mapping[str, str]], subprocess.Popen[bytes]]]:
    """Leave Ctrl-C to the command, which the terminal sends it too; pass on what is to end us, also from before."""
    processes: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (as signal.signal wants it)
        for process in processes:
            process.send_signal(number)
        if not processes:
            early.append(number)

    def ignore(number: int, frame: FrameType | None) -> None:
        """Not SIG_IGN, which programs that are started meanwhile would inherit."""

    def begin(argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen(argv, env=env))  # noqa: S603 (what the user has asked for)
        for number in early:
            processes[0].send_signal(number)
        return processes[0]

    # Before there is a command: a signal in between would end us alone.
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, ignore),
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
        signal.SIGHUP: signal.signal(signal.SIGHUP, pass_on),
    }
    try:
        yield begin
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
