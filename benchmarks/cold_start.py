"""Cold start: from nothing to the first answer of a fresh daemon."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

from pytest_dind import Daemon, Settings
from pytest_dind.host import HostEngine

from . import floor, peers, unshared
from .machine import IMAGE, OFFICIAL_IMAGE
from .measure import SPREAD, Limit, Table, in_seconds, ratio, side_by_side, spread, times

ROUNDS = 15
LEAST_AGAINST_PEERS = 6
MOST_AGAINST_FLOOR = 2

OURS = "pytest-dind"
OURS_OFFICIAL = "pytest-dind, docker:dind's own image"
BY_HAND = "docker:dind by hand (SDK, TLS)"
TESTCONTAINERS = "testcontainers-python, docker:dind"
FLOOR = "floor: bare containerd + dockerd"


def run() -> Table:
    """Measure ours, the peers and the floor in turn."""
    engine = HostEngine.connect()
    missing = floor.why_not()
    with nullcontext() if missing else floor.Floor(engine):
        samples = side_by_side(ROUNDS, dict(_subjects(engine, missing)))
    engine.close()

    table = Table("Cold start of a fresh daemon, from nothing to its first answer to /_ping", ("", *SPREAD, "to ours"))
    table.samples = samples
    table.rows = [
        (name, *spread(values, in_seconds), times(ratio(samples, name, OURS))) for name, values in samples.items()
    ]
    for peer in (BY_HAND, TESTCONTAINERS):
        if peer not in samples:
            table.limits.append(Limit(f"faster than {peer}", "not measured: it is not installed", reached=False))
            continue
        found = ratio(samples, peer, OURS)
        promise = f"at least {LEAST_AGAINST_PEERS} times faster than {peer}"
        table.limits.append(Limit(promise, times(found), found >= LEAST_AGAINST_PEERS))
    promise = f"at most {MOST_AGAINST_FLOOR} times the floor"
    if missing:
        table.limits.append(Limit(promise, f"not measured: {missing}", reached=False))
    else:
        found = ratio(samples, OURS, FLOOR)
        table.limits.append(Limit(promise, times(found), found <= MOST_AGAINST_FLOOR))
    table.notes = [
        "by hand: 2376 is looked for every 10 ms, the client certificates are copied out, /_ping goes over TLS",
        "testcontainers: its LogMessageWaitStrategy('API listen on') as it comes, then the same; Ryuk disabled",
    ]
    return table


def _subjects(engine: HostEngine, missing: str | None) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield who can be measured here.

    :param missing: Why the floor cannot; None if it can.
    """
    yield OURS, partial(start_ours, engine, IMAGE)
    yield OURS_OFFICIAL, partial(start_ours, engine, OFFICIAL_IMAGE)
    yield BY_HAND, partial(peers.start_by_hand, engine)
    if peers.HAVE_TESTCONTAINERS:
        yield TESTCONTAINERS, peers.start_with_testcontainers
    if not missing:
        yield FLOOR, unshared.start


def start_ours(engine: HostEngine, image: str) -> float:
    """Start a daemon; return the seconds until it answers."""
    begin = time.monotonic()
    with Daemon.start(Settings(image=image), engine=engine):
        return time.monotonic() - begin
