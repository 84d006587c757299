"""Between two tests: what `dind_clean` takes, beside removing the same things by hand with force; and the check-up."""

from __future__ import annotations

import statistics
import time
from functools import partial

from pytest_dind import Daemon, Settings

from .between import CONTAINERS, Between, seconds_by_hand
from .machine import IMAGE, TEST_IMAGE
from .measure import SPREAD, Limit, Table, in_milliseconds, ratio, side_by_side, spread

ROUNDS = 10
MOST_SECONDS_MORE = 0.25
MOST_SECONDS_IDLE = 0.1
MOST_SECONDS_CHECKUP = 0.005

OURS = "dind_clean: both looks, the check-up, and removal"
BY_HAND = "docker-py, by hand: by name, with force"
IDLE = "dind_clean after a test that left nothing"
CHECKUP = "without it: whether the daemon is good for the next test"


def run() -> Table:
    """Measure all three in one daemon."""
    with Daemon.start(Settings(image=IMAGE, preload=(TEST_IMAGE,))) as daemon:
        between = Between(daemon)
        subjects = {
            OURS: partial(between.seconds, TEST_IMAGE),
            BY_HAND: partial(seconds_by_hand, daemon.client, TEST_IMAGE),
            IDLE: partial(between.seconds, None),
            CHECKUP: partial(_seconds_of_checkup, daemon),
        }
        samples = side_by_side(ROUNDS, subjects)

    table = Table(
        f"Clean up after a test that left {CONTAINERS} running containers, a network and a volume",
        ("", *SPREAD, "to by hand"),
        samples=samples,
    )
    table.rows = [
        (name, *spread(values, in_milliseconds), f"{ratio(samples, name, BY_HAND):.3f} x")
        for name, values in samples.items()
    ]
    more = statistics.median(samples[OURS]) - statistics.median(samples[BY_HAND])
    promise = f"less than {in_milliseconds(MOST_SECONDS_MORE)} more than by hand, median"
    table.limits.append(Limit(promise, f"{more * 1000:+.1f} ms", more < MOST_SECONDS_MORE))
    idle = statistics.median(samples[IDLE])
    promise = f"under {in_milliseconds(MOST_SECONDS_IDLE)} with nothing to do, median"
    table.limits.append(Limit(promise, in_milliseconds(idle), idle < MOST_SECONDS_IDLE))
    checkup = statistics.median(samples[CHECKUP])
    promise = f"the check-up between tests under {in_milliseconds(MOST_SECONDS_CHECKUP)}, median"
    table.limits.append(Limit(promise, in_milliseconds(checkup), checkup < MOST_SECONDS_CHECKUP))
    return table


def _seconds_of_checkup(daemon: Daemon) -> float:
    begin = time.monotonic()
    complaint = daemon.checkup.complaint()
    seconds = time.monotonic() - begin
    assert not complaint, complaint
    return seconds
