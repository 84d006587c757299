"""Stopping a daemon in which containers run: until nothing of it is left on the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from pytest_dind import Daemon, Settings
from pytest_dind.host import HostEngine

from .machine import IMAGE, TEST_IMAGE, Traces
from .measure import SPREAD, Limit, Table, in_seconds, ratio, seconds_until, side_by_side, spread, times

ROUNDS = 15
MOST_SECONDS = 0.5
INNER_CONTAINERS = 3

OURS = "pytest-dind: stop()"
BY_FORCE = "the same container: docker rm --force --volumes"


def run() -> Table:
    """Measure ours and what testcontainers and many conftests do, on the same kind of container."""
    engine = HostEngine.connect()
    samples = side_by_side(ROUNDS, {OURS: partial(stop_ours, engine), BY_FORCE: partial(stop_by_force, engine)})
    engine.close()

    title = f"Stop, with {INNER_CONTAINERS} inner containers running, until container, volume and socket are gone"
    table = Table(title, ("", *SPREAD, "to ours"), samples=samples)
    table.rows = [
        (name, *spread(values, in_seconds), times(ratio(samples, name, OURS))) for name, values in samples.items()
    ]
    found = statistics.median(samples[OURS])
    table.limits.append(Limit(f"under {MOST_SECONDS:g} s, median", in_seconds(found), found < MOST_SECONDS))
    return table


def stop_ours(engine: HostEngine) -> float:
    """Stop a daemon; return the seconds until nothing of it is left."""
    with _busy_daemon(engine) as daemon:
        return _seconds_to_nothing(engine, Traces.of_daemon(daemon), daemon.stop)


def stop_by_force(engine: HostEngine) -> float:
    """Remove a daemon's container as testcontainers does; return the seconds until it and its volume are gone."""
    with _busy_daemon(engine) as daemon:
        traces = Traces.of(engine, daemon.name)  # The directory is ours alone.
        return _seconds_to_nothing(engine, traces, partial(engine.remove, daemon.name))


def _seconds_to_nothing(engine: HostEngine, traces: Traces, stop: Callable[[], None]) -> float:
    begin = time.monotonic()
    stop()
    return seconds_until(lambda: traces.gone(engine), 0.002, begin)


@contextmanager
def _busy_daemon(engine: HostEngine) -> Iterator[Daemon]:
    with Daemon.start(Settings(image=IMAGE, preload=(TEST_IMAGE,)), engine=engine) as daemon:
        for _ in range(INNER_CONTAINERS):
            daemon.client.containers.run(TEST_IMAGE, ["sleep", "1000"], detach=True)
        yield daemon
