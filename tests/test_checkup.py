"""A daemon that a test has killed, filled, misconfigured or wedged is found out between tests, and replaced."""

from __future__ import annotations

import dataclasses
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator

import pytest

from pytest_dind import Daemon, DaemonStateError, Settings

from .conftest import IMAGE, MATRIX, OFFICIAL, InnerRun, wait_until

pytestmark = pytest.mark.once

#: A signal takes a moment until the kernel has stopped a process, and shows it, which the check-up cannot foresee.
STOP = "kill -STOP {0}; until grep -q '^State:.T' /proc/{0}/status; do :; done"

#: What a test may do to its daemon, as a script in its container, and what is said of it then.
FAULTS = {
    "kill -KILL $(pidof dockerd)": "its (container has ended: dockerd ended .* 137|dockerd process has ended)",
    "kill -KILL $(pidof containerd)": "its (container has ended: containerd ended .* 137|containerd process has ended)",
    STOP.format("$(pidof dockerd)"): "its dockerd process is stopped, as by SIGSTOP",
    STOP.format("$(pidof containerd)"): "its containerd process is stopped, as by SIGSTOP",
    "rm -rf /var/lib/docker/image": "/var/lib/docker/image is missing in its container",
    "rm -f $(command -v runc)": "/.*/runc is missing in its container",
    "rm -f /var/run/docker.sock": "/var/run/docker.sock is missing in its container",
    "ip link delete docker0": "/sys/class/net/docker0 is missing in its container",
    "ip link set docker0 down": "its network interface docker0 is down",
    "iptables --flush; iptables --table nat --flush": "it lacks iptables rules that dockerd made at its start",
    "echo 0 >/proc/sys/net/ipv4/ip_forward": "net.ipv4.ip_forward in its container is off",
    "echo '{}' >/etc/docker/daemon.json": "its /etc/docker/daemon.json is not what it was",
}
#: Of these, what might be found in another way with the entrypoint, the shell or the engine of other images.
ELSEWHERE = [fault for fault in FAULTS if fault.startswith(("kill -STOP", "iptables", "rm -rf"))]


def moved(path: str) -> tuple[str, str]:
    """What moves something out of the way, and back."""
    return f"mv {path} /root/moved", f"mv /root/moved {path}"


RULE = "DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2"
#: What a test may do to it that can be undone: how, what is said of it meanwhile.
PASSING = {
    moved("/var/lib/docker/overlay2/l"): "/var/lib/docker/overlay2/l is missing in its container",
    moved("/var/lib/docker/image/overlay2/imagedb"): ".*/image/overlay2/imagedb is missing in its container",
    moved("/var/lib/docker/containerd"): "/var/lib/docker/containerd/.*/meta.db is missing in its container",
    moved("/run/pytest-dind/containerd.sock.ttrpc"): "/.*/containerd.sock.ttrpc is missing in its container",
    (
        "chmod -x $(command -v runc)",
        "chmod +x $(find / -xdev -name runc -type f)",
    ): "/.*/runc cannot be run in its container any more",
    ("f=$(command -v runc); mv $f $f.old; cp $f.old $f", "f=$(command -v runc); mv $f.old $f"): (
        "/.*/runc in its container is not what it was"
    ),
    (f"iptables -D {RULE}", f"iptables -I {RULE}"): "it lacks iptables rules that dockerd made at its start",
    ("ip route save default >/root/route; ip route delete default", "ip route restore </root/route"): (
        "its container has no default route any more"
    ),
    ("ip link set eth0 down", "ip link set eth0 up"): "its network interface eth0 is down",
}


@pytest.fixture(scope="module", params=[IMAGE, OFFICIAL, *[image for image in MATRIX if image != IMAGE]])
def any_own(request: pytest.FixtureRequest, busybox: str, version_of: Callable[[str], str]) -> Iterator[Daemon]:
    """A daemon of each kind for the tests of this module, which start it anew when they have broken it."""
    version_of(request.param)
    with Daemon.start(Settings(image=request.param, preload=(busybox,))) as started:
        yield started


@pytest.fixture(scope="module")
def own(busybox: str) -> Iterator[Daemon]:
    """One of the default kind."""
    with Daemon.start(Settings(image=IMAGE, preload=(busybox,))) as started:
        yield started


def fitness(daemon: Daemon, fault: str) -> str:
    """What is said of a daemon that was good before something was done to it."""
    daemon.watch()
    assert daemon.checkup.complaint() == ""
    try:
        code, output = daemon.exec(["sh", "-c", fault])
        assert code in (0, 137), output
        begin = time.monotonic()
        complaint = daemon.checkup.complaint()
        assert time.monotonic() - begin < 4, "a deadline ran out"
    finally:
        daemon.restart()  # The tests that follow want a good one, whatever this has found.
    return complaint


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_test_has_done_to_it_is_told_at_once(own: Daemon, fault: str) -> None:
    assert re.fullmatch(FAULTS[fault], fitness(own, fault))


def test_it_is_told_as_long_as_it_lasts(own: Daemon) -> None:
    own.watch()
    for (do, undo), complaint in PASSING.items():
        assert own.checkup.complaint() == "", do
        code, output = own.exec(["sh", "-c", do])
        assert code == 0, output
        assert re.fullmatch(complaint, own.checkup.complaint()), do
        code, output = own.exec(["sh", "-c", undo])
        assert code == 0, output
    own.restart()


def test_it_is_told_of_every_kind(any_own: Daemon) -> None:
    for fault in ELSEWHERE:
        assert re.fullmatch(FAULTS[fault], fitness(any_own, fault)), fault


def test_a_full_disk_is_told_and_one_that_was_full_from_the_start_is_not() -> None:
    fill = "head -c 1G /dev/zero >/dev/shm/fill 2>/dev/null; df /dev/shm"
    settings = Settings(image=IMAGE, daemon_arg=("--data-root=/dev/shm/its docker",))
    with Daemon.start(settings) as daemon:
        daemon.watch()
        assert daemon.checkup.complaint() == ""
        code, output = daemon.exec(["sh", "-c", fill])
        assert code == 0
        assert daemon.alive, output
        assert daemon.checkup.complaint() == "its /dev/shm/its docker is full, or cannot be written to"
        daemon.watch()  # As at the start of one on a disk that others have filled.
        assert daemon.checkup.complaint() == ""
        daemon.exec(["sh", "-c", "kill -STOP $(pidof containerd)"])  # It hides nothing else.
        assert daemon.checkup.complaint() == "its containerd process is stopped, as by SIGSTOP"


def test_one_without_room_for_processes_is_told() -> None:
    with Daemon.start(Settings(image=IMAGE, pids=120)) as daemon:
        daemon.watch()
        assert daemon.checkup.complaint() == ""
        daemon.exec(["sh", "-c", "for i in $(seq 200); do sleep 1000 & done"])
        complaint = daemon.checkup.complaint()
        assert re.fullmatch(r"no process can be started in its container: 1\d\d of at most 120 are there", complaint)


def test_the_measure_is_taken_before_anybody_can_change_anything(own: Daemon, busybox: str) -> None:
    own.restart()
    own.watch()
    own.exec(["rm", "/var/run/docker.sock"])
    assert own.checkup.complaint() == "/var/run/docker.sock is missing in its container"
    own.restart()
    own.watch()
    container = own.client.containers.run(busybox, "sleep 1000", detach=True, ports={"80/tcp": None})
    own.watch()  # With what dockerd has for this container alone.
    container.remove(force=True)
    assert own.checkup.complaint() == ""


def test_without_a_measure_it_is_asked_for_a_ping_alone(own: Daemon) -> None:
    with Daemon.start(dataclasses.replace(own.settings, preload=())) as daemon:
        begin = time.monotonic()
        assert daemon.checkup.complaint() == ""
        assert time.monotonic() - begin < 4, "a deadline ran out"
        daemon.exec(["sh", "-c", "kill -KILL $(pidof dockerd)"])
        assert daemon.checkup.complaint() == "its container has ended: dockerd ended with exit code 137"


def test_in_a_forked_child_it_is_the_parents(own: Daemon) -> None:
    own.watch()
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writer, f"complaint: {own.checkup.complaint()!r}; ".encode())
            own.restart()
        except DaemonStateError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        refused = f"{own.name} can be started anew by process {os.getpid()} only, which has started it"
        assert said.read() == f"complaint: ''; {refused}"
    assert own.checkup.complaint() == ""


def test_one_that_hangs_as_a_whole_is_told_within_seconds(own: Daemon) -> None:
    own.watch()
    own.engine.api.pause(own.name)
    begin = time.monotonic()
    assert f"it does not answer on {own.host} within 5 s: timed out" == own.checkup.complaint()
    assert time.monotonic() - begin < 20
    own.engine.api.unpause(own.name)
    assert own.checkup.complaint() == ""


def test_what_tools_do_to_it_is_no_reason_to_complain(any_own: Daemon, busybox: str) -> None:
    own, client = any_own, any_own.client
    own.watch()
    client.swarm.init(advertise_addr=own.ip, listen_addr=f"{own.ip}:2377")
    assert own.checkup.complaint() == ""
    client.swarm.leave(force=True)
    for name in ("one", "two"):
        client.networks.create(name)
        client.containers.run(busybox, "sleep 1000", detach=True, name=name, network=name, ports={"80/tcp": None})
    assert own.checkup.complaint() == ""
    for container in client.containers.list():
        container.remove(force=True)
    client.networks.prune()
    client.containers.prune()
    client.volumes.prune()
    client.images.prune(filters={"dangling": False})
    client.api.prune_builds()
    assert own.checkup.complaint() == ""


def test_it_takes_less_than_5_milliseconds(own: Daemon) -> None:
    own.watch()
    assert own.checkup.complaint() == ""

    def seconds() -> float:
        begin = time.monotonic()
        assert own.checkup.complaint() == ""
        return time.monotonic() - begin

    # How long it takes where nothing else runs, which is waited for. `python -m benchmarks clean` says more.
    wait_until(lambda: statistics.median(seconds() for _ in range(20)) < 0.005, lambda: "it was never that fast")


# -- in a run


def test_the_next_test_gets_a_good_one_and_the_report_says_which_test_broke_it(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makepyfile(
        f"""
        import pytest

        FAULTS = [
            "kill -KILL $(pidof dockerd)", "kill -STOP $(pidof dockerd)", "kill -STOP $(pidof containerd)",
            "iptables -F; iptables -t nat -F",
            "echo '{{}}' >/etc/docker/daemon.json; kill -HUP $(pidof dockerd)",
        ]

        @pytest.fixture
        def is_good(dind_client):
            assert dind_client.containers.run({busybox!r}, "echo works", network="bridge") == b"works\\n"
            assert not dind_client.info()["Debug"]

        @pytest.mark.parametrize("number", range(len(FAULTS)))
        def test_breaks(is_good, dind_daemon, number):
            dind_daemon.exec(["sh", "-c", FAULTS[number]])

        def test_asks_for_it_by_name(request):
            request.getfixturevalue("dind_daemon").exec(["rm", "/var/run/docker.sock"])

        def test_without_any():
            pass

        def test_last(is_good):
            pass
        """
    )
    result = inner.run("--dind", f"--dind-preload={busybox}", "-n1", "-rP")
    result.assert_outcomes(passed=8)
    output = str(result.stdout)
    complaints = {
        "test_breaks[0]": "(container has ended|dockerd process has ended)",
        "test_breaks[1]": "dockerd process is stopped, as by SIGSTOP",
        "test_breaks[2]": "containerd process is stopped, as by SIGSTOP",
        "test_breaks[3]": "it lacks iptables rules",
        "test_breaks[4]": "its /etc/docker/daemon.json is not what it was",
        "test_asks_for_it_by_name": "/var/run/docker.sock is missing",
    }
    for test, complaint in complaints.items():
        broke = rf"test_\w+\.py::{re.escape(test)} broke"
        said = rf"{broke} the session daemon \S+: .*{complaint}.*; this is a new one in its place"
        assert re.search(said, output), output
        assert re.search(rf"^dind: the session daemon \S+ was replaced: {broke} it \(.+\)$", output, re.MULTILINE)


def test_what_wider_fixtures_do_to_its_configuration_programs_and_network_is_no_reason(
    inner: InnerRun,
) -> None:
    inner.pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def identity(dind_client):
            return dind_client.info()["ID"]

        @pytest.fixture(scope="class")
        def debugging(dind_daemon, identity):
            dind_daemon.exec(["sh", "-c", "echo '{}' >/etc/docker/daemon.json; kill -HUP $(pidof dockerd)"])
            dind_daemon.exec(["sh", "-c", "f=$(command -v docker-proxy); cp $f $f.new; mv $f.new $f"])
            away = "ip route show default >/run/way; ip route del default; echo 0 >/proc/sys/net/ipv4/ip_forward"
            assert dind_daemon.exec(["sh", "-c", away]) == (0, "")
            yield
            dind_daemon.exec(["sh", "-c", "rm /etc/docker/daemon.json; kill -HUP $(pidof dockerd)"])
            back = "ip route add $(cat /run/way); echo 1 >/proc/sys/net/ipv4/ip_forward"
            assert dind_daemon.exec(["sh", "-c", back]) == (0, "")

        @pytest.fixture
        def for_one_test(debugging, dind_daemon):
            dind_daemon.exec(["sh", "-c", "echo '{\\"debug\\": true}' >/etc/docker/daemon.json"])
            yield
            dind_daemon.exec(["sh", "-c", "echo '{}' >/etc/docker/daemon.json"])

        class TestWith:
            def test_one(self, debugging, identity, dind_client):
                assert dind_client.info()["ID"] == identity

            def test_two(self, debugging, identity, dind_client, for_one_test):
                assert dind_client.info()["ID"] == identity

        def test_without(identity, dind_client):
            assert dind_client.info()["ID"] == identity
        """
    )
    result = inner.run("--dind", "-p", "no:xdist")
    result.assert_outcomes(passed=3)
    assert "replaced" not in str(result.stdout)


def test_that_wider_fixtures_leave_no_room_in_it_is_no_reason_as_long_as_they_last(inner: InnerRun) -> None:
    inner.pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def identity(dind_client):
            return dind_client.info()["ID"]

        def fill(daemon):
            daemon.exec(["sh", "-c", "head -c 1G /dev/zero >/dev/shm/fill; for i in $(seq 300); do sleep 1000 & done"])

        @pytest.fixture(scope="class")
        def full(dind_daemon, identity):
            fill(dind_daemon)
            yield
            dind_daemon.exec(["rm", "/dev/shm/fill"])
            dind_daemon.exec(["pkill", "-x", "sleep"])

        class TestFull:
            @pytest.mark.parametrize("number", range(2))
            def test_it(self, full, identity, dind_client, number):
                assert dind_client.info()["ID"] == identity

        def test_fills(identity, dind_daemon):
            assert dind_daemon.client.info()["ID"] == identity
            dind_daemon.client.volumes.create("room")
            fill(dind_daemon)

        class TestNext:
            @pytest.fixture(scope="class")
            def wider(self):
                pass

            def test_next(self, wider, dind_client):
                dind_client.volumes.create("room")
        """
    )
    how = ("--dind-pids=150", "--dind-daemon-arg=--data-root=/dev/shm/docker")
    result = inner.run("--dind", "-p", "no:xdist", *how)
    result.assert_outcomes(passed=4)
    [replaced] = [line for line in result.outlines if "was replaced" in line]
    assert "::test_fills broke it (no process can be started in its container" in replaced


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("echo '{}' >/etc/docker/daemon.json", "its /etc/docker/daemon.json is not what it was"),
        ("ip route del default", "its container has no default route any more"),
    ],
    ids=["configuration", "network"],
)
def test_what_a_test_does_to_it_is_not_wanted_because_a_wider_fixture_ends(
    inner: InnerRun, fault: str, complaint: str
) -> None:
    suite = """
        import pytest

        @pytest.fixture(scope="module", autouse=True)
        def wider():
            yield

        def test_{name}(dind_daemon):
            code, found = dind_daemon.exec(["ls", "/etc/docker"])
            assert "daemon.json" not in found
            assert dind_daemon.exec(["ip", "route", "show", "default"])[1]
            dind_daemon.exec(["sh", "-c", {fault!r}])
    """
    inner.pytester.makepyfile(
        test_a=suite.format(name="one", fault=fault), test_b=suite.format(name="two", fault=fault)
    )
    result = inner.run("--dind", "-q", "-p", "no:xdist")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*was replaced: test_a.py::test_one broke it (*" + complaint + ")"])


def test_one_that_a_test_has_stopped_is_ended_and_counted_with_the_others(inner: InnerRun) -> None:
    inner.pytester.makepyfile(
        """
        def test_stops(dind_daemon):
            dind_daemon.stop()

        def test_fresh(dind_fresh_daemon):
            pass

        def test_next(dind_client):
            assert dind_client.ping()
        """
    )
    result = inner.run("--dind", "-p", "no:xdist")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["dind: 3 daemons started *; all removed with their volumes", "*test_stops broke it (it was stopped)"]
    )
    assert "crashed workers" not in str(result.stdout)
