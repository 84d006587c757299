"""Room in memory: how many daemons this machine, or what it gives to this container, has it for."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from .settings import Settings

#: Bytes that an idle daemon takes: dockerd and containerd, measured from 110 to 150 MB; and some for what runs inside.
IDLE = 256 * 1024**2
#: Limits of a cgroup, v2 and v1, and what is used of them.
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def room_for(wanted: Sequence[Settings]) -> int:
    """Return how many of these daemons, from the first on, there is memory for; all, where nobody says how much."""
    left = available()
    if left is None:
        return len(wanted)
    totals = itertools.accumulate(needed(settings) for settings in wanted)
    return sum(1 for _ in itertools.takewhile(lambda total: total <= left, totals))


def needed(settings: Settings) -> int:
    """Return the bytes that a daemon is taken to need: its limit, if it has one."""
    return settings.memory or IDLE


def most_workers(settings: Settings) -> int | None:
    """Return how many workers there is memory for, each with a daemon and those that stand by; None if unknown."""
    left = available()
    return None if left is None else max(1, left // (needed(settings) * (1 + settings.lookahead)))


def available() -> int | None:
    """Return the bytes of memory that are to be had, on this machine and within our limit; None if nobody says."""
    found = [_of_machine(), *(_within(*files) for files in _CGROUPS)]
    return min((one for one in found if one is not None), default=None)


def _of_machine() -> int | None:
    said = re.search(r"^MemAvailable:\s+(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE)
    return int(said[1]) * 1024 if said else None


def _within(limit: str, used: str, stat: str) -> int | None:
    most, now = _text(limit).strip(), _text(used).strip()
    # Of that, the kernel gives back by itself what it remembers of files.
    cached = re.search(r"^inactive_file (\d+)$", _text(stat), re.MULTILINE)
    # Without a limit cgroup v2 says "max", and v1 more than there is anywhere.
    return (
        max(0, int(most) - int(now) + int(cached[1] if cached else 0)) if most.isdecimal() and now.isdecimal() else None
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
