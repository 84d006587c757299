"""What the next test will want is told from all that pytest and xdist say: its markers, parameters, fixtures, queue."""

from __future__ import annotations

import re

import pytest

from .conftest import IMAGE, MATRIX, InnerRun
from .watching import Watched

pytestmark = pytest.mark.once

NO_XDIST = ("-p", "no:xdist")

#: For the beginning of a suite: what a test's own daemon was limited to.
LIMIT = """
import time
import pytest

def limit(daemon):
    return daemon.engine.container(daemon.name)["HostConfig"]["Memory"] // 1024**2
"""


def setups(result: pytest.RunResult) -> dict[str, float]:
    """The seconds of each test's set-up, as `--durations=0 -vv` shows them; what took next to nothing has 0."""
    output = str(result.stdout)
    found = dict.fromkeys(re.findall(r"::(test_\S+)", output), 0.0)
    return found | {
        name: float(seconds) for seconds, name in re.findall(r"^([\d.]+)s setup +\S+?\.py::(\S+)", output, re.MULTILINE)
    }


TIMED = ("--durations=0", "-vv")


# -- settings


def test_parameters_of_the_suites_own_settings_count_for_the_test_that_has_them(
    inner: InnerRun, watched: Watched
) -> None:
    inner.pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session", params=[300, 400])
        def dind_settings(dind_settings, request):
            return dind_settings.changed("conftest", memory=f"{request.param}m")
    """)
    inner.pytester.makepyfile(
        LIMIT
        + """
@pytest.mark.parametrize("number", range(3))
def test_it(number, dind_fresh_daemon, request):
    time.sleep(0.5)
    assert limit(dind_fresh_daemon) == request.node.callspec.params["dind_settings"]
"""
    )
    result = inner.run("--dind", *NO_XDIST)
    result.assert_outcomes(passed=6)
    assert watched.started == 6, "none of one parameter for a test of the other"
    assert watched.most == 2


def test_settings_of_modules_and_of_direct_parameters_are_told_apart(inner: InnerRun, watched: Watched) -> None:
    inner.pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="module")
        def dind_settings(dind_settings, request):
            return dind_settings.changed("conftest", memory=request.module.MEMORY)
    """)
    for name, limit in (("a", 300), ("b", 400)):
        tests = "".join(
            f"\ndef test_{name}{number}(dind_fresh_daemon):\n    time.sleep(0.5)\n"
            f"    assert limit(dind_fresh_daemon) == {limit}\n"
            for number in range(2)
        )
        inner.pytester.makepyfile(**{f"test_{name}": f'{LIMIT}\nMEMORY = "{limit}m"\n{tests}'})
    inner.pytester.makepyfile(
        test_c=LIMIT
        + """
from pytest_dind import Settings

IMAGE = IMAGE_HERE

@pytest.mark.parametrize("dind_settings", [Settings(image=IMAGE, memory=one) for one in ("500m", "600m")])
def test_c(dind_fresh_daemon, dind_settings):
    time.sleep(0.5)
    assert limit(dind_fresh_daemon) == dind_settings.memory // 1024**2
""".replace("IMAGE_HERE", repr(IMAGE))
    )
    result = inner.run("--dind", *NO_XDIST, *TIMED)
    result.assert_outcomes(passed=6)
    assert watched.started == 6
    assert watched.most == 2


def test_a_daemon_for_other_settings_than_were_foreseen_is_started_and_nobody_waits_for_ever(
    inner: InnerRun, watched: Watched
) -> None:
    inner.pytester.makeconftest("""
        import time
        import pytest
        from pytest_dind import Daemon

        stop = Daemon.stop

        def stop_slowly(self, **how):
            time.sleep(0.5)  # The place of the one before is free when others have been waiting for it.
            stop(self, **how)

        Daemon.stop = stop_slowly

        @pytest.fixture(autouse=True)
        def limited(request):
            request.node.add_marker(pytest.mark.dind(memory="300m"))  # Nobody can know.
    """)
    inner.pytester.makepyfile(
        LIMIT
        + """
@pytest.mark.parametrize("number", range(4))
def test_it(number, dind_fresh_daemon):
    assert limit(dind_fresh_daemon) == 300
"""
    )
    result = inner.run("--dind", *NO_XDIST)
    result.assert_outcomes(passed=4)
    assert watched.most <= 2


@pytest.mark.parametrize("mode", [NO_XDIST, ("-n1",)], ids=["one process", "a worker"])
def test_as_many_as_were_asked_for_stand_by_and_tests_without_a_daemon_take_no_place(
    inner: InnerRun, watched: Watched, mode: tuple[str, ...]
) -> None:
    inner.pytester.makepyfile("""
        import time
        import pytest

        @pytest.mark.parametrize("number", range(5))
        class TestIt:
            def test_without(self, number):
                pass

            def test_fresh(self, number, dind_fresh_client):
                time.sleep(2 if number < 2 else 0)
    """)
    result = inner.run("--dind", "--dind-lookahead=3", *mode, *TIMED)
    result.assert_outcomes(passed=10)
    assert watched.started == 5
    if mode == NO_XDIST:
        assert watched.most == 4
    else:  # xdist hands tests out a few at a time, and the others may be another worker's.
        assert 2 <= watched.most <= 4
    found = setups(result)
    assert max(found[f"TestIt::test_fresh[{number}]"] for number in (1, 2)) < 0.3, found


# -- who is skipped


def test_for_tests_that_marks_skip_nothing_is_started_and_for_the_others_it_is(
    inner: InnerRun, watched: Watched
) -> None:
    inner.pytester.makepyfile("""
        import time
        import pytest

        pytestmark = pytest.mark.dind(memory="300m")

        def test_first(dind_fresh_client):
            time.sleep(1)

        @pytest.mark.skipif("True", reason="in a string")
        def test_string(dind_fresh_client, dind_client): ...

        @pytest.mark.skipif([1], reason="true enough")
        def test_true_enough(dind_fresh_client, dind_client): ...

        @pytest.mark.skipif(condition=1, reason="by name")
        def test_by_name(dind_fresh_client, dind_client): ...

        @pytest.mark.skipif(reason="without a condition")
        def test_without(dind_fresh_client, dind_client): ...

        @pytest.mark.xfail(run=False)
        def test_not_run(dind_fresh_client, dind_client): ...

        @pytest.mark.xfail(1 > 2, run=False, reason="does not apply")
        @pytest.mark.skipif(None, reason="nor does this")
        def test_last(dind_fresh_client): ...
    """)
    result = inner.run("--dind", *NO_XDIST, *TIMED)
    result.assert_outcomes(passed=2, skipped=4, xfailed=1)
    assert watched.started == 2
    assert setups(result)["test_last"] < 0.3


# -- when no test runs


@pytest.mark.parametrize(
    ("broken", "code"),
    [("import no_such_module", 2), ("import pytest\n@pytest.mark.dind(memori='1g')\ndef test_it(): ...", 4)],
    ids=["a module that cannot be imported", "a marker that cannot be used"],
)
def test_nothing_is_started_when_collecting_fails(inner: InnerRun, watched: Watched, broken: str, code: int) -> None:
    inner.pytester.makepyfile(
        test_good="def test_it(dind_client, dind_fresh_client): ...",
        test_bad=broken,
    )
    result = inner.run("--dind", *NO_XDIST)
    assert result.ret == code
    assert watched.started == 0
    result.stdout.no_fnmatch_line("dind: * started *")


def test_dist_without_workers_is_a_run_in_one_process(inner: InnerRun) -> None:
    inner.pytester.makeconftest("""
        import os

        def pytest_dind_preload(config):
            print("asked in", os.getpid())
            return []
    """)
    inner.pytester.makepyfile("""
        import docker, os

        MINE = os.environ["DOCKER_HOST"]

        def test_it(dind_client):
            client = docker.from_env()
            assert MINE.endswith("docker.sock") and "pytest-dind" in MINE
            assert client.info()["ID"] == dind_client.info()["ID"]
            client.close()
    """)
    result = inner.run("--dind", "--dind-environ", "--dist=loadfile", "-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["asked in *"])


# -- the session daemon


def test_the_session_daemon_is_there_for_a_first_user_many_tests_ahead(inner: InnerRun) -> None:
    inner.pytester.makepyfile("""
        import time
        import pytest

        @pytest.mark.parametrize("number", range(20))
        def test_plain(number):
            time.sleep(0.08)

        def test_user(dind_client):
            assert dind_client.ping()
    """)
    for mode in (NO_XDIST, ("-n1",)):
        result = inner.run("--dind", *mode, *TIMED)
        result.assert_outcomes(passed=21)
        assert setups(result)["test_user"] < 0.3, mode


def test_the_session_daemon_of_the_next_engine_is_there_when_the_first_test_on_it_begins(
    inner: InnerRun, watched: Watched
) -> None:
    images = [IMAGE, *[one for one in MATRIX if one != IMAGE]][:2]
    inner.pytester.makepyfile("""
        import time
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_it(number, dind_daemon, _dind_image):
            time.sleep(2 * number)
            assert dind_daemon.settings.image == _dind_image
    """)
    result = inner.run("--dind", *NO_XDIST, *TIMED, *[f"--dind-image={image}" for image in images])
    result.assert_outcomes(passed=2 * len(images))
    assert watched.started == len(images)
    cold, warm = (setups(result)[f"test_it[{image}-0]"] for image in images)
    assert warm < cold / 2, "neither the start of the one nor the end of the other is waited for"


def test_one_that_broke_before_the_next_engine_is_not_started_anew(inner: InnerRun, watched: Watched) -> None:
    images = [IMAGE, *[one for one in MATRIX if one != IMAGE]][:2]
    inner.pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_it(number, dind_daemon, _dind_image):
            assert dind_daemon.settings.image == _dind_image
            assert dind_daemon.client.ping()
            if number:
                dind_daemon.exec(["sh", "-c", "kill -KILL $(pidof dockerd)"])
    """)
    result = inner.run("--dind", *NO_XDIST, "-rP", *[f"--dind-image={image}" for image in images])
    result.assert_outcomes(passed=2 * len(images))
    assert watched.started == len(images)
    if len(images) > 1:
        result.stdout.fnmatch_lines(["*-1] broke the session daemon *; this test has one of another engine"])


def test_a_first_user_that_skips_itself_leaves_the_next_one_a_daemon(inner: InnerRun, watched: Watched) -> None:
    inner.pytester.makepyfile("""
        import pytest

        @pytest.fixture
        def not_here():
            pytest.skip("not here")

        def test_skips(not_here, dind_client): ...

        def test_user(dind_client):
            assert dind_client.ping()
    """)
    inner.run("--dind", *NO_XDIST).assert_outcomes(passed=1, skipped=1)
    assert watched.started == 1


def test_a_worker_in_the_place_of_a_crashed_one_starts_none_for_tests_that_have_run(
    inner: InnerRun, watched: Watched
) -> None:
    inner.pytester.makepyfile("""
        import os
        import time

        def test_user(dind_client):
            assert dind_client.ping()

        def test_crashes():
            os._exit(3)

        def test_goes_on():
            time.sleep(1)

        def test_is_the_last():
            pass
    """)
    inner.run("--dind", "-n1").assert_outcomes(passed=3, failed=1)
    assert watched.started == 1


def test_no_other_session_daemon_is_started_for_settings_that_count_for_fresh_ones_alone(
    inner: InnerRun, watched: Watched
) -> None:
    below = inner.pytester.mkpydir("below")
    (below / "conftest.py").write_text(
        "import pytest\n@pytest.fixture(scope='session')\n"
        "def dind_settings(dind_settings): return dind_settings.changed('below', memory='300m')\n"
    )
    tests = """
import time
import pytest

@pytest.mark.parametrize("number", range(2))
def test_{name}(number, dind_daemon, dind_fresh_daemon, dind_settings):
    time.sleep(0.3)
    assert dind_daemon.settings.memory is None
    assert dind_fresh_daemon.settings.memory == dind_settings.memory
"""
    (below / "test_below.py").write_text(tests.format(name="below"))
    breaks = "\ndef test_breaks(dind_daemon): dind_daemon.exec(['sh', '-c', 'kill -KILL $(pidof dockerd)'])\n"
    inner.pytester.makepyfile(test_above=tests.format(name="above") + breaks)
    result = inner.run("--dind", *NO_XDIST, "test_above.py", "below")
    result.assert_outcomes(passed=5)
    assert watched.started == 2 + 4, "and one in the place of the broken one"


def test_a_session_daemon_that_ended_while_it_stood_by_is_started_anew(inner: InnerRun) -> None:
    inner.pytester.makepyfile("""
        import time
        import docker

        def test_kills_it(pytestconfig):
            host = docker.from_env()
            runtime = pytestconfig.pluginmanager.get_plugin("dind-session").runtime
            lease = {"label": f"pytest-dind.lease={runtime.owner.ownership.lease}"}
            deadline = time.monotonic() + 60
            while not (found := host.api.containers(filters=lease)):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(2)  # It has begun; now it serves.
            host.api.kill(found[0]["Id"])
            time.sleep(1)
            host.close()

        def test_user(dind_client):
            assert dind_client.ping()
    """)
    inner.run("--dind", *NO_XDIST).assert_outcomes(passed=2)


def test_fresh_daemons_do_not_wait_for_images_that_the_session_daemon_is_to_have(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makeconftest("""
        import time
        from pytest_dind import stock

        store_for = stock.store_for

        def slowly(settings, *rest):
            time.sleep(6 if settings.preload else 0)
            return store_for(settings, *rest)

        stock.store_for = slowly
    """)
    inner.pytester.makepyfile(f"""
        import pytest

        def test_fresh(dind_fresh_client):
            pass

        @pytest.mark.dind(preload=[{busybox!r}])
        def test_user(dind_client):
            assert dind_client.images.get({busybox!r})
    """)
    result = inner.run("--dind", *NO_XDIST, *TIMED)
    result.assert_outcomes(passed=2)
    assert setups(result)["test_fresh"] < 4


# -- what there is to be warned of


def test_a_warning_that_is_an_error_fails_the_test_that_it_is_about_and_its_daemon_goes(inner: InnerRun) -> None:
    inner.pytester.makeconftest("""
        from pytest_dind import Daemon, notices

        def start(*arguments, **how):
            daemon = started(*arguments, **how)
            notices.warn("something is odd")
            return daemon

        started, Daemon.start = Daemon.start, start
    """)
    inner.pytester.makepyfile("""
        import time
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_it(number, dind_fresh_client):
            time.sleep(0.5)

        def test_user(dind_client):
            pass
    """)
    result = inner.run("--dind", *NO_XDIST, "-W", "error::pytest_dind.DindWarning")
    result.assert_outcomes(errors=4)
    assert "something is odd" in str(result.stdout)
    result = inner.run("--dind", *NO_XDIST)
    result.assert_outcomes(passed=4, warnings=4)


def test_threads_that_talk_to_engines_do_not_look_at_the_environment(inner: InnerRun) -> None:
    """What tests put into `os.environ` or take out of it at that very moment would make requests fail there."""
    inner.pytester.makepyfile("""
        import os
        import time
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(number, dind_fresh_client):
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                for name in range(300):
                    os.environ[f"X{name}"] = ""
                for name in range(300):
                    del os.environ[f"X{name}"]
    """)
    inner.run("--dind", *NO_XDIST).assert_outcomes(passed=4)
