"""Between two tests: what `dind_clean` takes, beside removing the same things by hand with force; and the check-up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

from docker import DockerClient

from pytest_dind import Daemon, Settings
from pytest_dind.cleaning import Cleaning
from pytest_dind.inventory import Inventory

from .machine import IMAGE, TEST_IMAGE
from .measure import SPREAD, Limit, Table, in_milliseconds, side_by_side, spread

ROUNDS = 10
CONTAINERS = 3
MOST_SECONDS_MORE = 0.25
MOST_SECONDS_IDLE = 0.1
MOST_SECONDS_CHECKUP = 0.005

OURS = "dind_clean: both looks, and removal"
BY_HAND = "docker-py, by hand: remove(force=True, v=True)"
IDLE = "dind_clean after a test that left nothing"
CHECKUP = "without it: whether the daemon is good for the next test"


def run() -> Table:
    """Measure all three in one daemon."""
    with Daemon.start(Settings(image=IMAGE, preload=(TEST_IMAGE,))) as daemon:
        daemon.watch()
        subjects = {
            OURS: partial(_seconds_of_ours, daemon, leave),
            BY_HAND: partial(_seconds_by_hand, daemon.client),
            IDLE: partial(_seconds_of_ours, daemon, lambda _: None),
            CHECKUP: partial(_seconds_of_checkup, daemon),
        }
        samples = side_by_side(ROUNDS, subjects)

    table = Table(
        f"Clean up after a test that left {CONTAINERS} running containers, a network and a volume",
        ("", *SPREAD),
        samples=samples,
    )
    table.rows = [(name, *spread(values, in_milliseconds)) for name, values in samples.items()]
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


def leave(client: DockerClient) -> None:
    """Leave what the promise is about."""
    client.networks.create("bench-net")
    client.volumes.create("bench-vol")
    for number in range(CONTAINERS):
        client.containers.run(
            TEST_IMAGE,
            ["sleep", "1000"],
            name=f"bench-{number}",
            detach=True,
            network="bench-net",
            volumes={"bench-vol": {"bind": "/data"}},
        )


def _seconds_of_ours(daemon: Daemon, test: Callable[[DockerClient], None]) -> float:
    client = daemon.client
    begin = time.monotonic()
    before = Inventory.of(client.api)
    looked = time.monotonic() - begin
    test(client)
    begin = time.monotonic()
    assert daemon.alive  # As the plugin asks first.
    cleaning = Cleaning(client.api, before)
    cleaning.run()
    seconds = looked + time.monotonic() - begin
    assert not cleaning.refused, cleaning.refused
    return seconds


def _seconds_by_hand(client: DockerClient) -> float:
    leave(client)
    begin = time.monotonic()
    for number in range(CONTAINERS):
        client.containers.get(f"bench-{number}").remove(force=True, v=True)
    client.networks.get("bench-net").remove()
    client.volumes.get("bench-vol").remove(force=True)
    return time.monotonic() - begin


def _seconds_of_checkup(daemon: Daemon) -> float:
    begin = time.monotonic()
    complaint = daemon.checkup.complaint()
    seconds = time.monotonic() - begin
    assert not complaint, complaint
    return seconds
