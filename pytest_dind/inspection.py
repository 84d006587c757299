"""The checks of `pytest-dind doctor` on a daemon that runs, from its address to the disk below it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import buildcache, caveats, conditions, results, trial
from .container import DATA_ROOT
from .daemon import Daemon
from .diagnosis import diagnose
from .disk import in_bytes
from .errors import DaemonStateError
from .facts import Facts
from .finding import Finding
from .store import all_stores
from .trial import MEMORY, NEIGHBOUR, REGISTRY, NotTriedError, Trial

Findings = Iterator[Finding]

#: Less of either, and a test that pulls or builds is likely to fill the disk.
_LEAST_BYTES = 10**9
_LEAST_INODES = 10**5
#: Storage drivers that share layers.
_GOOD_DRIVERS = ("overlay2", "overlayfs")
_CURES = {caveat.id: caveat.cure for caveat in caveats.CAVEATS}
_ANSWERED = "question"


def inspect(
    daemon: Daemon, directory: Path | None, known: Facts | None
) -> Iterator[tuple[str, Callable[[], Findings]]]:
    """Yield each check's name, and the check.

    :param directory: A directory that containers in the daemon are to see; None where the engine does not see ours.
    :param known: What is known of the place; None where it could not be found out.
    """
    inspection = _Inspection(daemon, directory, known)
    yield "address", inspection.address
    yield "storage driver", inspection.storage_driver
    yield "inner container", inspection.container
    yield "cgroups", inspection.cgroups
    yield "names inside", inspection.names
    yield "published port", inspection.port
    yield "base temp", inspection.base_temp
    yield "disk", inspection.disk
    yield "inotify", inspection.inotify


@dataclass
class _Inspection:
    daemon: Daemon
    directory: Path | None
    known: Facts | None

    def __post_init__(self) -> None:
        self.trial: Trial | None = None
        self.info: Any = {}

    # -- the daemon

    def address(self) -> Findings:
        begin = time.monotonic()
        version = self.daemon.version
        took = 1000 * (time.monotonic() - begin)
        facts = {"address": self.daemon.host, "version": version, "milliseconds": round(took, 1)}
        yield Finding("address", f"Docker {version} answers at {self.daemon.host} in {took:.0f} ms", facts=facts)

    def storage_driver(self) -> Findings:
        self.info = self.daemon.client.info()
        driver = self.info["Driver"]
        status = dict(row for row in self.info.get("DriverStatus") or () if len(row) == 2)  # noqa: PLR2004
        below = status.get("Backing Filesystem", "")
        facts = {"driver": driver, "file_system": below}
        text = f"{driver}{f' on {below}' if below else ''}"
        if driver in _GOOD_DRIVERS:
            yield Finding("storage driver", text, facts=facts)
            return
        slow = " copies every layer in full: slow, and no image store is adopted" if driver in ("vfs", "native") else ""
        yield Finding("storage driver", text + slow, "warning", _CURES["storage-driver"], facts)

    # -- containers in it

    def container(self) -> Findings:
        from docker.errors import APIError  # noqa: PLC0415

        names = (self.daemon.name, REGISTRY)
        found = trial.looked_up(self.daemon, names)
        outside = tuple(name for name in names if found.get(f"lookup {name}") == "0")
        made = Trial(self.daemon, self.directory, outside)
        begin = time.monotonic()
        if self.directory:
            (self.directory / _ANSWERED).write_text("seen\n", encoding="ascii")
        try:
            layer = made.said.get("layer")
        except NotTriedError as error:
            yield Finding("inner container", f"could not be tried: {error}", "not tried")
            return
        except APIError as error:
            known = diagnose(str(error.explanation))
            cause, cure = (f" {known.cause}", known.cure) if known else ("", "")
            yield Finding("inner container", f"does not run: {error.explanation}.{cause}", "failed", cure)
            return
        seconds = round(time.monotonic() - begin, 3)
        if layer != "unpacked":
            yield Finding("inner container", "it runs, but does not see what is in its image", "failed")
            return
        self.trial = made
        yield Finding(
            "inner container", f"one of an image made here ran within {seconds:.2f} s", facts={"seconds": seconds}
        )

    def cgroups(self) -> Findings:
        version = self.info.get("CgroupVersion", "1")
        driver = self.info.get("CgroupDriver", "")
        text, facts = f"cgroup v{version} inside ({driver})", {"version": version, "driver": driver}
        if self.trial is None:
            yield Finding("cgroups", f"{text}; limits could not be tried", "not tried", facts=facts)
            return
        limit = self.trial.said.get("memory", "")
        facts["limit"] = limit
        if limit == str(MEMORY):
            yield Finding("cgroups", f"{text}; a limit of memory holds ({MEMORY // 1024**2} MiB)", facts=facts)
            return
        yield Finding(
            "cgroups",
            f"{text}; a container with a limit of {MEMORY} bytes of memory sees {limit or 'none'}",
            "failed",
            "Have the kernel count memory: boot it with cgroup_enable=memory swapaccount=1, or use cgroup v2.",
            facts,
        )

    def names(self) -> Findings:
        if self.trial is None:
            yield _untried("names inside")
            return
        alone, outside = self.trial.neighbours(), self.trial.outside
        if alone.get(f"lookup {NEIGHBOUR}") == "127":
            yield Finding("names inside", "could not be tried: the engine image has no getent", "not tried")
            return
        lost = [
            f"{name} on {where}"
            for where, said in (("the default network", self.trial.said), ("a network of its own", alone))
            for name in ((NEIGHBOUR,) if said is alone else ()) + outside
            if said.get(f"lookup {name}") != "0"
        ]
        facts = {"outside": list(outside), "lost": lost}
        if lost:
            cure = (
                "Name a server that containers reach: --dind-daemon-arg=--dns=ADDRESS; one on 127.0.0.0/8 is none, "
                "for in a container that is the container itself."
            )
            yield Finding("names inside", f"a container does not find {', '.join(lost)}", "failed", cure, facts)
            return
        beyond = ", ".join(outside) or f"not tried, as the daemon's own container does not find {REGISTRY} either"
        yield Finding("names inside", f"containers find each other; names of the outside: {beyond}", facts=facts)

    def port(self) -> Findings:
        if self.trial is None:
            yield _untried("published port")
            return
        try:
            where = self.trial.fetch()
        except NotTriedError as error:
            yield Finding("published port", f"could not be tried: {error}", "not tried")
        except (DaemonStateError, OSError) as error:
            # A place where that is so is a caveat of it, and no failure.
            state = "failed" if self.known is None or self.known.addresses_reached else "warning"
            yield Finding("published port", f"not reached from here: {error}", state, _CURES["published-ports"])
        else:
            yield Finding("published port", f"reached at {where}", facts={"address": where})

    def base_temp(self) -> Findings:
        if self.directory is None:
            text = "the host engine does not see it: an inner container that binds it gets an empty directory"
            yield Finding("base temp", text, "warning", _CURES["bind-paths"])
        elif self.trial is None:
            yield _untried("base temp")
        elif self.trial.said.get("seen") == "seen" and (self.directory / "answer").is_file():
            yield Finding(
                "base temp",
                f"an inner container sees a directory in {self.directory.parent} as we do, and writes to it",
            )
        else:
            text = f"an inner container does not see what we put into {self.directory}, or cannot write there"
            yield Finding("base temp", text, "failed", _CURES["bind-paths"])

    # -- what is below it

    def disk(self) -> Findings:
        # Size of a block; blocks and free ones; inodes and free ones. GNU's and busybox's stat alike.
        code, output = self.daemon.exec(["stat", "-f", "-c", "%S %b %a %c %d", DATA_ROOT])
        ours, facts = self._ours()
        try:
            size, blocks, free, inodes, free_inodes = (int(word) for word in output.split())
        except ValueError:
            text = f"room could not be read (exit code {code}: {output.strip()}); {ours}"
            yield Finding("disk", text, "not tried", facts=facts)
            return
        facts |= {"bytes": size * blocks, "free_bytes": size * free, "inodes": inodes, "free_inodes": free_inodes}
        # Some file systems, as btrfs, make inodes as they need them, and say 0.
        low = size * free < _LEAST_BYTES or (inodes and free_inodes < _LEAST_INODES)
        text = f"{in_bytes(size * free)} of {in_bytes(size * blocks)} are free where the engine keeps its data"
        text += f", and {free_inodes} of {inodes} inodes" if inodes else ""
        cure = "Make room: pytest-dind prune removes what is ours; docker system df shows what else there is."
        yield Finding("disk", f"{text}; {ours}", "failed" if low else "ok", cure if low else "", facts)

    def _ours(self) -> tuple[str, dict[str, Any]]:
        stores = all_stores(self.daemon.engine)
        builders = buildcache.all_names(self.daemon.engine)
        taken, built = sum(one.size for one in stores), results.size()
        text = (
            f"of ours there are {len(stores)} image stores with {in_bytes(taken)}, {len(builders)} builders' caches "
            f"and {in_bytes(built)} of built images"
        )
        return text, {"stores": len(stores), "store_bytes": taken, "builders": len(builders), "built_bytes": built}

    def inotify(self) -> Findings:
        kinds = ("max_user_instances", "max_user_watches")
        code, output = self.daemon.exec(["cat", *(f"/proc/sys/fs/inotify/{kind}" for kind in kinds)])
        words = output.split()
        if code != 0 or len(words) != len(kinds):
            yield Finding("inotify", f"the limits could not be read: {output}", "not tried")
            return
        instances, watches = map(int, words)
        facts = {"max_user_instances": instances, "max_user_watches": watches}
        limits = replace(self.known or Facts(), inotify_instances=instances, inotify_watches=watches)
        low = conditions.inotify(limits)
        text = f"{instances} instances and {watches} watches for each user"
        if low:
            yield Finding("inotify", f"{text}: {low}", "warning", _CURES["inotify"], facts)
        else:
            yield Finding("inotify", text, facts=facts)


def _untried(check: str) -> Finding:
    return Finding(check, "could not be tried, as no inner container ran", "not tried")
