"""What the installed plugin costs a run that does not ask for it."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .measure import SPREAD, Limit, Samples, Table, in_milliseconds, side_by_side, spread

ROUNDS = 60
MOST_SECONDS = 0.005

WITH = "pytest with the plugin, CPU time"
WITHOUT = "pytest -p no:dind, CPU time"
WITH_WALL = "pytest with the plugin, wall time"
WITHOUT_WALL = "pytest -p no:dind, wall time"
IMPORTS = "imports of the plugin (-X importtime)"

#: A line of `-X importtime`: own and whole microseconds, then the module's name, two blanks deeper in each importer.
_LINE = re.compile(r"import time:\s+\d+ \|\s+(\d+) \|( +)([\w.]+)")


def run() -> Table:
    """Run an empty suite with and without the plugin, in turn."""
    with tempfile.TemporaryDirectory() as name:
        empty = Path(name)
        (empty / "pytest.ini").write_text("[pytest]\n")
        wall: Samples = {WITH_WALL: [], WITHOUT_WALL: []}
        log = run_pytest(empty, "-X", "importtime")[1]
        samples = side_by_side(
            ROUNDS,
            {
                WITH: partial(cpu_seconds, empty, wall[WITH_WALL]),
                WITHOUT: partial(cpu_seconds, empty, wall[WITHOUT_WALL], "-p", "no:dind"),
                IMPORTS: partial(seconds_of_imports, empty),
            },
        )
    samples |= {name: values[-ROUNDS:] for name, values in wall.items()}  # Without what was the warm-up.

    table = Table("Start-up of pytest without --dind, in an empty folder", ("", *SPREAD), samples=samples)
    table.rows = [(name, *spread(values, in_milliseconds)) for name, values in samples.items()]
    added = differences(samples[WITH], samples[WITHOUT])
    table.rows.append(("added, CPU time, round by round", *spread(added, in_milliseconds)))
    imports_took = statistics.median(samples[IMPORTS])
    for what, found in (("added start-up", statistics.median(added)), ("imports", imports_took)):
        promise = f"{what} under {in_milliseconds(MOST_SECONDS)}"
        table.limits.append(Limit(promise, in_milliseconds(found), found < MOST_SECONDS))
    docker = [module for _, _, module in modules(log) if module.split(".")[0] == "docker"]
    table.limits.append(Limit("docker is not imported", f"{len(docker)} of its modules are", not docker))
    table.notes.append("CPU time counts, since wall time here is mostly what else the machine does; both are shown")
    return table


def differences(ones: list[float], others: list[float]) -> list[float]:
    """Return what one of each round took longer than the other."""
    return [one - other for one, other in zip(ones, others, strict=True)]


def run_pytest(folder: Path, *words: str) -> tuple[float, str]:
    """Run pytest in a folder; return the CPU seconds that it took and what it said on stderr.

    :param words: For Python if they begin with -X, else for pytest.
    """
    python, pytest = (words, ()) if words[:1] == ("-X",) else ((), words)
    command = [sys.executable, *python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *pytest, str(folder)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))}
    with (folder / "log").open("w+b") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=log, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        said = log.read().decode(errors="replace")
    if process.returncode != 5:  # pytest's word for: no tests
        raise RuntimeError(f"pytest ended with {process.returncode}: {said}")
    return used.ru_utime + used.ru_stime, said


def cpu_seconds(folder: Path, wall: list[float], *words: str) -> float:
    """Run pytest; return its CPU time and put its wall time into a list."""
    begin = time.monotonic()
    used, _ = run_pytest(folder, *words)
    wall.append(time.monotonic() - begin)
    return used


def seconds_of_imports(folder: Path) -> float:
    """Return how long the imports of our modules take, with all that only they bring along."""
    whole, inside = 0, 0
    # What a module imports is listed before it, and deeper; so backwards, importers come first.
    for microseconds, depth, module in reversed(list(modules(run_pytest(folder, "-X", "importtime")[1]))):
        if inside and depth > inside:
            continue
        inside = depth if module.split(".")[0] == "pytest_dind" else 0
        whole += microseconds if inside else 0
    return whole / 1e6


def modules(log: str) -> Iterator[tuple[int, int, str]]:
    """Read the lines of `-X importtime`: whole microseconds, depth, name."""
    for line in log.splitlines():
        if match := _LINE.match(line):
            yield int(match[1]), len(match[2]), match[3]
