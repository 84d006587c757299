"""Measure, print the machine's facts and a table for each benchmark, and fail where a limit is missed.

`compare` has every figure beside the peers' in one table (`make bench`); each of the others looks closer at one thing.
Images are named by PYTEST_DIND_IMAGE (our daemons'), PYTEST_DIND_OFFICIAL_IMAGE (docker:dind) and
PYTEST_DIND_TEST_IMAGE (a small one, with a shell); without them, docker:dind and busybox:latest are used.
The exit code is 1 where a limit is missed or not measured, 2 where nothing can be measured, and 130 after Ctrl-C, which
prints and writes what was found by then.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pytest_dind.errors import DindError
from pytest_dind.host import HostEngine

from . import (
    builds,
    clean,
    cold_start,
    compare,
    dead_runs,
    existing_suite,
    fresh,
    images,
    import_cost,
    leftovers,
    many,
    owner_killed,
    stop,
)
from .cells import Part
from .columns import COLUMNS
from .comparison import Comparison
from .machine import IMAGE, OFFICIAL_IMAGE, TEST_IMAGE
from .measure import Cut, Limit, Table, exit_code, exit_on_sigterm, progress, reason
from .record import Record

#: A benchmark is a module here whose `run` returns a Table.
BENCHMARKS = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        compare,
        cold_start,
        many,
        fresh,
        clean,
        stop,
        owner_killed,
        images,
        builds,
        import_cost,
        existing_suite,
    )
}
#: Nothing can be measured.
REFUSED = 2


def main() -> int:
    """Run the chosen benchmarks, all of them if none is."""
    chosen = _parser().parse_args()
    try:
        part = _part(chosen)
        engine = _ready(chosen)
    except (DindError, OSError, ValueError) as error:
        print(f"python -m benchmarks: {reason(error)}", file=sys.stderr)
        return REFUSED
    exit_on_sigterm()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Who starts this in the background has it ignored.
    tables: dict[str, Table] = {}
    record, code = Record(), 0
    try:
        leftovers.attempt("what dead runs left", partial(dead_runs.sweep, engine))
        with leftovers.removed(engine):
            record.look(engine)
            print("".join(f"{what:8} {fact}\n" for what, fact in record.facts.items()))
            _measure(chosen.names or list(BENCHMARKS), part, tables)
    except (KeyboardInterrupt, SystemExit) as end:
        code = exit_code(end)
    engine.close()
    stays = leftovers.told()
    if chosen.json:
        _write(chosen.json, record.as_json(tables) | {"whole": not code, "stays": stays})
    return _judged(tables, stays, code)


def _write(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _judged(tables: dict[str, Table], stays: list[str], code: int) -> int:
    """Say what came of all; return the exit code.

    :param code: That of what ended the run from outside; else 0.
    """
    for one in stays:
        print(f"stays on the host engine: {one}")
    missed = [name for name, table in tables.items() if not table.reached]
    said = "ended before it was through; " if code else ""
    said += f"limits missed: {', '.join(missed)}" if missed else "all limits reached"
    print(f"{said} (load {os.getloadavg()[0]:.1f})")
    return code or int(bool(missed or stays))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where every single measurement goes, too")
    of_compare = parser.add_argument_group("of compare", "to see in less time whether it works")
    of_compare.add_argument("--rows", metavar="ROW,…", help=f"{', '.join(Comparison.ROWS)} (default: all)")
    of_compare.add_argument("--columns", metavar="COLUMN,…", help=f"{', '.join(COLUMNS)} (default: all)")
    of_compare.add_argument("--once", action="store_true", help="measure everything once only")
    return parser


def _part(chosen: argparse.Namespace) -> Part:
    rows = tuple(chosen.rows.split(",")) if chosen.rows else tuple(Comparison.ROWS)
    columns = tuple(chosen.columns.split(",")) if chosen.columns else tuple(COLUMNS)
    _require_known("row", rows, Comparison.ROWS)
    _require_known("column", columns, COLUMNS)
    return Part(rows, columns, chosen.once)


def _require_known(kind: str, names: Sequence[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"there is no {kind} {name!r}: {', '.join(known)}")


def _ready(chosen: argparse.Namespace) -> HostEngine:
    """Return the host engine, when everything that the benchmarks need is there.

    :raises Exception: it is not; one of ours, an OSError or a ValueError.
    """
    _require_known("benchmark", chosen.names, BENCHMARKS)
    if chosen.json:
        _require_writable(chosen.json)
    engine = HostEngine.connect()
    for image in dict.fromkeys((IMAGE, OFFICIAL_IMAGE, TEST_IMAGE)):
        engine.require_image(image)
    return engine


def _require_writable(path: Path) -> None:
    """Find out before anything is measured; what is there stays until there is something to put in its place.

    :raises OSError: it cannot be written.
    """
    was_there = path.exists()
    path.open("a", encoding="utf-8").close()
    if not was_there:
        path.unlink()


def _measure(names: list[str], part: Part, tables: dict[str, Table]) -> None:
    """Add a table for each benchmark, and print it; where the run is ended, of one of them what it had by then.

    :raises SystemExit: it was ended.
    """
    for name in names:
        try:
            tables[name] = compare.run(part) if name == "compare" else BENCHMARKS[name].run()
        except Cut as cut:
            tables[name] = cut.table
            raise SystemExit(cut.code) from cut
        except Exception as error:  # noqa: BLE001 (whatever it is, it does not cost the others what they find)
            traceback.print_exc()
            tables[name] = Table(name, ("",), limits=[Limit("it is measured", reason(error), reached=False)])
        finally:
            progress("")
            if name in tables:
                print(f"{name}: {tables[name]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
