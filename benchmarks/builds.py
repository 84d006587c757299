"""Builds: what an unchanged one costs the next run, and whether one that many ask for at once is run once."""

from __future__ import annotations

import http.server
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_dind import buildcache
from pytest_dind.host import HostEngine
from pytest_dind.places import locks_dir

from .big_images import remove_stores
from .machine import IMAGE, TEST_IMAGE
from .measure import SPREAD, Limit, Samples, Table, in_milliseconds, progress, spread

TAG = "bench:test"
#: How often an unchanged build is asked for by all workers of a new run.
RUNS = 10
WORKERS = 4
MOST_SECONDS = 0.5
#: How often how many processes ask at once; in every third round the one that builds is killed.
ROUNDS = 10
AT_ONCE = 16
KILLED_EVERY = 3

#: A worker: says when it is ready, begins when told, and says when it began and ended, on the clock of all processes.
#: It asks for the build, which its daemon is to have too if it has one; or it starts a daemon for which it is declared.
_WORKER = """if 1:
    import sys, time
    from pytest_dind import Build, Daemon, Settings, built
    from pytest_dind.host import HostEngine
    from pytest_dind.owner import Owner

    path, tag, image, run, how = sys.argv[1:]
    build = Build(path, tag=tag)
    engine, owner = HostEngine.connect(), Owner.claim(run, "bench")
    settings = Settings(image=image, builds=(build,) if how == "declared" else ())
    daemon = Daemon.start(settings, engine=engine, owner=owner) if how == "asked" else None
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.monotonic()
    if how in ("declared", "none"):
        daemon = Daemon.start(settings, engine=engine, owner=owner)
        print(begin, begin, time.monotonic(), len(daemon.client.images.list()), flush=True)
    else:
        found = built.tar_of(build, engine, settings, owner)
        was_found = time.monotonic()
        if daemon:
            built.build_into(daemon.client, build, engine, settings, owner)
        print(begin, was_found, time.monotonic(), found.image, flush=True)
    if daemon:
        daemon.stop()
"""


@dataclass
class Answer:
    """What one worker says in the end."""

    begin: float
    found: float
    end: float
    image: str


def run() -> Table:
    """Ask for an unchanged build in run after run; then let many ask at once in round after round."""
    table = Table("Builds: unchanged in the next run, and asked for by many at once", ("", *SPREAD))
    with _places() as directory, _counting() as (counted, step):
        _measure_unchanged(table, directory)
        _count_at_once(table, directory, counted, step)
    return table


def _measure_unchanged(table: Table, directory: Path) -> None:
    path = _written(directory / "unchanged", "RUN echo built >/built")
    for how in ("", "declared"):  # Built, and in the store.
        _answers(_started(path, "first", 1, how))
    asked: list[list[Answer]] = []
    starts: Samples = {"none": [], "declared": []}
    for number in range(RUNS):
        progress(f"run {number + 1} of {RUNS}: {WORKERS} workers ask for what has not changed")
        asked.append(_answers(_started(path, f"run-{number}", WORKERS, "asked")))
        for how in sorted(starts, reverse=bool(number % 2)):
            answers = _answers(_started(path, f"run-{number}", WORKERS, how))
            if any(answer.image != str(int(how == "declared")) for answer in answers):
                raise RuntimeError(f"{how}: the daemons have {[answer.image for answer in answers]} images")
            starts[how].append(_seconds(answers))
    found = [max(one.found for one in answers) - min(one.begin for one in answers) for answers in asked]
    rows = {
        f"{WORKERS} workers know that it is built": found,
        f"{WORKERS} daemons that were running have it": [_seconds(answers) for answers in asked],
        f"{WORKERS} daemons start, without any build": starts["none"],
        f"{WORKERS} daemons start, with it declared": starts["declared"],
    }
    table.rows += [(what, *spread(values, in_milliseconds)) for what, values in rows.items()]
    table.samples |= rows
    _promise(table, "declared", statistics.median(starts["declared"]) - statistics.median(starts["none"]))
    _promise(table, "asked for in a test, until daemons without its base have loaded it", _median_of(asked))


def _promise(table: Table, what: str, median: float) -> None:
    promise = f"an unchanged build, {what}: under {MOST_SECONDS} s for {WORKERS} workers together"
    table.limits.append(Limit(promise, in_milliseconds(median), median < MOST_SECONDS))


def _median_of(runs: list[list[Answer]]) -> float:
    return statistics.median(_seconds(answers) for answers in runs)


def _seconds(answers: list[Answer]) -> float:
    """Return the seconds from when all began to when the last one had what it wanted."""
    return max(answer.end for answer in answers) - min(answer.begin for answer in answers)


def _count_at_once(table: Table, directory: Path, counted: Counter[str], step: str) -> None:
    once = wrong = 0
    for number in range(ROUNDS):
        kill = number % KILLED_EVERY == KILLED_EVERY - 1
        progress(f"round {number + 1} of {ROUNDS}: {AT_ONCE} ask at once{', one is killed' if kill else ''}")
        counted.clear()
        path = _written(directory / f"round-{number}", f"RUN {step}/begin && sleep 1 && {step}/end # {number}")
        workers = _started(path, f"round-{number}", AT_ONCE)
        answers = _answers(workers, counted if kill else None)
        whole = len({answer.image for answer in answers}) == 1 and len(answers) == AT_ONCE - kill
        if whole and (counted["begin"], counted["end"]) == (1 + kill, 1):
            once += 1
        else:
            wrong += 1
            table.notes.append(f"round {number + 1}: {dict(counted)}, {len(answers)} of {AT_ONCE} answered")
    killed = ROUNDS // KILLED_EVERY
    promise = f"{AT_ONCE} processes at once: built exactly once, {ROUNDS} times over, {killed} with a killed holder"
    table.limits.append(Limit(promise, f"{once} rounds of {ROUNDS}", wrong == 0 and once == ROUNDS))
    table.notes.append("counted inside the build, by the first and the last thing it does; a killed one does no last")


def _written(path: Path, step: str) -> Path:
    path.mkdir()
    (path / "Dockerfile").write_text(f"FROM {TEST_IMAGE}\n{step}\n")
    return path


def _started(path: Path, run_name: str, count: int, how: str = "") -> list[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _WORKER, str(path), TAG, IMAGE, run_name, how]
    return [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)]


def _answers(workers: list[subprocess.Popen[str]], counted: Counter[str] | None = None) -> list[Answer]:
    """Let all begin together; return what they say, without those that were killed.

    :param counted: The steps of the build, in the middle of which its process is to be killed; None for no killing.
    """
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    if counted is not None:
        while not counted["begin"]:
            threading.Event().wait(0.01)
        os.kill(_holder(), signal.SIGKILL)
    said = [worker.communicate()[0].split() for worker in workers]
    return [Answer(float(one[0]), float(one[1]), float(one[2]), one[3]) for one in said if one]


def _holder() -> int:
    """Return the process that builds: the newest of those that have taken the lock of a build."""
    newest = max(locks_dir().glob("build-*.owner"), key=lambda path: path.stat().st_mtime)
    return int(json.loads(newest.read_text())[1])


@contextmanager
def _places() -> Iterator[Path]:
    """Have a place of our own for builders and what they make, and nothing left in the end."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as name:
        os.environ.update(XDG_STATE_HOME=f"{name}/state", XDG_CACHE_HOME=f"{name}/cache")
        try:
            yield Path(name)
        finally:
            engine = HostEngine.connect()
            with ExitStack() as stack:  # Whatever goes wrong with one of them, the others go, too.
                stack.callback(os.environ.update, before)
                stack.callback(os.environ.clear)
                stack.callback(engine.close)
                for volume in buildcache.own(engine):
                    stack.callback(engine.api.remove_volume, volume)
                stack.callback(remove_stores, engine, TAG)


@contextmanager
def _counting() -> Iterator[tuple[Counter[str], str]]:
    """Serve where builds reach it; yield how often which step was asked for, and the command that asks."""
    engine = HostEngine.connect()
    (bridge, *_) = engine.api.inspect_network("bridge")["IPAM"]["Config"]
    engine.close()
    counted: Counter[str] = Counter()

    class Count(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            counted[self.path.strip("/")] += 1
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((bridge["Gateway"], 0), Count) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield counted, f"wget -q -O /dev/null http://{bridge['Gateway']}:{server.server_port}"
        server.shutdown()
