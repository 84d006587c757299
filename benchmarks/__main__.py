"""Measure, print the machine's facts and a table for each benchmark, and fail where a limit is missed.

`compare` has every figure beside the peers' in one table (`make bench`); each of the others looks closer at one thing.
Images are named by PYTEST_DIND_IMAGE (our daemons'), PYTEST_DIND_OFFICIAL_IMAGE (docker:dind) and
PYTEST_DIND_TEST_IMAGE (a small one, with a shell); without them, docker:dind and busybox:latest are used.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from . import builds, clean, cold_start, compare, existing_suite, fresh, images, import_cost, many, owner_killed, stop
from .machine import facts
from .measure import exit_on_sigterm, progress

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


def main() -> int:
    """Run the chosen benchmarks, all of them if none is."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where every single measurement goes, too")
    chosen = parser.parse_args()
    for name in chosen.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}: {', '.join(BENCHMARKS)}")
    exit_on_sigterm()

    known = dict(facts())
    for what, fact in known.items():
        print(f"{what:8} {fact}")
    print()
    tables = {}
    for name in chosen.names or BENCHMARKS:
        tables[name] = BENCHMARKS[name].run()
        progress("")
        print(f"{name}: {tables[name]}", flush=True)
    if chosen.json:
        found = {"facts": known, "benchmarks": {name: table.as_json() for name, table in tables.items()}}
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    missed = [name for name, table in tables.items() if not table.reached]
    print(f"limits missed: {', '.join(missed)}" if missed else "all limits reached", f"(load {os.getloadavg()[0]:.1f})")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
