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


def room_for(wanted: Sequence[Settings], left: int | None, promised: int = 0) -> int:
    """Return how many of these daemons, from the first on, there is memory for; all, where nobody says how much.

    :param left: The bytes that are `available`, or this process's share of them.
    :param promised: The bytes that daemons which were started already may still take.
    """
    if left is None:
        return len(wanted)
    totals = itertools.accumulate((needed(settings) for settings in wanted), initial=promised)
    return sum(total <= left for total in totals) - (promised <= left)


def needed(settings: Settings) -> int:
    """Return the bytes that a daemon is taken to need: its limit, if it has one."""
    return settings.memory or IDLE


def growth(settings: Settings) -> int:
    """Return the bytes that a daemon may still take when it has been started."""
    return max(0, needed(settings) - IDLE)


def most_workers(settings: Settings, left: int) -> int:
    """Return how many workers there is memory for, each with a daemon and those that stand by.

    :param left: The bytes that are `available`.
    """
    return max(1, left // (needed(settings) * (1 + settings.lookahead)))


def available(*, limited: bool = True) -> int | None:
    """Return the bytes of memory that are to be had on this machine; None if nobody says.

    :param limited: Whether what limits this process, as that of its container, limits the daemons, too.
    """
    found = [_of_machine(), *(_within(*files) for files in _CGROUPS if limited)]
    return min((one for one in found if one is not None), default=None)


def _of_machine() -> int | None:
    said = re.search(r"^MemAvailable:\s+(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE)
    return int(said[1]) * 1024 if said else None


def _within(limit: str, used: str, stat: str) -> int | None:
    most, now = _text(limit).strip(), _text(used).strip()
    if not most.isdecimal() or not now.isdecimal():
        return None  # Without a limit cgroup v2 says "max", and v1 more than there is anywhere.
    # Of that, the kernel gives back by itself what it remembers of files; v1 says in total_… that of all groups below,
    # which count in what is used.
    cached = map(int, re.findall(r"^(?:total_)?inactive_file (\d+)$", _text(stat), re.MULTILINE))
    return max(0, int(most) - int(now) + max(cached, default=0))


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
