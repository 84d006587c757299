"""The command `pytest-dind`: what is to be done outside of runs."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from types import FrameType
from typing import NoReturn

from . import __version__, progress
from .checks import TRANSPORT
from .disk import remove_all
from .doctor import examine
from .errors import DindError, SettingsError
from .finding import as_json, heading, verdict
from .host import HostEngine
from .settings import Settings
from .shell import run_in_daemon
from .sweep import sweep
from .table import OPTIONS
from .voices import Voices

#: What shells say of what was interrupted.
_INTERRUPTED = 128 + signal.SIGINT
_BROKEN_PIPE = 128 + signal.SIGPIPE
_DOCTOR = """\
Checks, with a real throw-away daemon and containers in it, whether tests will have daemons here: the host engine and
who named it; where this process runs, and the way to daemons; the image; whether a daemon starts and answers; its
storage driver; whether containers run in it, with limits, names, published ports and files; disk and inotify limits;
what dead runs left; and all caveats that apply. Nothing is left of it, and no registry is needed once the engine has
the image. Each check is one row, and a second with the cure where there is one:

  ok         it works
  warning    it works, and what is said may be met by tests
  failed     it keeps tests from running as they should
  not tried  something that it needs is not there
"""
_DOCTOR_EXIT = "Exit code: 0 when no check failed, 1 when one did, 2 for a wrong command line, 130 after Ctrl-C."
_SHELL = """\
Starts a throw-away daemon and runs your shell, or a command, with its environment: docker, compose and whatever else
asks for a Docker engine find that daemon. It goes with all that is in it when the shell or the command ends. It sees
none of this machine's files, and has no images but those that you pull, build or load.
"""
_SHELL_EXIT = "Exit code: the command's; 1 when there is no daemon, 127 when there is no such command."


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code: 1 when the engine cannot be reached, or a check failed."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "prune":
            return _prune(dry_run=chosen.dry_run)
        settings = _settings(parser, chosen)
        with _progress_told():
            if chosen.command == "shell":
                return _shell(settings, chosen.argv)
            with _terminated_as_interrupted():
                return _doctor(settings, as_data=chosen.json)
    except DindError as error:
        print(f"pytest-dind: {error}", file=sys.stderr)  # noqa: T201 (what it is for)
        return 1
    except KeyboardInterrupt:
        print("pytest-dind: interrupted", file=sys.stderr)  # noqa: T201
        return _INTERRUPTED
    except BrokenPipeError:  # Who reads it, as `head` does, has enough; the interpreter is not to try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pytest-dind", description="Real Docker daemons for tests: what is left to do.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    as_written = argparse.RawDescriptionHelpFormatter
    what = "check whether tests will have daemons here, and say what to do if not"
    doctor = commands.add_parser(
        "doctor", help=what, description=_DOCTOR, epilog=_DOCTOR_EXIT, formatter_class=as_written
    )
    doctor.add_argument(
        "--json", action="store_true", help="print a list of objects: check, finding, ok, state, cure and facts"
    )
    what = "run your shell, or a command, with a throw-away daemon"
    shell = commands.add_parser("shell", help=what, description=_SHELL, epilog=_SHELL_EXIT, formatter_class=as_written)
    shell.add_argument("argv", nargs="*", metavar="COMMAND", help="after `--`: what to run instead of your shell")
    for one in (doctor, shell):
        _add_settings(one)
    prune = commands.add_parser(
        "prune",
        help="remove image stores, builders and built images, and what dead runs left",
        description="Removes all image stores, also half-filled ones, builders' caches and built images that no run "
        "uses now, and what dead runs left. The next run makes anew what it needs. Nothing else on your Docker is "
        "touched.",
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--image",
        help=f"image of the daemon, or '{{version}}' in it for the host engine's version (default: environment "
        f"PYTEST_DIND_IMAGE, else {Settings.image})",
    )
    parser.add_argument("--transport", choices=TRANSPORT, help="how it is reached (default: what works here)")
    parser.add_argument("--network", help="network of the host engine that it joins (default: the engine's bridge)")


def _settings(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> Settings:
    said = {"image": chosen.image, "transport": chosen.transport, "network": chosen.network}
    where = {name: f"--{name}" for name in said}
    if said["image"] is None and os.environ.get("PYTEST_DIND_IMAGE"):
        said["image"], where["image"] = os.environ["PYTEST_DIND_IMAGE"], "environment PYTEST_DIND_IMAGE"
    checked = {}
    try:
        for option in OPTIONS:
            if said.get(option.name) is not None:
                checked[option.name] = option.check(said[option.name], where[option.name])
        return Settings(**checked)
    except SettingsError as error:
        parser.error(str(error))


def _doctor(settings: Settings, *, as_data: bool) -> int:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    findings = []
    if not as_data:
        print(heading())  # noqa: T201
    with closing(examine(settings)) as found:
        for finding in found:
            findings.append(finding)
            if not as_data:
                print(finding.rows(width), flush=True)  # noqa: T201
    print(as_json(findings) if as_data else f"\n{verdict(findings)}")  # noqa: T201
    return 0 if all(finding.ok for finding in findings) else 1


def _shell(settings: Settings, argv: Sequence[str]) -> int:
    code, error = run_in_daemon(settings, argv)
    if error:
        print(f"pytest-dind: {error}", file=sys.stderr)  # noqa: T201
    return code


def _prune(*, dry_run: bool) -> int:
    engine = HostEngine.connect()
    try:
        lines = remove_all(engine, dry_run=dry_run)
        swept = sweep(engine, dry_run=dry_run)
    except OSError as error:  # of docker-py, or of files
        raise engine.failure(error) from error
    finally:
        engine.close()
    done = "would remove" if dry_run else "removed"
    lines += [f"{done} what dead runs left: {swept}"] if swept.removed else []
    lines += [f"not removed: {failure}" for failure in swept.failed]
    print("\n".join(lines or ["nothing to remove"]))  # noqa: T201
    return 0


@contextmanager
def _progress_told() -> Iterator[None]:
    """Say what takes long, as a pull, on stderr."""
    voices = Voices()

    def hear(shown: progress.Shown | None) -> None:
        line = voices.hear("", shown)
        if line:
            print(line, file=sys.stderr, flush=True)  # noqa: T201

    with ExitStack() as stack:
        stack.callback(progress.listen(hear))
        yield


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Have SIGTERM, by which CI systems end what they abort, leave as little as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 (as signal.signal wants it)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
