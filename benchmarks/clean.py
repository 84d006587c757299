"""Between two tests: what `dind_clean` takes, beside removing the same things by hand with force; and the check-up."""

from __future__ import annotations

import statistics
import time
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
            OURS: partial(seconds_of_ours, daemon.client, TEST_IMAGE),
            BY_HAND: partial(seconds_by_hand, daemon.client, TEST_IMAGE),
            IDLE: partial(seconds_of_ours, daemon.client, None),
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


def leave(client: DockerClient, image: str) -> None:
    """Leave what the promise is about."""
    client.networks.create("bench-net")
    client.volumes.create("bench-vol")
    for number in range(CONTAINERS):
        client.containers.run(
            image,
            ["sleep", "1000"],
            name=f"bench-{number}",
            detach=True,
            network="bench-net",
            volumes={"bench-vol": {"bind": "/data"}},
        )


def seconds_of_ours(client: DockerClient, image: str | None) -> float:
    """Return what `dind_clean` takes, before and after a test.

    :param image: Of the containers that the test leaves; None: it leaves nothing.
    """
    begin = time.monotonic()
    before = Inventory.of(client.api)
    looked = time.monotonic() - begin
    if image:
        leave(client, image)
    begin = time.monotonic()
    assert client.ping()  # As the plugin asks first.
    cleaning = Cleaning(client.api, before)
    cleaning.run()
    seconds = looked + time.monotonic() - begin
    assert not cleaning.refused, cleaning.refused
    return seconds


def seconds_by_hand(client: DockerClient, image: str) -> float:
    """Return what removing the same takes."""
    leave(client, image)
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
