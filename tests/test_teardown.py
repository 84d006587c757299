"""Nothing is left, however a run ends: each end is really brought about, and the machine is looked at afterwards."""

from __future__ import annotations

import random
import re
import signal
import textwrap
import time
from collections.abc import Callable

import docker
import pytest
from docker.errors import NotFound

from pytest_dind import Daemon, Settings
from pytest_dind.labels import HOST, LEASE, OURS, RUN, WORKER

from .conftest import InnerRun, wait_until
from .processes import WAIT, Spawned, is_running

pytestmark = pytest.mark.once

WAITS = f"""
    import pathlib, time

    def test_waits(dind_client):
        pathlib.Path("ready").touch()
        {WAIT}
"""

GREEN = """
    def test_green(dind_client):
        assert dind_client.ping()
"""


def filled(busybox: str, then: str) -> str:
    """A suite whose daemon has containers running, on a network, with volumes, when `then` happens."""
    return f"""
    import pathlib, time
    import pytest

    @pytest.mark.dind(preload=[{busybox!r}])
    def test_with_containers(dind_client):
        dind_client.networks.create("app")
        for number in range(3):
            dind_client.containers.run(
                {busybox!r}, ["sleep", "600"], detach=True, name=f"app{{number}}", network="app",
                volumes={{f"data{{number}}": {{"bind": "/data", "mode": "rw"}}}},
            )
        assert len(dind_client.containers.list()) == 3
        {then}
    """


READY_AND_WAIT = f'pathlib.Path("ready").touch(); {WAIT}'


def states(host: docker.DockerClient, inner: InnerRun) -> list[str]:
    """States of the inner run's containers."""
    if not inner._leases.joinpath("id").exists():  # not yet
        return []
    return [one["State"] for one in host.api.containers(all=True, filters={"label": inner.label})]


# -- ends that pytest sees: nothing is left at the moment at which its process has ended


def test_a_green_run_leaves_nothing_though_containers_with_volumes_run_in_its_daemon(
    inner: InnerRun, busybox: str
) -> None:
    inner.pytester.makepyfile(filled(busybox, "assert True"))
    result = inner.run("--dind", "-p", "no:xdist")
    assert (result.ret, inner.left()) == (0, [])
    result.stdout.fnmatch_lines(["dind: 1 daemon started (*); all removed with their volumes"])


def test_a_red_run_leaves_nothing_though_containers_with_volumes_run_in_its_daemon(
    inner: InnerRun, busybox: str
) -> None:
    inner.pytester.makepyfile(filled(busybox, "assert False"))
    result = inner.run("--dind", "-p", "no:xdist")
    assert (result.ret, inner.left()) == (1, [])


def test_a_daemon_has_one_volume_with_our_labels_and_it_goes_with_the_container(
    image: str, host: docker.DockerClient
) -> None:
    with Daemon.start(Settings(image=image)) as daemon:
        mounts = host.containers.get(daemon.name).attrs["Mounts"]
        volumes = [(one["Destination"], one["Name"]) for one in mounts if one["Type"] == "volume"]
        [(destination, name)] = volumes
        assert destination == "/var/lib/docker"
        labels = host.volumes.get(name).attrs["Labels"]
        assert {OURS, RUN, WORKER, HOST, LEASE} <= labels.keys()
        assert labels.items() <= host.containers.get(daemon.name).labels.items()
    with pytest.raises(NotFound):
        host.volumes.get(name)
    with pytest.raises(NotFound):
        host.containers.get(daemon.name)


@pytest.mark.parametrize(
    ("suite", "code"),
    [
        pytest.param(
            """
            @pytest.fixture(scope="session")
            def broken(dind_client):
                raise RuntimeError

            def test_it(broken):
                pass
            """,
            1,
            id="session fixture after the daemon",
        ),
        pytest.param(
            """
            @pytest.fixture(scope="session")
            def broken():
                raise RuntimeError

            def test_first(dind_client):
                pass

            def test_second(broken, dind_fresh_client):
                pass
            """,
            1,
            id="session fixture before the daemon",
        ),
        pytest.param(
            """
            @pytest.fixture(scope="session")
            def broken(dind_client, dind_factory):
                dind_factory()
                yield
                raise RuntimeError

            def test_it(broken):
                pass
            """,
            1,
            id="session fixture in its teardown",
        ),
        pytest.param(
            """
            @pytest.fixture
            def broken(dind_fresh_client):
                yield
                raise RuntimeError

            def test_it(broken):
                pass

            def test_next(dind_fresh_client):
                pass
            """,
            1,
            id="fixture of a fresh daemon in its teardown",
        ),
        pytest.param(
            """
            @pytest.fixture
            def broken(dind_client, dind_fresh_client):
                pytest.exit("no more of this", returncode=7)

            def test_it(broken):
                pass
            """,
            7,
            id="pytest.exit in a fixture",
        ),
        pytest.param(
            """
            @pytest.fixture(scope="session")
            def broken(dind_client):
                yield
                raise KeyboardInterrupt

            def test_it(broken):
                pass
            """,
            2,
            id="KeyboardInterrupt in a teardown",
        ),
    ],
)
def test_an_exception_in_a_fixture_leaves_nothing(inner: InnerRun, suite: str, code: int) -> None:
    inner.pytester.makepyfile(f"import pytest\n{textwrap.dedent(suite)}")
    result = inner.run("--dind", "-p", "no:xdist")
    assert (result.ret, inner.left()) == (code, [])


def test_a_killed_dockerd_or_containerd_leaves_nothing(inner: InnerRun) -> None:
    inner.pytester.makepyfile("""
        import contextlib, time
        import pytest

        @pytest.mark.parametrize("victim", ["dockerd", "containerd"])
        def test_breaks_its_daemon(dind_daemon, victim):
            assert dind_daemon.alive
            with contextlib.suppress(Exception):  # the container may be gone before it has answered
                dind_daemon.exec(["pkill", "-9", "-x", victim])
            deadline = time.monotonic() + 60
            while dind_daemon.alive:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    """)
    result = inner.run("--dind", "-p", "no:xdist")
    result.assert_outcomes(passed=2)
    assert (result.ret, inner.left()) == (0, [])


def test_daemons_of_the_factory_that_no_test_stopped_are_gone_when_the_run_has_ended(inner: InnerRun) -> None:
    inner.pytester.makepyfile("""
        def test_starts_two(dind_factory):
            assert dind_factory().client.ping() and dind_factory().client.ping()
    """)
    result = inner.run("--dind", "-p", "no:xdist")
    assert (result.ret, inner.left()) == (0, [])
    result.stdout.fnmatch_lines(["dind: 2 daemons started *"])


# -- Ctrl-C


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_in_a_test_leaves_nothing(inner: InnerRun, workers: int) -> None:
    inner.pytester.makepyfile(f"""
        import pathlib, time
        import pytest

        @pytest.mark.parametrize("number", [0, 1])
        def test_waits(dind_client, number):
            pathlib.Path(f"ready{{number}}").touch()
            {WAIT}
    """)
    with Spawned(inner.pytester.path, *(["-n", str(workers)] if workers else [])) as run:
        run.wait_for("ready0", *(["ready1"] if workers else []))
        run.send_to_all(signal.SIGINT)
        assert (run.wait(), inner.left()) == (2, []), run.output


#: Moments of a daemon's start, in their order; each is over after some milliseconds.
MOMENTS: dict[str, Callable[[InnerRun, docker.DockerClient], object]] = {
    "pytest is imported": lambda inner, _: (inner.pytester.path / "imported").exists(),
    "its directory is made": lambda inner, _: any(inner._sockets.glob("*")),
    "its container is created": lambda inner, host: states(host, inner),
    "its container runs": lambda inner, host: "running" in states(host, inner),
    "its socket is there": lambda inner, _: any(inner._sockets.glob("*/docker.sock")),
}
FIRST_MOMENT = next(iter(MOMENTS))


def wait_until_moment(moment: str, inner: InnerRun, host: docker.DockerClient, run: Spawned) -> None:
    wait_until(lambda: MOMENTS[moment](inner, host), lambda: f"never came to where {moment}:\n{run.output}")


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_while_a_daemon_starts_leaves_nothing(inner: InnerRun, host: docker.DockerClient, moment: str) -> None:
    inner.pytester.makeconftest('import pathlib; pathlib.Path("imported").touch()')
    inner.pytester.makepyfile(WAITS)
    with Spawned(inner.pytester.path) as run:
        wait_until_moment(moment, inner, host, run)
        run.send_to_all(signal.SIGINT)
        code = run.wait()
    # As early as that it is Python that ends by the signal, and not pytest.
    assert code in ((2, -signal.SIGINT) if moment == FIRST_MOMENT else (2,)), run.output
    assert inner.left(none_started=moment == FIRST_MOMENT) == [], run.output


@pytest.mark.parametrize("moment", ["its directory is made", "its container is created", "its socket is there"])
def test_ctrl_c_again_and_again_while_a_daemon_starts_leaves_nothing(
    inner: InnerRun, host: docker.DockerClient, moment: str
) -> None:
    inner.pytester.makepyfile(WAITS)
    with Spawned(inner.pytester.path) as run:
        wait_until_moment(moment, inner, host, run)
        for _ in range(3):
            run.send_to_all(signal.SIGINT)
            time.sleep(0.05)
        assert run.wait() in (1, 2, -signal.SIGINT), run.output
    # The third may have broken off pytest's own end: then the kernel ends the daemon, a moment later.
    inner.wait_until_nothing_is_left()


def test_ctrl_c_twice_in_a_test_leaves_nothing(inner: InnerRun) -> None:
    inner.pytester.makepyfile(WAITS)
    with Spawned(inner.pytester.path) as run:
        run.wait_for("ready")
        run.send_to_all(signal.SIGINT)
        time.sleep(0.05)
        run.send_to_all(signal.SIGINT)
        assert run.wait() in (1, 2, -signal.SIGINT), run.output
    inner.wait_until_nothing_is_left()


def test_ctrl_c_while_the_daemons_of_two_workers_start_leaves_nothing(
    inner: InnerRun, host: docker.DockerClient
) -> None:
    inner.pytester.makepyfile(f"""
        import time
        import pytest

        @pytest.mark.parametrize("number", [0, 1])
        def test_waits(dind_client, number):
            {WAIT}
    """)
    with Spawned(inner.pytester.path, "-n", "2") as run:
        wait_until_moment("its container is created", inner, host, run)
        run.send_to_all(signal.SIGINT)
        assert (run.wait(), inner.left()) == (2, []), run.output


EARLY_MOMENTS = [moment for moment in MOMENTS if moment != FIRST_MOMENT]


# Once its container runs, it is the same who is killed, and of what: see `a_pytest_killed_before_any_step` below.
@pytest.mark.parametrize(
    ("moment", "number"),
    [(moment, signal.SIGINT) for moment in EARLY_MOMENTS] + [(moment, signal.SIGKILL) for moment in EARLY_MOMENTS[:2]],
)
def test_a_pytest_that_ends_while_the_daemon_for_its_whole_process_starts_leaves_nothing(
    inner: InnerRun, host: docker.DockerClient, moment: str, number: signal.Signals
) -> None:
    inner.pytester.makeconftest('import pathlib; pathlib.Path("imported").touch()')
    inner.pytester.makepyfile(WAITS)
    with Spawned(inner.pytester.path, "--dind-environ") as run:
        wait_until_moment(moment, inner, host, run)
        assert moment == "its socket is there" or not (inner.pytester.path / "imported").exists()
        run.send_to_all(number)
        # pytest is not yet where it makes an exit code of Ctrl-C.
        assert run.wait() in ((-number,) if number == signal.SIGKILL else (1, 2, 130, -number)), run.output
    if number == signal.SIGINT:
        assert inner.left() == [], run.output
    inner.wait_until_nothing_is_left()


@pytest.mark.parametrize("arguments", [[], ["-n", "2", "--max-worker-restart=0"]], ids=["no-xdist", "n2"])
def test_a_conftest_that_cannot_be_imported_leaves_nothing_of_the_daemon_that_was_up_for_it(
    inner: InnerRun, host: docker.DockerClient, arguments: list[str]
) -> None:
    inner.pytester.makeconftest("""
        import os
        import docker

        with open(f"seen-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}", "w") as file:
            file.write(docker.from_env().info()["ID"])
        if "PYTEST_XDIST_WORKER" in os.environ or not os.environ.get("WITH_XDIST"):
            raise RuntimeError("this conftest is broken")
    """)
    inner.pytester.makepyfile(GREEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WITH_XDIST", "yes" if arguments else "")
        with Spawned(inner.pytester.path, "--dind-environ", *arguments) as run:
            assert run.wait() not in (0, -signal.SIGKILL), run.output
    assert "this conftest is broken" in run.output
    seen = {path.name: path.read_text() for path in inner.pytester.path.glob("seen-*") if path.name != "seen-main"}
    if not arguments:
        seen["seen-main"] = (inner.pytester.path / "seen-main").read_text()
        assert inner.left() == []
    assert seen, "it was up"
    assert host.info()["ID"] not in seen.values()
    inner.wait_until_nothing_is_left()


# -- ends that pytest does not see: nothing is left a moment later, and no other run has to come for that


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGKILL, marks=pytest.mark.heart), signal.SIGTERM, signal.SIGHUP],
    ids=lambda number: number.name,
)
def test_a_killed_pytest_leaves_nothing_though_containers_with_volumes_run_in_its_daemon(
    inner: InnerRun, busybox: str, number: signal.Signals
) -> None:
    inner.pytester.makepyfile(filled(busybox, READY_AND_WAIT))
    with Spawned(inner.pytester.path) as run:
        run.wait_for("ready")
        assert len(inner.containers()) == 1
        run.send(number)
        assert run.wait() == -number, run.output
        inner.wait_until_nothing_is_left()


@pytest.mark.heart
def test_a_killed_pytest_leaves_nothing_of_its_session_daemon_a_fresh_one_and_one_of_the_factory(
    inner: InnerRun,
) -> None:
    inner.pytester.makepyfile("""
        import pathlib, time

        def test_waits(dind_client, dind_fresh_client, dind_factory):
            dind_factory()
            pathlib.Path("ready").touch()
            time.sleep(600)
    """)
    with Spawned(inner.pytester.path, "--dind-keep=failed") as run:
        run.wait_for("ready")
        assert len(inner.containers()) == 3
        run.send(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        inner.wait_until_nothing_is_left()


@pytest.mark.parametrize("victim", ["dockerd", "containerd"])
def test_a_killed_pytest_whose_daemon_was_killed_before_leaves_nothing(
    inner: InnerRun, host: docker.DockerClient, victim: str
) -> None:
    inner.pytester.makepyfile(WAITS)
    with Spawned(inner.pytester.path) as run:
        run.wait_for("ready")
        [name] = inner.containers()
        host.containers.get(name).exec_run(["pkill", "-9", "-x", victim])
        wait_until(lambda: not states(host, inner), lambda: f"{states(host, inner)}")
        run.send(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        inner.wait_until_nothing_is_left()


@pytest.mark.heart
def test_a_killed_controller_and_its_killed_workers_leave_nothing(inner: InnerRun) -> None:
    inner.pytester.makepyfile("""
        import pathlib, time
        import pytest

        @pytest.mark.parametrize("number", [0, 1])
        def test_waits(dind_client, number):
            pathlib.Path(f"ready{number}").touch()
            time.sleep(600)
    """)
    with Spawned(inner.pytester.path, "-n", "2") as run:
        run.wait_for("ready0", "ready1")
        assert len(inner.containers()) == 2
        run.send_to_all(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        inner.wait_until_nothing_is_left()


def test_a_killed_controller_leaves_nothing_once_its_workers_have_ended_their_tests(inner: InnerRun) -> None:
    inner.pytester.makepyfile("""
        import os, pathlib, time
        import pytest

        @pytest.mark.parametrize("number", [0, 1])
        def test_ends_when_the_controller_has(dind_client, number):
            controller = os.getppid()
            pathlib.Path(f"ready{number}").touch()
            deadline = time.monotonic() + 60
            while os.getppid() == controller and time.monotonic() < deadline:
                time.sleep(0.02)
    """)
    with Spawned(inner.pytester.path, "-n", "2") as run:
        run.wait_for("ready0", "ready1")
        run.send(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        inner.wait_until_nothing_is_left()


def test_a_killed_worker_leaves_nothing_while_the_run_goes_on_and_its_successor_gets_a_daemon(inner: InnerRun) -> None:
    inner.pytester.makepyfile("""
        import os, pathlib, signal, time

        def test_is_killed(dind_client):
            os.kill(os.getpid(), signal.SIGKILL)

        def test_goes_on(dind_client):
            assert dind_client.ping()
            pathlib.Path("ready").touch()
            deadline = time.monotonic() + 60
            while not pathlib.Path("go").exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)

        def test_goes_on_further(dind_client):
            assert dind_client.ping()
    """)
    with Spawned(inner.pytester.path, "-n", "1") as run:
        run.wait_for("ready")
        wait_until(lambda: len(inner.left()) == 3, lambda: f"more than one daemon's: {inner.left()}")
        assert "gw1" in inner.containers()[0]
        (inner.pytester.path / "go").touch()
        assert (run.wait(), inner.left()) == (1, []), run.output
    assert "worker 'gw0' crashed while running" in run.output
    assert "1 failed, 2 passed" in run.output


def test_a_test_that_ends_the_process_leaves_nothing(inner: InnerRun) -> None:
    inner.pytester.makepyfile("""
        import os

        def test_exits(dind_client, dind_fresh_client):
            os._exit(3)
    """)
    with Spawned(inner.pytester.path) as run:
        assert run.wait() == 3, run.output
        inner.wait_until_nothing_is_left()


def test_a_process_that_pytest_timeout_ends_leaves_nothing(inner: InnerRun) -> None:
    pytest.importorskip("pytest_timeout")
    inner.pytester.makepyfile(WAITS)
    arguments = ("--timeout=0.5", "--timeout-method=thread", "-o", "timeout_func_only=true")
    with Spawned(inner.pytester.path, *arguments) as run:
        assert run.wait() == 1
        assert "+ Timeout +" in run.output
        inner.wait_until_nothing_is_left()


@pytest.mark.parametrize(
    "step",
    [
        "life.describe",
        "host.HostEngine.create",
        "host.HostEngine.put",
        "host.HostEngine.attach",
        "host.HostEngine.start",
        "transport.UnixSocket.wait_ready",
    ],
)
def test_a_pytest_killed_before_any_step_of_a_daemons_start_leaves_nothing(inner: InnerRun, step: str) -> None:
    module, _, name = step.partition(".")
    inner.pytester.makeconftest(f"""
        import os, signal
        from pytest_dind import {module}

        {module}.{name} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    """)
    inner.pytester.makepyfile(GREEN)
    with Spawned(inner.pytester.path) as run:
        assert run.wait() == -signal.SIGKILL, run.output
        inner.wait_until_nothing_is_left()


def test_a_pytest_killed_at_random_moments_leaves_nothing(inner: InnerRun) -> None:
    inner.pytester.makeconftest('import pathlib; pathlib.Path("imported").touch()')
    inner.pytester.makepyfile(WAITS)
    seconds = 0.0
    for number in range(5):
        with Spawned(inner.pytester.path) as run:
            run.wait_for("imported")
            (inner.pytester.path / "imported").unlink()
            begin = time.monotonic()
            if number == 0:  # how long all takes on this machine, now
                run.wait_for("ready")
                seconds = time.monotonic() - begin
            delay = random.uniform(0, 1.2 * seconds)
            time.sleep(delay)
            run.send_to_all(signal.SIGKILL)
            when = f"(killed {delay:.4f} s after its conftest was imported; a whole start takes {seconds:.2f} s)"
            assert run.wait() == -signal.SIGKILL, f"{when}\n{run.output}"
            inner.wait_until_nothing_is_left(after=when)


# -- forked children, which hold copies of all that their parent held


FORKS = {
    "os.fork": """
        import os, pathlib, time

        def test_forks(dind_client, dind_fresh_client):
            if os.fork() == 0:
                pathlib.Path("child.part").write_text(str(os.getpid()))
                pathlib.Path("child.part").rename("child")
                time.sleep(600)
                os._exit(0)
            for _ in range(3000):
                if pathlib.Path("child").exists():
                    break
                time.sleep(0.02)
    """,
    "multiprocessing": """
        import multiprocessing, pathlib, time

        def test_forks(dind_client, dind_fresh_client):
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
            child.start()
            pathlib.Path("child.part").write_text(str(child.pid))
            pathlib.Path("child.part").rename("child")
    """,
}


@pytest.mark.parametrize("way", FORKS)
def test_a_forked_child_that_outlives_a_killed_pytest_keeps_no_daemon(inner: InnerRun, way: str) -> None:
    inner.pytester.makepyfile(textwrap.dedent(FORKS[way]) + "    time.sleep(600)\n")
    with Spawned(inner.pytester.path) as run:
        run.wait_for("child")
        run.send(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        inner.wait_until_nothing_is_left()
        assert is_running(int((inner.pytester.path / "child").read_text()))


def test_a_forked_child_that_outlives_a_green_run_keeps_no_daemon(inner: InnerRun) -> None:
    inner.pytester.makepyfile(FORKS["os.fork"])
    with Spawned(inner.pytester.path) as run:
        assert (run.wait(), inner.left()) == (0, []), run.output
        assert is_running(int((inner.pytester.path / "child").read_text()))


# -- daemons that are kept, because somebody asked for it


def kept(output: str) -> dict[str, str]:
    """Name and DOCKER_HOST of the daemons that a run says it kept."""
    found = dict(re.findall(r"^dind: kept (\S+): export DOCKER_HOST=(\S+)$", output, re.MULTILINE))
    assert re.findall(r"^dind:   remove it with: docker rm -fv (\S+)$", output, re.MULTILINE) == [*found]
    return found


def answers(address: str) -> bool:
    client = docker.DockerClient(base_url=address)
    try:
        return bool(client.ping())
    finally:
        client.close()


def test_a_kept_daemon_outlives_runs_until_it_is_removed_as_printed(inner: InnerRun, host: docker.DockerClient) -> None:
    inner.pytester.makepyfile(GREEN)
    result = inner.run("--dind", "-p", "no:xdist", "--dind-keep=always")
    [(name, address)] = kept(result.stdout.str()).items()
    try:
        assert result.ret == 0
        assert answers(address)
        inner.pytester.makepyfile("def test_without_daemon(): pass")
        following = inner.run("--dind", "-p", "no:xdist")
        assert following.ret == 0
        following.stdout.no_fnmatch_line("*removed what dead runs left*")
        assert inner.containers() == [name]
        assert answers(address)
    finally:
        host.containers.get(name).remove(force=True, v=True)
    assert inner.run("--dind", "-p", "no:xdist").ret == 0
    assert inner.left() == []


def test_with_keep_failed_only_the_daemons_of_failed_tests_are_kept(inner: InnerRun, host: docker.DockerClient) -> None:
    inner.pytester.makepyfile("""
        import pathlib

        def test_green(dind_fresh_daemon):
            pass

        def test_red(dind_fresh_daemon):
            pathlib.Path("red").write_text(dind_fresh_daemon.name)
            assert False
    """)
    result = inner.run("--dind", "-p", "no:xdist", "--dind-keep=failed")
    [(name, address)] = kept(result.stdout.str()).items()
    try:
        assert result.ret == 1
        assert name == (inner.pytester.path / "red").read_text() + "-kept"
        assert inner.containers() == [name]
        assert answers(address)
    finally:
        host.containers.get(name).remove(force=True, v=True)
    inner.pytester.makepyfile("def test_without_daemon(): pass")
    assert inner.run("--dind", "-p", "no:xdist").ret == 0
    assert inner.left() == []


def test_with_keep_failed_a_failed_test_that_used_no_daemon_keeps_none(inner: InnerRun) -> None:
    inner.pytester.makepyfile("""
        def test_green(dind_client): pass
        def test_red(): assert False
    """)
    result = inner.run("--dind", "-p", "no:xdist", "--dind-keep=failed")
    result.assert_outcomes(passed=1, failed=1)
    assert kept(result.stdout.str()) == {}
    assert inner.left() == []


def test_a_daemon_kept_on_one_engine_is_left_alone_by_a_run_on_another(
    inner: InnerRun, host: docker.DockerClient, daemon: Daemon, busybox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner.pytester.makepyfile(GREEN)
    [(name, address)] = kept(inner.run("--dind", "-p", "no:xdist", "--dind-keep=always").stdout.str()).items()
    try:
        inner.pytester.makepyfile("def test_without_daemon(): pass")
        with monkeypatch.context() as there:
            there.setenv("DOCKER_HOST", daemon.host)
            daemon.load(busybox)  # Any image will do, for no daemon is started there.
            assert inner.run("--dind", "-p", "no:xdist", f"--dind-image={busybox}").ret == 0
        assert answers(address)
    finally:
        host.containers.get(name).remove(force=True, v=True)
    assert inner.run("--dind", "-p", "no:xdist").ret == 0
    assert inner.left() == []


@pytest.mark.parametrize(("keep", "outcome"), [("never", "False"), ("failed", "True")])
def test_with_keep_never_or_no_failed_test_no_daemon_is_kept(inner: InnerRun, keep: str, outcome: str) -> None:
    inner.pytester.makepyfile(f"def test_it(dind_client, dind_fresh_client): assert {outcome}")
    result = inner.run("--dind", "-p", "no:xdist", f"--dind-keep={keep}")
    assert kept(result.stdout.str()) == {}
    assert (result.ret == 0, inner.left()) == (outcome == "True", [])
