"""What a run does about a session daemon that a test has broken: who hears of it, and what comes back."""

from __future__ import annotations

import dataclasses
import time

import pytest

from pytest_dind import Daemon, Settings
from pytest_dind.cleaning import Cleaning
from pytest_dind.inventory import Inventory

from .conftest import PATIENCE, InnerRun

pytestmark = pytest.mark.once

NO_XDIST = ("-p", "no:xdist")


def test_what_fixtures_of_wider_scopes_had_in_it_is_set_up_anew_and_said(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makepyfile(
        f"""
        import pytest

        times = []

        @pytest.fixture(scope="session")
        def database(dind_client):
            container = dind_client.containers.create({busybox!r}, name="database")
            yield container
            container.remove()  # In the new daemon there is none.

        @pytest.fixture(scope="session")
        def table(database):
            return database.name

        @pytest.fixture(scope="module")
        def volume(dind_env, dind_client):
            yield dind_client.volumes.create("volume")

        @pytest.fixture(scope="session")
        def unrelated(dind_settings):
            times.append("set up")
            yield
            times.append("torn down")

        @pytest.fixture
        def own(dind_client):
            return dind_client.volumes.create("own")

        def test_breaks(dind_daemon, table, volume, unrelated, own):
            code, output = dind_daemon.exec(["sh", "-c", "kill -9 $(pidof dockerd)"])

        @pytest.mark.skip
        def test_that_does_not_run(dind_daemon, unrelated):
            pass

        def test_that_needs_none(tmp_path, capsys):
            pass

        def test_finds_all_of_it(dind_client, table, volume, unrelated, own):
            assert dind_client.containers.get(table).name == "database"
            volume.reload()
            own.reload()
            assert times == ["set up"]
        """
    )
    result = inner.run("--dind", f"--dind-preload={busybox}", *NO_XDIST, "-rP")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "_* test_finds_all_of_it _*",
            "*::test_breaks broke the session daemon pytest-dind-*: its *; this is a new one in its place",
            "What was in the old one is gone; set up anew for tests that ask for it: volume, table, database",
            "In the new one, the end of such a fixture failed: NotFound: *No such container*",
            "The old one's log ended:",
            "    *",
            "dind: * was replaced: *::test_breaks broke it (*); set up anew with what they had in it: volume, *",
        ]
    )


def test_the_test_that_breaks_it_last_is_named_too(inner: InnerRun) -> None:
    inner.pytester.makepyfile(
        test_a="""
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def stops_it_in_the_end(dind_daemon):
            yield
            dind_daemon.stop()

        def test_uses(dind_client):
            pass
        """,
        test_b="""
        def in_a_doctest():
            '''
            >>> code, output = getfixture("dind_daemon").exec(["ip", "link", "delete", "docker0"])
            '''
        """,
        test_c="""
        import pytest

        def test_that_needs_none():
            pass

        @pytest.mark.skip
        def test_that_does_not_run(dind_client):
            pass
        """,
    )
    broke = "the last test to use it, broke it (/sys/class/net/docker0 is missing in its container)"
    for more in (NO_XDIST, ("-n1",)):
        result = inner.run("--dind", "-q", "--doctest-modules", *more)
        result.assert_outcomes(passed=3, skipped=1)
        result.stdout.fnmatch_lines(
            [f"dind: the session daemon * was broken in the end: *test_b.in_a_doctest, {broke}"]
        )


def test_one_that_does_not_let_itself_be_cleaned_is_replaced(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makeconftest("import pytest_dind.hindsight\npytest_dind.hindsight.ANSWER_TIMEOUT = 2")
    inner.pytester.makepyfile(
        f"""
        def test_stops_a_shim(dind_daemon, dind_client, dind_clean):
            dind_client.containers.run({busybox!r}, "sleep 1000", name="left", detach=True)
            dind_daemon.exec(["sh", "-c", "kill -STOP $(pidof containerd-shim-runc-v2)"])

        def test_next(dind_client):
            assert dind_client.containers.list(all=True) == []
        """
    )
    result = inner.run("--dind", f"--dind-preload={busybox}", *NO_XDIST, "-W", "error")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["*::test_stops_a_shim broke it (it did not let itself be cleaned: container left: *timed out*"]
    )


def test_a_daemon_in_it_is_ended_in_order_by_the_cleaning_and_not_asked_when_its_own_is_replaced(
    engine_settings: Settings, busybox: str
) -> None:
    with Daemon.start(engine_settings) as daemon:
        before = Inventory.of(daemon.client.api)
        client = daemon.nest(dataclasses.replace(engine_settings, preload=(busybox,))).client
        client.containers.run(busybox, "sleep 1000", detach=True).pause()
        Cleaning(daemon.client.api, before, {name: inner.stop for name, inner in daemon.nested.items()}).run()
        assert daemon.nested == {}
        assert Inventory.of(daemon.client.api).things == before.things
        for signal in ("KILL", "STOP"):
            inner = daemon.nest(dataclasses.replace(engine_settings, preload=()))
            daemon.exec(["sh", "-c", f"kill -{signal} $(pidof dockerd | tr ' ' '\\n' | sort -n | head -1)"])
            begin = time.monotonic()
            daemon.restart()
            assert time.monotonic() - begin < PATIENCE, "it has asked for more"
            assert inner.stopped
            assert daemon.client.containers.list(all=True) == []


def test_whatever_is_wrong_with_it_the_next_test_gets_a_good_one(inner: InnerRun) -> None:
    inner.pytester.makepyfile(
        """
        import docker
        import os
        import pytest

        FAULTS = {
            "bomb": "for i in $(seq 300); do sleep 1000 & done",
            "fill": "head -c 1G /dev/zero >/dev/shm/fill; true",
        }

        @pytest.fixture(autouse=True)
        def is_good(dind_client):
            dind_client.volumes.create("works")
            dind_client.networks.create("works")

        @pytest.mark.parametrize("fault", FAULTS)
        def test_does(dind_daemon, dind_clean, fault):
            dind_daemon.exec(["sh", "-c", FAULTS[fault]])

        def test_unlinks(dind_daemon):
            os.unlink(dind_daemon.host.removeprefix("unix://"))

        def test_removes(dind_daemon):
            host = docker.from_env()
            host.api.remove_container(dind_daemon.name, force=True, v=True)
            host.close()

        def test_last(dind_clean):
            pass
        """
    )
    how = ("--dind-pids=150", "--dind-daemon-arg=--data-root=/dev/shm/docker", "--dind-transport=unix")
    result = inner.run("--dind", *NO_XDIST, *how)
    result.assert_outcomes(passed=5)
    complaints = {
        "test_does[[]bomb[]]": "no process can be started in its container: 1?? of at most 150 are there",
        "test_does[[]fill[]]": "its /dev/shm/docker is full, or cannot be written to",
        "test_unlinks": "it does not answer on unix://*: *No such file or directory",
        "test_removes": "its container has ended*",
    }
    result.stdout.fnmatch_lines(
        [f"dind: * was replaced: *::{test} broke it ({complaint})" for test, complaint in complaints.items()]
    )


@pytest.mark.parametrize("process", ["dockerd", "containerd"])
def test_the_end_of_fixtures_of_wider_scopes_does_not_wait_for_one_that_hangs(
    inner: InnerRun, busybox: str, process: str
) -> None:
    inner.pytester.makeconftest(
        f"""
        import pytest

        @pytest.fixture(scope="session")
        def of_the_run(dind_client):
            container = dind_client.containers.run({busybox!r}, "sleep 1000", detach=True)
            yield
            container.remove(force=True)

        @pytest.fixture(scope="module")
        def of_a_module(dind_client):
            container = dind_client.containers.run({busybox!r}, "sleep 1000", detach=True)
            yield
            container.remove(force=True)
        """
    )
    for name in ("test_a", "test_b"):
        inner.pytester.makepyfile(
            **{
                name: f"""
                def test_uses(dind_client, of_a_module, of_the_run):
                    assert len(dind_client.containers.list()) == 2

                def test_stops_it(dind_daemon, of_a_module):
                    dind_daemon.exec(["sh", "-c", "kill -STOP $(pidof {process})"])
                """
            }
        )
    begin = time.monotonic()
    result = inner.run("--dind", f"--dind-preload={busybox}", *NO_XDIST)
    assert time.monotonic() - begin < PATIENCE
    result.assert_outcomes(passed=4, errors=2)
    broke = f"(its {process} process is stopped, as by SIGSTOP)"
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_stops_it*",
            "*ERROR at teardown of test_stops_it*",
            f"dind: the session daemon * was replaced: test_a.py::test_stops_it broke it {broke}*",
            f"dind: the session daemon * was broken in the end: test_b.py::test_stops_it, * {broke}",
        ]
    )
