"""The owner of a daemon is killed with SIGKILL: until nothing of the daemon is left on the machine."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from functools import partial

from pytest_dind.host import HostEngine

from .machine import IMAGE, Traces
from .measure import SPREAD, Limit, Table, in_seconds, seconds_until, side_by_side, spread

ROUNDS = 20
MOST_SECONDS = 1

OURS = "pytest-dind"

_OWNER = """
import sys
from pytest_dind import Daemon, Settings
with Daemon.start(Settings(image=sys.argv[1])) as daemon:
    print(daemon.name, daemon.host, flush=True)
    sys.stdin.read()
"""


def run() -> Table:
    """Kill owner after owner."""
    engine = HostEngine.connect()
    samples = side_by_side(ROUNDS, {OURS: partial(kill_an_owner, engine)})
    engine.close()

    title = "From SIGKILL of a daemon's owner until container, volume and socket are gone"
    table = Table(title, ("", *SPREAD), [(OURS, *spread(samples[OURS], in_seconds))], samples=samples)
    found = statistics.median(samples[OURS])
    table.limits.append(Limit(f"under {MOST_SECONDS} s, median of {ROUNDS}", in_seconds(found), found < MOST_SECONDS))
    table.notes.append(
        "no peer beside it: started by hand nothing removes the container, and Ryuk, which waits for "
        "10 s before it does, cannot be had without a registry"
    )
    return table


def kill_an_owner(engine: HostEngine) -> float:
    """Kill a process that owns a daemon; return the seconds until nothing of the daemon is left."""
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, IMAGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        name, host = owner.stdout.readline().split()
        traces = Traces.of(engine, name, host)
        begin = time.monotonic()
        owner.kill()
        return seconds_until(lambda: traces.gone(engine), 0.002, begin)
