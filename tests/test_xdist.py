"""One daemon for each worker, none for the controller, and only where a test needs one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import InnerRun

pytestmark = pytest.mark.once

#: Writes down who used which daemon, and whose daemons were on the host engine at that moment.
CONFTEST = """
    import json, os, pathlib
    import docker, pytest

    HERE = pathlib.Path(__file__).parent

    @pytest.fixture
    def used(dind_daemon, request):
        api = docker.from_env().api
        run = api.inspect_container(dind_daemon.name)["Config"]["Labels"]["pytest-dind.run"]
        there = api.containers(all=True, filters={"label": f"pytest-dind.run={run}"})
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        seen = {
            "worker": worker, "daemon": dind_daemon.name, "id": dind_daemon.client.info()["ID"],
            "owners": [one["Labels"]["pytest-dind.worker"] for one in there],
        }
        (HERE / f"{worker}-{request.node.name}.seen").write_text(json.dumps(seen))
"""

SUITE = """
    import pytest

    pytestmark = pytest.mark.xdist_group({group!r})  # pytest 9.2 with xdist 3.8 does not heed it: xdist's issue 1386

    @pytest.mark.parametrize("n", range(3))
    def test_{group}(used, n): pass

    def test_none_{group}(): pass
"""


class Suite:
    """An inner suite whose tests write down which daemons they see."""

    def __init__(self, inner: InnerRun) -> None:
        self.inner = inner
        inner.pytester.makeconftest(CONFTEST)

    def run(self, *arguments: str) -> pytest.RunResult:
        for path in self._files():
            path.unlink()
        return self.inner.run("--dind", *arguments)

    def _files(self) -> list[Path]:
        return list(self.inner.pytester.path.glob("*.seen"))

    @property
    def seen(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in self._files()]

    def daemons(self) -> dict[str, str]:
        """Which worker used which daemon; fails where one used two, or two used one."""
        pairs = {(one["worker"], one["daemon"], one["id"]) for one in self.seen}
        for column in zip(*pairs, strict=True):
            assert len(set(column)) == len(pairs), pairs
        return {worker: daemon for worker, daemon, _ in pairs}


@pytest.fixture
def suite(inner: InnerRun) -> Suite:
    return Suite(inner)


def said_started(result: pytest.RunResult, count: int) -> None:
    """The summary says once how many daemons there were."""
    lines = [line for line in result.outlines if " started (" in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"dind: {count} daemon{'s' * (count > 1)} started (median ")
    assert lines[0].endswith("; all removed with their volumes")


@pytest.mark.parametrize(
    ("arguments", "workers"),
    [
        ("-p no:xdist", ["main"]),
        ("-n 0", ["main"]),
        ("-n 2", ["gw0", "gw1"]),
        ("-n 2 --dist loadfile", ["gw0", "gw1"]),
        ("-n 2 --dist loadgroup", ["gw0", "gw1"]),
        ("-n 2 --dist worksteal", ["gw0", "gw1"]),
        ("--dist each --tx 2*popen", ["gw0", "gw1"]),
    ],
)
def test_every_worker_has_one_daemon_of_its_own_and_the_controller_none(
    suite: Suite, arguments: str, workers: list[str]
) -> None:
    suite.inner.pytester.makepyfile(test_a=SUITE.format(group="a"), test_b=SUITE.format(group="b"))
    result = suite.run(*arguments.split())
    result.assert_outcomes(passed=16 if "each" in arguments else 8)
    assert sorted(suite.daemons()) == workers
    for worker, daemon in suite.daemons().items():
        assert daemon.startswith(f"pytest-dind-{worker}-")
    for one in suite.seen:
        assert set(one["owners"]) <= set(workers)
        assert len(set(one["owners"])) == len(one["owners"])
    said_started(result, len(workers))
    assert suite.inner.left() == []


@pytest.mark.parametrize(
    ("arguments", "selected", "daemons"),
    [("-p no:xdist", 2, 0), ("-n 2", 2, 0), ("-n 2 --dist loadfile", 4, 1)],
)
def test_a_worker_without_a_test_that_needs_a_daemon_starts_none(
    suite: Suite, arguments: str, selected: int, daemons: int
) -> None:
    suite.inner.pytester.makepyfile(
        test_a="""
        def test_user_1(used): pass
        def test_user_2(used): pass
        """,
        test_b="""
        def test_other_1(): pass
        def test_other_2(): pass
        """,
    )
    result = suite.run(*arguments.split(), *([] if daemons else ["-k", "not user"]))
    result.assert_outcomes(passed=selected, deselected=4 - selected if "no:xdist" in arguments else 0)
    assert len(suite.seen) == selected - 2
    if daemons:
        said_started(result, daemons)
    else:
        assert " started (" not in str(result.stdout)
    assert suite.inner.left() == []


def test_a_crashed_worker_is_replaced_by_one_with_a_daemon_of_its_own(suite: Suite) -> None:
    suite.inner.pytester.makepyfile(
        """
        import os

        def test_before(used): pass
        def test_crash(used): os._exit(1)
        def test_after(used): pass
        """
    )
    result = suite.run("-n", "1")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["worker 'gw0' crashed while running *::test_crash*"])
    assert sorted(suite.daemons()) == ["gw0", "gw1"]
    said_started(result, 2)
    suite.inner.wait_until_nothing_is_left()


def test_a_crashed_worker_that_is_not_replaced_leaves_nothing(suite: Suite) -> None:
    suite.inner.pytester.makepyfile(
        """
        import os, pytest

        @pytest.mark.parametrize("n", range(8))
        def test_it(used, n):
            if os.environ["PYTEST_XDIST_WORKER"] == "gw0":
                os._exit(1)
        """
    )
    result = suite.run("-n", "2", "--max-worker-restart=0")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["worker gw0 crashed and worker restarting disabled"])
    suite.inner.wait_until_nothing_is_left()


@pytest.mark.parametrize("arguments", ["--maxfail=2 -n 2", "-x -p no:xdist"])
def test_a_run_that_stops_at_a_failure_leaves_nothing(suite: Suite, arguments: str) -> None:
    suite.inner.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", range(8))
        def test_it(used, dind_fresh_daemon, n): assert n > 1
        """
    )
    result = suite.run(*arguments.split())
    assert result.parseoutcomes()["failed"] >= 1
    assert result.parseoutcomes().get("passed", 0) < 6
    assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    assert suite.inner.left() == []


def test_running_the_last_failures_again_starts_only_their_daemons(suite: Suite) -> None:
    suite.inner.pytester.makepyfile(
        """
        import pathlib, pytest

        @pytest.mark.parametrize("n", range(4))
        def test_it(used, n): assert n or pathlib.Path("mended").exists()

        def test_none(): pass
        """
    )
    suite.run("-n", "2").assert_outcomes(passed=4, failed=1)
    (suite.inner.pytester.path / "mended").touch()
    result = suite.run("-n", "2", "--lf")
    result.assert_outcomes(passed=1)
    said_started(result, 1)
    assert len(suite.seen) == 1


def test_fresh_and_factory_daemons_of_two_workers_are_all_counted_and_removed(suite: Suite) -> None:
    suite.inner.pytester.makepyfile(
        test_a="""
        def test_fresh(used, dind_fresh_daemon, dind_daemon):
            assert dind_fresh_daemon.name != dind_daemon.name
        """,
        test_b="""
        def test_factory(used, dind_factory): dind_factory(memory="1g")
        """,
    )
    result = suite.run("-n", "2", "--dist", "loadfile")
    result.assert_outcomes(passed=2)
    said_started(result, 4)
    assert suite.inner.left() == []
