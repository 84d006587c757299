"""Suites that nobody here wrote, unmodified, under --dind-environ: outcomes and times against one plain daemon."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from filelock import FileLock

from pytest_dind import Daemon, Settings
from pytest_dind.host import HostEngine

from .machine import IMAGE
from .measure import Limit, Table, in_seconds, progress, times
from .suites import Suite, aiodocker, docker_squash, stand_ins
from .suites.outcomes import KINDS, Outcome, Run, count, differing
from .suites.place import CACHE, RESULTS, Place

SUITES = (docker_squash.SUITE, aiodocker.SUITE)

#: Seconds that another run of this may take.
LONGEST_WAIT = 3600

PLAIN = "plain daemon, -n 0"
OURS = "--dind, -n 0"
OURS_TWICE = "--dind, -n 2"
SHARED = "plain daemon, -n 2"


def run() -> Table:
    """Run every suite in every way."""
    table = Table("Existing suites from PyPI, unmodified, under --dind-environ", ("", *KINDS, "wall time", "to plain"))
    CACHE.mkdir(parents=True, exist_ok=True)
    engine = HostEngine.connect()
    # Another run of this would remove the stand-ins that this one is using.
    with FileLock(CACHE / "lock", timeout=LONGEST_WAIT):
        for suite in SUITES:
            _run_suite(table, suite, engine)
    engine.close()
    table.notes += [
        "one run of each, in turn; wall time is that of pytest, from its start to its end",
        "a test that is marked as expected to fail, and passes, is counted as passed",
        "the plain daemons were up and had their images before, the others were started and filled by pytest",
        f"what pytest said is in {RESULTS}",
    ]
    return table


def _run_suite(table: Table, suite: Suite, engine: HostEngine) -> None:
    progress(f"{suite}: preparing")
    place = Place.prepare(suite)
    with stand_ins.present(engine, suite.images, CACHE / "debian") as origins:
        begin = time.time()
        runs = {}
        for way, start in _ways(place, engine).items():
            progress(f"{suite}: {way}")
            runs[way] = start()
        strays = _strays(engine, begin)
    _judge(table, suite, runs)
    table.notes += [f"{suite}: {name} is {origin}" for name, origin in origins.items()]
    if "a stand-in" in origins.values():
        promise = f"{suite}: no container of a stand-in on the host engine"
        table.limits.append(Limit(promise, f"{strays} seen", strays == 0))


def _ways(place: Place, engine: HostEngine) -> Mapping[str, Callable[[], Run]]:
    return {
        PLAIN: partial(_plain, place, "plain", engine, 0),
        OURS: partial(_ours, place, "dind", 0),
        OURS_TWICE: partial(_ours, place, "dind-n2", 2),
        SHARED: partial(_plain, place, "plain-n2", engine, 2),
    }


def _plain(place: Place, way: str, engine: HostEngine, workers: int) -> Run:
    # The plugin has no part in it: our core is only what starts it.
    with Daemon.start(Settings(image=IMAGE, preload=place.suite.images), engine=engine) as daemon:
        return place.pytest(way, "-p", "no:dind", "-n", str(workers), host=daemon.host)


def _ours(place: Place, way: str, workers: int) -> Run:
    preload = [f"--dind-preload={image}" for image in place.suite.images]
    return place.pytest(way, "--dind", "--dind-environ", f"--dind-image={IMAGE}", *preload, "-n", str(workers))


def _strays(engine: HostEngine, since: float) -> int:
    """Count containers made of stand-ins on the host engine: tests whose Docker was not the one that it should be."""
    # The engine remembers its last 256 events. A suite that lands there makes hundreds.
    filters = {"type": "container", "event": "create", "label": stand_ins.LABEL}
    return sum(1 for _ in engine.api.events(since=since, until=time.time(), filters=filters, decode=True))


def _judge(table: Table, suite: Suite, runs: Mapping[str, Run]) -> None:
    """Add a suite's rows, limits and notes."""
    plain = runs[PLAIN]
    for way, one in runs.items():
        name = f"{suite}: {way}"
        table.rows.append((name, *map(str, count(one)), in_seconds(one.seconds), times(one.seconds / plain.seconds)))
        table.samples[name] = [one.seconds]
    passed, least = count(plain)[0], suite.least_passed
    table.limits.append(Limit(f"{suite}: at least {least} pass ({PLAIN})", f"{passed} do", passed >= least))
    for way in (OURS, OURS_TWICE):
        found = differing(plain, runs[way])
        # One that was not run is never excused.
        unlisted = [test for test in found if test not in suite.unstable or test not in runs[way].outcomes]
        same = f"{len(plain.outcomes) - len(found)} of {len(plain.outcomes)} equal, {len(unlisted)} differ"
        same += f", {len(found) - len(unlisted)} unstable by themselves" if len(unlisted) < len(found) else ""
        table.limits.append(Limit(f"{suite}: outcomes of {way} as those of {PLAIN}", same, not unlisted))
    faster = times(runs[OURS_TWICE].seconds / runs[OURS].seconds)
    table.notes.append(f"{suite}: wall time of -n 2 against -n 0, both --dind: {faster}")
    table.notes += [f"{suite}: left out: {test}: {why}" for test, why in suite.left_out.items()]
    for test, outcome in plain.outcomes.items():
        if outcome.kind in ("failed", "error"):
            why = f"{suite.failing[test]} ({outcome.why})" if test in suite.failing else outcome.why
            table.notes.append(f"{suite}: {outcome.kind} ({PLAIN}): {test}: {why}")
    for way in (OURS, OURS_TWICE, SHARED):
        for test in differing(plain, runs[way]):
            here, there = (of.outcomes.get(test, Outcome("not run")) for of in (runs[way], plain))
            why = suite.unstable.get(test) or here.why or there.why
            table.notes.append(f"{suite}: differs: {test}: {here.kind} ({way}), {there.kind} ({PLAIN}): {why}")
