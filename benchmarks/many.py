"""Many daemons at once: how long they take together, what each weighs, and whether all come up."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pytest_dind import Daemon, Settings
from pytest_dind.owner import Owner

from .machine import IMAGE, memory_available
from .measure import Limit, Table, in_seconds, progress, times

ROUNDS = 3
COUNTS = (1, 4, 8, 16, 32)
#: Bytes that one daemon is reckoned with, before it is known.
ROOM_FOR_ONE = 256 * 1024**2


@dataclass
class Found:
    """What was found with one number of daemons, in all rounds."""

    start: list[float] = field(default_factory=list)
    stop: list[float] = field(default_factory=list)
    #: Bytes of each daemon.
    memory: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def run() -> Table:
    """Start and stop each number of daemons in turn."""
    Owner.of_process()  # The one owner of all the threads' daemons.
    counts = [count for count in COUNTS if there_is_room_for(count)]
    found = {count: Found() for count in counts}
    for number in range(ROUNDS):
        for count in counts:
            progress(f"round {number + 1} of {ROUNDS}: {count} at once")
            start_at_once(count, found[count])

    headings = ("at once", "all ready after", "per daemon", "to one alone", "memory each", "all gone after", "failures")
    table = Table(f"Many daemons at once, in threads of one process (medians of {ROUNDS} rounds)", headings)
    alone = statistics.median(found[counts[0]].start)
    for count, one in found.items():
        total, memory = statistics.median(one.start), statistics.median(one.memory)
        table.rows.append(
            (str(count), in_seconds(total), in_seconds(total / count), times(total / alone),
             f"{memory / 2**20:.0f} MiB", in_seconds(statistics.median(one.stop)), str(len(one.failures)))
        )  # fmt: skip
        table.samples |= {f"{count}: start": one.start, f"{count}: stop": one.stop, f"{count}: memory": one.memory}
        table.notes += [f"{count} at once: {failure}" for failure in one.failures]
    table.notes.append(
        "to one alone: all ready after, to the same of one; as many as that would be one after the other"
    )
    failures = sum(len(one.failures) for one in found.values())
    started = sum(counts) * ROUNDS
    table.limits.append(Limit("no failure", f"{failures} of {started} daemons failed", failures == 0))
    table.notes.append("memory: the container's memory cgroup less its inactive file cache, as `docker stats` shows it")
    for count in COUNTS[len(counts) :]:
        table.notes.append(f"{count} at once: not measured: {memory_available() >> 20} MiB of memory are not enough")
    return table


def there_is_room_for(count: int) -> bool:
    """Whether the machine has the memory for so many daemons at once."""
    return count * ROOM_FOR_ONE < memory_available()


def start_at_once(count: int, found: Found) -> None:
    """Start a number of daemons, weigh them, and stop them."""
    daemons: list[Daemon] = []

    def start(_: int) -> None:
        try:
            daemons.append(Daemon.start(Settings(image=IMAGE)))
        except Exception as error:  # noqa: BLE001 (whatever it is, it is what is counted here)
            found.failures.append(f"{type(error).__name__}: {error}")

    with ThreadPoolExecutor(count) as threads:
        try:
            begin = time.monotonic()
            list(threads.map(start, range(count)))
            found.start.append(time.monotonic() - begin)
            found.failures += [f"{one.name} does not answer any more" for one in daemons if not one.alive]
            found.memory += threads.map(memory_of, daemons)
        finally:
            begin = time.monotonic()
            list(threads.map(Daemon.stop, daemons))
            found.stop.append(time.monotonic() - begin)


def memory_of(daemon: Daemon) -> float:
    """Return the bytes that a daemon holds."""
    memory = daemon.engine.api.stats(daemon.name, stream=False, one_shot=True)["memory_stats"]
    # The one name is cgroup v1's, the other v2's.
    cache = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file", 0))
    return float(memory["usage"] - cache)
