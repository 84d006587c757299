"""Plugins that run tests in ways of their own: again after a failure, and each in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from .conftest import InnerRun
from .watching import Watched

pytestmark = pytest.mark.once

#: Where they are installed; see .ci/venv.
PLUGINS = Path(__file__).parent.parent / ".venv" / "plugins"


@pytest.fixture(autouse=True)
def _with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    if not PLUGINS.is_dir():
        pytest.skip(f"no {PLUGINS}; .ci/venv makes it")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PLUGINS), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def inner(inner: InnerRun, host: docker.DockerClient) -> Iterator[InnerRun]:
    """An inner run that may keep daemons."""
    yield inner
    for name in inner.containers():
        host.containers.get(name).remove(force=True, v=True)
    inner.run("--dind", "-p", "no:xdist")  # It sweeps the directories of their sockets.


@pytest.mark.parametrize("how", [("-p", "no:xdist"), ("-n1",)])
def test_what_happened_in_an_attempt_that_does_not_count_is_told(inner: InnerRun, how: tuple[str, ...]) -> None:
    inner.pytester.makepyfile("""
        import pytest

        attempts = []

        def test_fails_once(dind_fresh_client):
            attempts.append(dind_fresh_client)
            assert len(attempts) == 2

        def test_breaks_it_once(dind_daemon):
            attempts.append(dind_daemon)
            if len(attempts) == 3:
                dind_daemon.exec(["ip", "link", "delete", "docker0"])
                assert False
    """)
    result = inner.run("--dind", "--reruns=1", "--dind-keep=failed", *how)
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["rerun"]) == (2, 2)
    [kept] = [one for one in inner.containers() if one.endswith("-kept")]
    result.stdout.fnmatch_lines([f"dind: kept {kept}: export *"])
    broke = "*::test_breaks_it_once broke it (/sys/class/net/docker0 is missing in its container)"
    result.stdout.fnmatch_lines([f"dind: the session daemon * was replaced: {broke}"])
    assert "in the end" not in result.stdout.str(), "it is not broken in the end"


@pytest.mark.parametrize("how", [("-p", "no:xdist"), ("-n1",)])
def test_the_last_test_too_finds_what_it_left_cleaned_when_it_is_run_again(
    inner: InnerRun, how: tuple[str, ...], busybox: str
) -> None:
    inner.pytester.makepyfile(f"""
        attempts = []

        def test_fails_once(dind_client, dind_clean):
            dind_client.containers.create({busybox!r}, name="app")
            attempts.append(1)
            assert len(attempts) == 2
    """)
    result = inner.run("--dind", f"--dind-preload={busybox}", "--reruns=1", "--dind-keep=failed", *how)
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["rerun"]) == (1, 1), result.stdout.str()


def test_the_last_test_that_breaks_it_again_and_again_is_named(inner: InnerRun) -> None:
    inner.pytester.makepyfile("""
        def test_breaks_it(dind_daemon):
            dind_daemon.exec(["ip", "link", "delete", "docker0"])
            assert False
    """)
    result = inner.run("--dind", "--reruns=1", "-p", "no:xdist")
    broke = "(/sys/class/net/docker0 is missing in its container)"
    result.stdout.fnmatch_lines(
        [
            f"dind: the session daemon * was replaced: *::test_breaks_it broke it {broke}",
            f"dind: the session daemon * was broken in the end: *::test_breaks_it, the last test to use it, * {broke}",
        ],
    )


def test_for_tests_in_processes_of_their_own_nothing_is_started_in_the_others(
    inner: InnerRun, watched: Watched
) -> None:
    # What pytest-forked does, which itself fails with pytest 9.2.
    inner.pytester.makeconftest("""
        import os
        import signal
        import pytest
        from _pytest.runner import runtestprotocol

        def pytest_addoption(parser):
            parser.addoption("--forked", action="store_true")

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item, nextitem):
            child = os.fork()
            if not child:
                signal.alarm(60)
                os._exit(any(report.failed for report in runtestprotocol(item, log=False)))
            outcome = "failed" if os.waitpid(child, 0)[1] else "passed"
            report = pytest.TestReport(item.nodeid, item.location, {}, outcome, None, "call")
            item.ihook.pytest_runtest_logreport(report=report)
            return True
    """)
    inner.pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_fresh(number, dind_fresh_client):
            assert dind_fresh_client.ping()

        def test_session(dind_client):
            assert dind_client.ping()
    """)
    result = inner.run("--dind", "--forked", "-p", "no:xdist")
    result.assert_outcomes(passed=4)
    assert watched.started == 4
    inner.wait_until_nothing_is_left()
