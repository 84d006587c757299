"""Images: what a daemon pays for having some inside, alone and as one of eight, against each loading its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial

from pytest_dind import inside
from pytest_dind.host import HostEngine

from . import cold_start, having, peers, workers
from .big_images import BigImage, made, remove_stores
from .having import Way
from .machine import OFFICIAL_IMAGE
from .measure import (
    SPREAD,
    Limit,
    Samples,
    Table,
    in_megabytes,
    in_seconds,
    progress,
    ratio,
    side_by_side,
    spread,
    times,
)
from .recipes import GB_1, MANY_FILES, MB_370, Recipe

#: Of what takes less than a second.
ROUNDS = 12
#: Of the ways that take many: for which image how often, and which.
BESIDE: dict[Recipe, tuple[int, tuple[Way, ...]]] = {
    MB_370: (3, (having.streamed, having.by_hand, having.with_testcontainers)),
    GB_1: (2, (having.streamed, having.by_hand, having.with_testcontainers)),
    MANY_FILES: (2, (having.by_hand,)),
}
PEERS = (having.by_hand, having.with_testcontainers)
WORKERS = 8

MOST_AGAINST_EMPTY = 1.3
LEAST_AGAINST_PEERS = 15
LEAST_AT_ONCE = 10
MOST_MEGABYTES = 5

EMPTY = "pytest-dind, a daemon without any image"
FILLING = "pytest-dind, the first: fills the store"
NAMES: dict[Way, str] = {
    having.adopted: "pytest-dind, the store is there",
    having.streamed: "pytest-dind, streamed from the host engine",
    having.by_hand: "docker:dind by hand, save | load",
    having.with_testcontainers: "testcontainers-python, save | load",
}
ADOPTED = NAMES[having.adopted]
#: What the workers do in turn: what is fast before and after what is slow, which they do once.
AT_ONCE = (
    (ADOPTED, having.adopted),
    (NAMES[having.streamed], having.streamed),
    (ADOPTED, having.adopted),
    (NAMES[having.by_hand], having.by_hand),
    (ADOPTED, having.adopted),
    (FILLING, having.adopted),
)


def run() -> Table:
    """Make the images, measure with each, then with many workers at once, and remove all that was made."""
    table = Table("Images inside: from nothing to a daemon that has them", ("", *SPREAD, "ratio"))
    engine = HostEngine.connect()
    if peers.HAVE_TESTCONTAINERS:
        peers.import_testcontainers()
    with made(engine, *BESIDE) as images:
        for image in images:
            _add(table, {f"{image.recipe.title}: {FILLING}": [_seconds(having.adopted, engine, image, look=True)]}, "")
        _measure_alone(table, engine, images)
        for image in images:
            _measure_beside_peers(table, engine, image)
        _measure_at_once(table, engine, images[0])
    engine.close()
    table.notes += [
        "ratio: of medians, to the row with 1.00 x above it",
        f"370 MB: {images[0].files:,} files of an operating system, 5 layers; others: random bytes, 10 and 5 layers",
        "all of it with the same engine: ours run the image that the peers run",
        "checked every time, after the clock was stopped: the daemon has the image with the host engine's layers",
        "testcontainers: LogMessageWaitStrategy('API listen on') as it comes; Ryuk disabled",
    ]
    return table


def _seconds(way: Way, engine: HostEngine, image: BigImage, *, look: bool = False) -> float:
    """Return the seconds until a daemon has the image, which is then proved; `look`: also by a container from it."""
    begin = time.monotonic()
    with way(engine, image.tag) as daemon:
        seconds = time.monotonic() - begin
        image.require(engine, daemon.container)
        if look:
            image.require_files(engine, daemon.container)
    return seconds


def _add(table: Table, samples: Samples, base: str, show: Callable[[float], str] = in_seconds) -> None:
    """Add a row for each kind of sample.

    :param base: The one that the others are compared with; none if empty.
    """
    for name, values in samples.items():
        compared = times(ratio(samples, name, base)) if base else ""
        table.rows.append((name, *spread(values, show), compared))
    table.samples |= samples


def _promise(table: Table, promise: str, found: float, *, least: float = 0, most: float = float("inf")) -> None:
    table.limits.append(Limit(promise, times(found), least <= found <= most))


def _measure_alone(table: Table, engine: HostEngine, images: Sequence[BigImage]) -> None:
    subjects: dict[str, Callable[[], float]] = {EMPTY: partial(cold_start.start_ours, engine, OFFICIAL_IMAGE)}
    subjects |= {
        f"{image.recipe.title}: {ADOPTED}": partial(_seconds, having.adopted, engine, image) for image in images
    }
    samples = side_by_side(ROUNDS, subjects)
    _add(table, samples, EMPTY)
    for image in images:
        title = image.recipe.title
        promise = f"{title} inside: at most {MOST_AGAINST_EMPTY} times a fresh empty daemon"
        _promise(table, promise, ratio(samples, f"{title}: {ADOPTED}", EMPTY), most=MOST_AGAINST_EMPTY)


def _measure_beside_peers(table: Table, engine: HostEngine, image: BigImage) -> None:
    rounds, beside = BESIDE[image.recipe]
    others = [way for way in beside if way is not having.with_testcontainers or peers.HAVE_TESTCONTAINERS]
    title = f"{image.recipe.title}, in turn"
    subjects = {f"{title}: {NAMES[way]}": partial(_seconds, way, engine, image) for way in (having.adopted, *others)}
    samples = side_by_side(rounds, subjects, warm_up=0)
    ours = f"{title}: {ADOPTED}"
    _add(table, samples, ours)
    found = min(ratio(samples, f"{title}: {NAMES[way]}", ours) for way in others if way in PEERS)
    promise = f"{image.recipe.title} inside: at least {LEAST_AGAINST_PEERS} times faster than the best peer"
    _promise(table, promise, found, least=LEAST_AGAINST_PEERS)


def _measure_at_once(table: Table, engine: HostEngine, image: BigImage) -> None:
    title = f"{WORKERS} workers, {image.recipe.title}"
    seconds: Samples = {}
    disk: Samples = {}
    for name, way in AT_ONCE:
        progress(f"{title}: {name}")
        if name == FILLING:
            remove_stores(engine, image.tag)
        os.sync()
        total, sizes = _at_once(way, engine, image)
        seconds.setdefault(f"{title}: {name}", []).append(total)
        disk.setdefault(f"{title}, disk of each: {name}", []).extend(sizes)
    ours = f"{title}: {ADOPTED}"
    _add(table, seconds, ours)
    _add(table, disk, f"{title}, disk of each: {ADOPTED}", in_megabytes)
    found = ratio(seconds, f"{title}: {NAMES[having.by_hand]}", ours)
    _promise(table, f"{title}: at least {LEAST_AT_ONCE} times faster than each loading it", found, least=LEAST_AT_ONCE)
    most = max(disk[f"{title}, disk of each: {ADOPTED}"])
    promise = f"extra disk per further worker under {MOST_MEGABYTES} MB"
    table.limits.append(Limit(promise, in_megabytes(most), most < MOST_MEGABYTES * 1e6))


def _at_once(way: Way, engine: HostEngine, image: BigImage) -> tuple[float, list[float]]:
    """Return the seconds until the daemons of all workers have the image, and the bytes that each of them holds."""
    with workers.at_once(WORKERS, way.__name__, image.tag) as found:
        for one in found:
            image.require(engine, one.reached.container)
        sizes = [_disk_of(engine, one.reached.container) for one in found]
    return workers.seconds_of(found), sizes


def _disk_of(engine: HostEngine, container: str) -> float:
    # Its volume, without what is mounted below it; the store lies elsewhere, and links that lead there count as links.
    code, output = inside.run(engine.api, container, ["du", "-skx", "/var/lib/docker"])
    if code:
        raise RuntimeError(f"du in {container}: {output.strip()}")
    return float(output.split()[0]) * 1024
