"""The next test's fresh daemon starts while this one runs: the right one, never one too many, and none is left."""

from __future__ import annotations

import re
import signal

import pytest

from pytest_dind import Settings, memory

from .conftest import IMAGE, MATRIX, InnerRun
from .processes import WAIT, Spawned
from .watching import Watched

pytestmark = pytest.mark.once

#: Tests with a fresh daemon each, whose time is longer than a start takes.
FRESH = """
import time
import pytest


@pytest.mark.parametrize("number", range({tests}))
def test_fresh(number, dind_fresh_client):
    assert dind_fresh_client.containers.list(all=True) == []
    dind_fresh_client.volumes.create("mine")
    assert len(dind_fresh_client.volumes.list()) == 1
    time.sleep(0.2)
"""


@pytest.mark.parametrize(
    ("ahead", "mode"),
    [
        (0, ["-p", "no:xdist"]),
        (1, ["-p", "no:xdist"]),
        (3, ["-p", "no:xdist"]),
        (1, ["-n2"]),
        (2, ["-n2", "--dist=worksteal"]),
        (1, ["-n2", "--dist=loadscope"]),
        (2, ["-n2", "--dist=loadfile"]),
        (1, ["-n2", "--dist=loadgroup"]),
        (1, ["-n2", "--dist=each"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else str(value),
)
def test_each_test_has_its_own_daemon_and_there_are_never_too_many(
    inner: InnerRun, watched: Watched, ahead: int, mode: list[str]
) -> None:
    tests = 6
    inner.pytester.makepyfile(FRESH.format(tests=tests))
    result = inner.run("--dind", f"--dind-lookahead={ahead}", *mode)
    times = 2 if "--dist=each" in mode else 1
    result.assert_outcomes(passed=tests * times)
    assert watched.started == tests * times, "not one too many"
    assert watched.most <= ahead + 1
    if ahead:  # With more it may never come to that, as one is started after the other.
        assert watched.most >= 2, "it does look ahead"


def test_a_start_costs_the_next_test_nothing(inner: InnerRun) -> None:
    inner.pytester.makepyfile(FRESH.format(tests=4).replace("sleep(0.2)", "sleep(1.5)"))
    result = inner.run("--dind", "-p", "no:xdist", "--durations=0", "-vv")
    result.assert_outcomes(passed=4)
    setups = {
        int(number): float(seconds)
        for seconds, number in re.findall(
            r"^([\d.]+)s setup +\S+::test_fresh\[(\d)\]", str(result.stdout), re.MULTILINE
        )
    }
    assert max(setups[number] for number in (1, 2, 3)) < 0.1 < setups[0]
    teardowns = re.findall(r"^([\d.]+)s teardown +\S+::test_fresh\[\d\]", str(result.stdout), re.MULTILINE)
    assert max(map(float, teardowns)) < 0.1, "nor does an end cost the test before"


def test_each_gets_the_daemon_that_its_markers_and_the_matrix_ask_for(inner: InnerRun, watched: Watched) -> None:
    images = [IMAGE, *[one for one in MATRIX if one != IMAGE]][:2]
    inner.pytester.makepyfile("""
        import pytest

        def limit(daemon):
            return daemon.engine.container(daemon.name)["HostConfig"]["Memory"]

        @pytest.mark.dind(memory="300m")
        def test_small(dind_fresh_daemon):
            assert limit(dind_fresh_daemon) == 300 * 1024**2

        def test_without_a_marker(dind_fresh_daemon, _dind_image):
            assert limit(dind_fresh_daemon) == 0
            assert dind_fresh_daemon.settings.image == _dind_image

        def test_without_any():
            pass

        @pytest.mark.skip(reason="not to be waited for")
        def test_skipped(dind_fresh_daemon):
            pass

        @pytest.mark.skipif(1 < 2, reason="nor this one")
        @pytest.mark.dind(memory="500m")
        def test_skipped_on_a_condition(dind_fresh_daemon, dind_client):
            pass

        @pytest.mark.dind(memory="400m")
        def test_large(dind_fresh_client, dind_fresh_daemon):
            assert limit(dind_fresh_daemon) == 400 * 1024**2
    """)
    result = inner.run("--dind", "-p", "no:xdist", *[f"--dind-image={image}" for image in images])
    result.assert_outcomes(passed=3 * len(images) + 1, skipped=2 * len(images))
    assert watched.started == 3 * len(images)


def test_settings_of_the_suites_own_count_as_soon_as_they_are_known(inner: InnerRun, watched: Watched) -> None:
    inner.pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def dind_settings(dind_settings):
            return dind_settings.changed("conftest", memory="300m")
    """)
    inner.pytester.makepyfile(
        FRESH.format(tests=3).replace("time.sleep(0.2)", "time.sleep(1)")
        + """

def test_it_was_so(dind_fresh_daemon):
    assert dind_fresh_daemon.settings.memory == 300 * 1024**2
"""
    )
    result = inner.run("--dind", "-p", "no:xdist")
    result.assert_outcomes(passed=4)
    assert watched.started == 4
    assert watched.most == 2


def test_one_that_nobody_foresaw_costs_no_spare_of_other_settings(inner: InnerRun, watched: Watched) -> None:
    inner.pytester.makeconftest("""
        import time
        from pytest_dind import Daemon

        stop = Daemon.stop

        def stop_slowly(self, **how):
            time.sleep(1)
            stop(self, **how)

        Daemon.stop = stop_slowly
    """)
    inner.pytester.makepyfile("""
        import time
        import pytest

        def test_before(dind_fresh_client):
            pass

        def test_by_name(request):
            time.sleep(0.5)  # By now the next test's has begun, and the one of the test before has not ended.
            request.getfixturevalue("dind_fresh_client")

        @pytest.mark.dind(memory="300m")
        def test_next(dind_fresh_client):
            pass
    """)
    inner.run("--dind", "-p", "no:xdist").assert_outcomes(passed=3)
    assert watched.started == 3
    assert watched.most == 2


def test_one_that_fails_while_nobody_waits_fails_the_test_that_needed_it(inner: InnerRun) -> None:
    inner.pytester.makepyfile("""
        import time
        import pytest

        def test_before(dind_fresh_client):
            time.sleep(1)

        @pytest.mark.dind(daemon_args=["--no-such-flag"])
        def test_cannot(dind_fresh_client):
            pass

        def test_after(dind_fresh_client):
            assert dind_fresh_client.ping()
    """)
    result = inner.run("--dind", "-p", "no:xdist")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_cannot*", "*unknown flag: --no-such-flag*"])


def test_one_that_ended_while_it_stood_by_is_started_anew(inner: InnerRun) -> None:
    inner.pytester.makepyfile("""
        import time

        def test_kills_the_next_ones(dind_fresh_daemon):
            engine = dind_fresh_daemon.engine
            mine = engine.container(dind_fresh_daemon.name)["Config"]["Labels"]["pytest-dind.lease"]
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                found = engine.api.containers(filters={"label": f"pytest-dind.lease={mine}"})
                others = [one for one in found if one["Names"][0].lstrip("/") != dind_fresh_daemon.name]
                if others:
                    time.sleep(2)  # It has begun; now it serves.
                    engine.api.kill(others[0]["Id"])
                    break
                time.sleep(0.05)
            assert others
            time.sleep(1)

        def test_next(dind_fresh_client):
            assert dind_fresh_client.ping()
    """)
    inner.run("--dind", "-p", "no:xdist").assert_outcomes(passed=2)


@pytest.mark.parametrize("how", ["first failure", "pytest.exit", "Ctrl-C", "SIGKILL", "worker crash"])
def test_however_a_run_ends_no_spare_is_left(inner: InnerRun, watched: Watched, how: str) -> None:
    end = {
        "first failure": "assert False",
        "pytest.exit": "import pytest; pytest.exit('enough', returncode=7)",
        "Ctrl-C": WAIT,
        "SIGKILL": WAIT,
        "worker crash": "import os; os._exit(3)",
    }[how]
    inner.pytester.makepyfile(f"""
        import pathlib, time

        def test_ends(dind_fresh_client):
            pathlib.Path("ready").touch()
            {end}

        def test_never_runs(dind_fresh_client):
            pass
    """)
    arguments = ["-n", "1", "--max-worker-restart=0"] if how == "worker crash" else ["-x"]
    with Spawned(inner.pytester.path, *arguments) as run:
        if how in ("Ctrl-C", "SIGKILL"):
            run.wait_for("ready")
            run.send(signal.SIGINT if how == "Ctrl-C" else signal.SIGKILL)
        code = run.wait()
        codes = {"first failure": 1, "pytest.exit": 7, "Ctrl-C": 2, "SIGKILL": -9, "worker crash": 1}
        assert code == codes[how], run.output
    inner.wait_until_nothing_is_left()
    assert watched.started <= 2


def test_a_crashed_worker_is_replaced_and_no_spare_of_either_is_left(inner: InnerRun, watched: Watched) -> None:
    inner.pytester.makepyfile("""
        import os
        import pathlib
        import time
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(number, dind_fresh_client):
            time.sleep(1)
            if number == 1 and not pathlib.Path("crashed").exists():
                pathlib.Path("crashed").touch()
                os._exit(3)
    """)
    result = inner.run("--dind", "-n1")
    result.assert_outcomes(passed=3, failed=1)
    assert watched.started <= 5, "the spare of the worker that crashed, and one for each test"


def test_deselected_tests_have_nothing_started(inner: InnerRun, watched: Watched) -> None:
    inner.pytester.makepyfile(FRESH.format(tests=4))
    inner.run("--dind", "-p", "no:xdist", "-k", "test_fresh[1] or test_fresh[2]").assert_outcomes(
        passed=2, deselected=2
    )
    assert watched.started == 2


class TestTheSessionDaemon:
    def test_is_not_started_for_tests_that_do_not_ask_for_it(self, inner: InnerRun, watched: Watched) -> None:
        inner.pytester.makepyfile("""
            import pytest

            def test_plain():
                pass

            def test_user(dind_client):
                pass

            @pytest.mark.skip(reason="no")
            def test_skipped(dind_client):
                pass
        """)
        for arguments in (["-k", "plain or skipped"], ["--collect-only"], ["--setup-plan"]):
            inner.run("--dind", *arguments, "-p", "no:xdist")
        assert inner.left(none_started=True) == []
        result = inner.run("--dind", "-p", "no:xdist")
        result.assert_outcomes(passed=2, skipped=1)
        assert watched.started == 1

    def test_that_cannot_start_is_the_error_of_its_first_user(self, inner: InnerRun) -> None:
        inner.pytester.makepyfile("""
            def test_before():
                pass

            def test_user(dind_client):
                pass
        """)
        result = inner.run("--dind", "-p", "no:xdist", "--dind-daemon-arg=--no-such-flag")
        assert result.ret != 0
        assert "unknown flag: --no-such-flag" in str(result.stdout) + str(result.stderr)
        assert "Traceback" not in str(result.stdout) + str(result.stderr)


def test_n_auto_counts_the_memory_of_daemons_and_the_header_says_so(inner: InnerRun) -> None:
    inner.pytester.makepyfile("def test_it():\n    pass\n")
    left = memory.available()
    assert left is not None
    each = f"--dind-memory={left * 2 // 5}"  # One that is used and one that stands by.
    result = inner.run("--dind", "-n", "auto", each)
    result.stdout.fnmatch_lines(["dind: *; 1 worker, by memory", "created: 1/1 worker"])
    for arguments in (["-n", "2", each], ["-n", "auto"]):
        assert "by memory" not in str(inner.run("--dind", *arguments).stdout)
    assert memory.most_workers(Settings(memory=left // 5), left) == 2


@pytest.mark.parametrize(
    ("mode", "are_errors"), [(["-p", "no:xdist"], False), (["-n1"], True)], ids=["a warning", "an error in a worker"]
)
def test_what_goes_wrong_behind_the_back_of_tests_is_said_when_they_have_been_reported(
    inner: InnerRun, mode: list[str], are_errors: bool
) -> None:
    inner.pytester.makeconftest("""
        from pytest_dind import Daemon

        ends = []
        stop = Daemon.stop

        def stop_and_fail(self, **how):
            stop(self, **how)
            ends.append(self)
            if len(ends) == 1:
                raise OSError("no more of that")

        Daemon.stop = stop_and_fail
    """)
    inner.pytester.makepyfile(FRESH.format(tests=2))
    result = inner.run("--dind", *mode, *(["-W", "error"] if are_errors else []))
    result.assert_outcomes(passed=2, warnings=0 if are_errors else 1)
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if are_errors else pytest.ExitCode.OK)
    result.stdout.fnmatch_lines(
        [
            "dind: 2 daemons started (*); not all could be removed",
            "dind: not removed: pytest-dind-*-1 did not end as it should: OSError: no more of that",
        ]
    )


def test_a_test_that_runs_in_a_forked_process_starts_its_own(inner: InnerRun, watched: Watched) -> None:
    inner.pytester.makepyfile("""
        import os
        import signal
        import time

        def test_forked(request):
            time.sleep(1)  # What the next test needs has begun by now.
            child = os.fork()
            if not child:
                signal.alarm(30)
                assert request.getfixturevalue("dind_client").ping()
                assert request.getfixturevalue("dind_fresh_client").ping()
                os._exit(3)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3

        def test_next(dind_client, dind_fresh_client):
            assert dind_client.ping()
            assert dind_fresh_client.ping()
    """)
    inner.run("--dind", "-p", "no:xdist").assert_outcomes(passed=2)
    assert watched.started == 4
