"""What xdist tells us: which process of a run this is, and how words pass between them. Right without xdist too."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

#: In xdist's workerinput, its workeroutput and on reports.
KEY = "dind"
#: How many there are, if that is for want of memory.
BY_MEMORY = pytest.StashKey[int]()


def is_controller(config: pytest.Config) -> bool:
    """Whether this process only hands tests out to workers."""
    # With --collect-only there are no workers, whatever else is asked for; and with `--dist` alone there are none, too.
    hands_out = getattr(config.option, "dist", "no") != "no" and bool(getattr(config.option, "tx", None))
    return hands_out and not config.option.collectonly and not hasattr(config, "workerinput")


def is_early_controller(namespace: Any) -> bool:
    """Whether this process will be a controller: from the command line, before pytest is configured.

    A worker is given the controller's command line, so it must be told apart in another way.
    """
    workers = getattr(namespace, "numprocesses", None)
    # `-n 0` overrules any --dist, which may stand in the ini file; so does --pdb for `-n auto`.
    if is_worker_process() or workers == 0 or (isinstance(workers, str) and getattr(namespace, "usepdb", False)):
        return False
    if getattr(namespace, "collectonly", False):
        return False
    return bool(workers) or (getattr(namespace, "dist", "no") != "no" and bool(getattr(namespace, "tx", None)))


def count(config: pytest.Config) -> int:
    """Return how many processes run tests."""
    # With `-n` it is a number by now, also for `auto`; with `--tx 3*popen` each has an entry.
    return getattr(config.option, "numprocesses", None) or len(getattr(config.option, "tx", None) or ()) or 1


def sharers(config: pytest.Config) -> int:
    """Return how many processes run tests, asked in one of them."""
    return int(getattr(config, "workerinput", {}).get("workercount", 1))


def runs_all(config: pytest.Config) -> bool:
    """Whether this process is sure to run all tests that it has collected, unless the run ends before."""
    if is_controller(config):
        return False
    if not hasattr(config, "workerinput"):
        return True
    return (_dist(config) == "each" or sharers(config) == 1) and not _is_in_place_of_another(config)


def _is_in_place_of_another(config: pytest.Config) -> bool:
    """Whether this worker is there for one that has crashed, which has run some of its tests."""
    number = worker_name().removeprefix("gw")
    return number.isdecimal() and int(number) >= sharers(config)


def queued(config: pytest.Config) -> list[int]:
    """Return which of its tests a worker is sure to run after the next one, as positions; not all of them at all times.

    xdist says of no more than the next one; the others are in a queue that can be looked into, before 3.7 one of
    Python's own.
    """
    if _dist(config) == "worksteal":
        return []  # Another worker may take them.
    queues: Any = (getattr(one, "torun", None) for one in config.pluginmanager.get_plugins())
    for queue in queues:
        if hasattr(queue, "lock"):
            with queue.lock() as numbers:
                return [number for number in numbers if isinstance(number, int)]
        if hasattr(queue, "mutex"):
            with queue.mutex:
                return [number for number in queue.queue if isinstance(number, int)]
    return []


def _dist(config: pytest.Config) -> str:
    # In a worker xdist sets the option itself to "no".
    return str(getattr(config.known_args_namespace, "dist", "no"))


def worker_name() -> str:
    """Return the worker's name: gw0, gw1, …, or `main` without xdist."""
    return os.environ["PYTEST_XDIST_WORKER"] if is_worker_process() else "main"


def run_id(config: pytest.Config) -> str:
    """Return what all processes of a run share, and other runs do not, not even with the same `--testrunuid`."""
    given = getattr(config.known_args_namespace, "testrunuid", None)
    if given is not None:
        controller = os.getppid() if is_worker_process() else os.getpid()
        return f"{given}.{controller}.{_start_of(controller)}"
    if is_worker_process():
        return os.environ["PYTEST_XDIST_TESTRUNUID"]
    if getattr(config.option, "testrunuid", None) is None:
        # xdist makes one up where none is given, but only when it starts its workers.
        config.option.testrunuid = secrets.token_hex(16)
    return str(config.option.testrunuid)


def _start_of(process: int) -> str:
    """Return when a process was started, in ticks since the machine was; empty where nobody says so."""
    try:
        said = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has just been killed
        return ""
    # The second field is the program's name, in brackets; the start is the 22nd: proc_pid_stat(5).
    return said.rpartition(")")[2].split()[19]


def is_worker_process() -> bool:
    """Whether xdist started this process; known before it says so in `workerinput`.

    It starts workers through execnet, as `python -c`, and sets these names. They alone prove nothing: a run inside a
    worker's test inherits them.
    """
    return sys.argv[:1] == ["-c"] and {"PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"} <= os.environ.keys()


def tell_controller(config: pytest.Config, message: Mapping[str, Any]) -> None:
    """Leave a message that the controller gets when this worker ends; without xdist there is nobody to tell."""
    output = getattr(config, "workeroutput", None)
    if output is not None:
        output[KEY] = {**output.get(KEY, {}), **message}


def told_by(node: Any) -> Mapping[str, Any]:
    """Return the message that an ended worker left; empty if it crashed before."""
    message: Mapping[str, Any] = getattr(node, "workeroutput", {}).get(KEY, {})
    return message
