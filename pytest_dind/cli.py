"""The command `pytest-dind`: what is to be done outside of runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .disk import remove_all
from .errors import DindError
from .host import HostEngine
from .sweep import sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code: 1 when the engine cannot be reached."""
    chosen = _parser().parse_args(arguments)
    try:
        engine = HostEngine.connect()
        try:
            _prune(engine, dry_run=chosen.dry_run)
        except OSError as error:  # of docker-py, or of files
            raise engine.failure(error) from error
        finally:
            engine.close()
    except DindError as error:
        print(f"pytest-dind: {error}", file=sys.stderr)  # noqa: T201 (what it is for)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pytest-dind", description="Real Docker daemons for tests: what is left to do.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    prune = commands.add_parser(
        "prune",
        help="remove image stores, builders and built images, and what dead runs left",
        description="Removes all image stores, also half-filled ones, builders' caches and built images that no run "
        "uses now, and what dead runs left. The next run makes anew what it needs. Nothing else on your Docker is "
        "touched.",
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    return parser


def _prune(engine: HostEngine, *, dry_run: bool) -> None:
    lines = remove_all(engine, dry_run=dry_run)
    swept = sweep(engine, dry_run=dry_run)
    done = "would remove" if dry_run else "removed"
    lines += [f"{done} what dead runs left: {swept}"] if swept.removed else []
    lines += [f"not removed: {failure}" for failure in swept.failed]
    print("\n".join(lines or ["nothing to remove"]))  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
