"""The sweep at a run's start: it removes what crashed owners and crashed engines left, on proof, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import NotFound

from pytest_dind.labels import HOST, LEASE, OURS
from pytest_dind.transport import UnixSocket

from .conftest import InnerRun, wait_until
from .processes import Spawned

pytestmark = pytest.mark.once

NO_DAEMON = "def test_without_daemon(): pass"

#: Another owner: makes one of each thing with its labels, and waits to be killed.
OWNER = """
import json, os, sys
import docker
from pytest_dind.owner import Owner
from pytest_dind.transport import UnixSocket

owner = Owner.claim("another", "gw0")
labels = {**owner.ownership.labels(), **json.loads(sys.argv[2])}
client = docker.from_env()
container = client.api.create_container(sys.argv[1], ["true"], labels=labels)["Id"]
network = client.networks.create(f"pytest-dind-test-{owner.lease.token}", labels=labels).id
volume = client.volumes.create(labels=labels).name
transport = UnixSocket.named(owner.next_names()[1])
transport.make()
print(json.dumps({"container": container, "network": network, "volume": volume, "lease": owner.lease.label,
                  "directory": str(transport.directory)}), flush=True)
sys.stdin.read()
"""


class Other:
    """Another owner, in a process of its own, and what it made on the host engine."""

    def __init__(self, host: docker.DockerClient, busybox: str, labels: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-c", OWNER, busybox, json.dumps(labels or {})]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._made: dict[str, str] = json.loads(self._process.stdout.readline())
        self.lease = self._made["lease"]
        self.directory = Path(self._made["directory"])
        self._host = host

    def __enter__(self) -> Other:  # noqa: PYI034 (typing.Self comes with Python 3.11)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what is still there."""
        self.kill()
        for kind in self.there():
            remove_by_kind(self._host)[kind](self._made[kind])
        shutil.rmtree(self.directory, ignore_errors=True)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def there(self) -> list[str]:
        """Which of the things that it made on the host engine are still there."""
        return [kind for kind in ("container", "network", "volume") if is_there(self._host, kind, self._made[kind])]


def remove_by_kind(host: docker.DockerClient) -> dict[str, Callable[[str], Any]]:
    api: Any = host.api
    return {"container": api.remove_container, "network": api.remove_network, "volume": api.remove_volume}


def is_there(host: docker.DockerClient, kind: str, name: str) -> bool:
    api: Any = host.api
    try:
        {"container": api.inspect_container, "network": api.inspect_network, "volume": api.inspect_volume}[kind](name)
    except NotFound:
        return False
    return True


ALL = ["container", "network", "volume"]


def swept_run(inner: InnerRun) -> str:
    """Run pytest with a sweep and no daemon; return its header line."""
    inner.pytester.makepyfile(NO_DAEMON)
    result = inner.run("--dind", "-p", "no:xdist")
    assert result.ret == 0
    [header] = [line for line in result.outlines if line.startswith("dind: host engine")]
    return header


@pytest.mark.heart
def test_what_a_killed_owner_left_is_removed_at_the_next_start_and_the_header_says_so(
    inner: InnerRun, host: docker.DockerClient, busybox: str
) -> None:
    with Other(host, busybox) as other:
        other.kill()
        assert other.there() == ALL
        assert other.directory.is_dir()
        header = swept_run(inner)
        assert header.endswith("; removed what dead runs left: 1 container, 1 network, 1 volume, 1 directory")
        assert other.there() == []
        assert inner.left() == []
    assert "removed" not in swept_run(inner)


def test_what_a_living_owner_has_is_left_alone_until_it_is_dead(
    inner: InnerRun, host: docker.DockerClient, busybox: str
) -> None:
    with Other(host, busybox) as other:
        assert "removed" not in swept_run(inner)
        assert other.there() == ALL
        assert other.directory.is_dir()
        other.kill()
        assert "removed" in swept_run(inner)
        assert other.there() == []


@pytest.mark.parametrize(
    ("label", "value"),
    [
        pytest.param(HOST, "0123456789ab", id="of another machine"),
        pytest.param(HOST, "", id="of no machine"),
        pytest.param(LEASE, "/nowhere/0.lock#01234567", id="of a lease whose file is not here"),
        pytest.param(LEASE, "", id="of no lease"),
    ],
)
def test_what_proves_no_owner_dead_is_left_alone(
    inner: InnerRun, host: docker.DockerClient, busybox: str, label: str, value: str
) -> None:
    with Other(host, busybox, {label: value}) as other:
        other.kill()
        # The directory is named by the true owner, and that is dead.
        assert swept_run(inner).endswith("; removed what dead runs left: 1 directory")
        assert other.there() == ALL


def test_a_lease_slot_with_a_later_owner_proves_the_earlier_owner_dead_and_the_later_one_keeps_its_things(
    inner: InnerRun, host: docker.DockerClient, busybox: str
) -> None:
    with Other(host, busybox) as first:
        first.kill()
        with Other(host, busybox) as second:
            assert first.lease.partition("#")[0] == second.lease.partition("#")[0]
            assert "removed what dead runs left: 1 container" in swept_run(inner)
            assert (first.there(), first.directory.exists()) == ([], False)
            assert (second.there(), second.directory.exists()) == (ALL, True)


def test_what_carries_no_labels_of_ours_is_left_alone(inner: InnerRun, host: docker.DockerClient, busybox: str) -> None:
    api: Any = host.api
    with Other(host, busybox) as other:
        other.kill()
        labels = {HOST: inner.label.partition("=")[2], LEASE: other.lease}  # all but the one that says that it is ours
        assert OURS not in labels
        strangers = {
            "container": api.create_container(busybox, ["true"], labels=labels)["Id"],
            "network": host.networks.create(f"test-sweep-{os.getpid()}", labels=labels).id or "",
            "volume": host.volumes.create(labels=labels).name or "",
        }
        try:
            assert "removed what dead runs left" in swept_run(inner)
            assert [kind for kind, name in strangers.items() if is_there(host, kind, name)] == ALL
        finally:
            for kind, name in strangers.items():
                remove_by_kind(host)[kind](name)


def test_a_directory_beside_the_daemons_that_is_not_ours_is_left_alone(inner: InnerRun) -> None:
    swept_run(inner)
    directories = [inner._sockets / name for name in ("mine", "a-b-c-d", "0123456789ab-0-01234567-1")]
    for directory in directories:
        directory.mkdir()
    assert "removed" not in swept_run(inner)
    for directory in directories:
        directory.rmdir()


def test_a_run_that_sweeps_does_no_harm_to_another_that_lives(
    inner: InnerRun, host: docker.DockerClient, busybox: str
) -> None:
    suite = """
        import os, pathlib, time

        def test_lives(dind_daemon, dind_fresh_daemon):
            pathlib.Path("ready").touch()
            for _ in range(5000):
                if pathlib.Path("go").exists():
                    break
                time.sleep(0.02)
            for daemon in (dind_daemon, dind_fresh_daemon):
                assert daemon.client.ping() and daemon.alive
                assert os.path.isdir(daemon.env["DOCKER_CONFIG"])
    """
    inner.pytester.makepyfile(suite)
    with Other(host, busybox) as other, Spawned(inner.pytester.path) as living:
        living.wait_for("ready")
        other.kill()
        before = sorted(inner.left())
        assert "removed what dead runs left: 1 container, 1 network, 1 volume, 1 directory" in swept_run(inner)
        assert len(inner.left()) == len(before) - 4
        assert len(inner.containers()) == 2
        (inner.pytester.path / "go").touch()
        assert (living.wait(), inner.left()) == (0, []), living.output


def test_two_runs_that_sweep_at_once_both_succeed_and_remove_all(
    inner: InnerRun, host: docker.DockerClient, busybox: str
) -> None:
    inner.pytester.makepyfile("def test_daemon(dind_client): assert dind_client.ping()")
    with Other(host, busybox) as first, Other(host, busybox) as second:
        first.kill()
        second.kill()
        with (
            Spawned(inner.pytester.path, output="one.txt") as one,
            Spawned(inner.pytester.path, output="two.txt") as two,
        ):
            assert (one.wait(), two.wait()) == (0, 0), one.output + two.output
        assert inner.left() == []


# -- a host engine that crashes


#: Only what belongs to the engine: the daemons in its containers are dockerds, too.
CRASH = """
pids=
for process in /proc/[0-9]*; do
    [ "$(readlink $process/ns/pid)" = "$(readlink /proc/1/ns/pid)" ] || continue
    case $(tr '\\0' ' ' <$process/cmdline) in
    dockerd\\ * | containerd\\ * | /usr/*containerd-shim*) pids="$pids ${process#/proc/}" ;;
    esac
done
kill -KILL $pids && echo $pids
"""


class CrashingEngine:
    """A host engine of the test's own, whose processes can be killed, and which starts again on the same data."""

    def __init__(self, host: docker.DockerClient, image: str, sockets: Path, base_temp: Path) -> None:
        self._socket = UnixSocket(sockets)
        self.address = self._socket.host
        self._container = host.containers.create(
            image,
            entrypoint=["sleep", "infinity"],
            init=True,
            privileged=True,
            # What the tests' runs ask this engine to mount is at the same place for it.
            mounts=[docker.types.Mount(path, path, type="bind") for path in ("/tmp", str(base_temp))],
            volumes=["/var/lib/docker"],
        )
        try:
            self._container.start()
            self.start()
        except BaseException:
            self.remove()
            raise

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.address)

    def start(self) -> None:
        command = f"exec dockerd --host={self.address} --group={os.getegid()} >>/engine.log 2>&1"
        self._container.exec_run(["sh", "-c", command], detach=True)
        wait_until(self._answers, lambda: str(self._container.exec_run(["tail", "/engine.log"])))

    def _answers(self) -> bool:
        try:
            return bool(self._socket.ping(timeout=5))
        except OSError:
            return False

    def crash(self) -> None:
        """Kill the engine, its containerd, and the shims between it and its containers."""
        code, output = self._container.exec_run(["sh", "-c", CRASH])
        assert code == 0, output
        assert isinstance(output, bytes)
        assert len(output.split()) >= 3, output
        wait_until(lambda: not self._answers(), lambda: "the engine still answers")

    def remove(self) -> None:
        self._container.remove(force=True, v=True)


@pytest.fixture(scope="module")
def engine(host: docker.DockerClient, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashingEngine]:
    """A host engine that may be crashed; it has the image of the daemons."""
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as sockets:
        made = CrashingEngine(host, image, Path(sockets), tmp_path_factory.getbasetemp())
        try:
            with contextlib.closing(made.client()) as client:
                api: Any = client.api
                list(api.load_image(host.api.get_image(image)))
            yield made
        finally:
            made.remove()


@pytest.fixture
def crashing(
    inner: InnerRun, engine: CrashingEngine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[CrashingEngine, InnerRun]]:
    """The engine that may be crashed, and inner runs on it."""
    monkeypatch.setenv("DOCKER_HOST", engine.address)
    with contextlib.closing(engine.client()) as client:
        yield engine, InnerRun(inner.pytester, client, inner._sockets.parent.parent)


WAITS = """
    import pathlib, time

    def test_waits(dind_client):
        pathlib.Path("ready").touch()
        for _ in range(5000):
            if pathlib.Path("go").exists():
                break
            time.sleep(0.02)
"""


def test_what_a_crashed_engine_left_of_a_crashed_run_is_removed_by_the_next_run(
    crashing: tuple[CrashingEngine, InnerRun],
) -> None:
    engine, runs = crashing
    runs.pytester.makepyfile(WAITS)
    with Spawned(runs.pytester.path) as run:
        run.wait_for("ready")
        assert len(runs.containers()) == 1
        engine.crash()
        run.send(signal.SIGKILL)
        run.wait()
    engine.start()
    # The engine itself has removed the container, when it started, and not its volume.
    assert "removed what dead runs left: " in swept_run(runs)
    assert runs.left() == []


def test_a_run_whose_engine_crashes_ends_and_what_is_left_of_it_is_removed_by_the_next_run(
    crashing: tuple[CrashingEngine, InnerRun],
) -> None:
    engine, runs = crashing
    runs.pytester.makepyfile(WAITS)
    with Spawned(runs.pytester.path) as run:
        run.wait_for("ready")
        engine.crash()
        (runs.pytester.path / "go").touch()
        assert run.wait() == 0, run.output
    assert "1 passed" in run.output
    assert re.search("DindWarning: .* is left on the host engine: .*Remove it: docker rm -fv", run.output), run.output
    assert f"dind: not removed: what is left on the host engine at {engine.address}" in run.output
    engine.start()
    assert "removed what dead runs left: " in swept_run(runs)
    assert runs.left() == []
