"""The core on a real engine, as a script uses it that knows nothing of pytest."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from pytest_dind import Daemon, DaemonStateError, ImageNotFoundError, Settings, inside
from pytest_dind.environment import MISLEADING
from pytest_dind.host import HostEngine
from pytest_dind.labels import OURS

from .conftest import SHOW_LIMIT, fetch, wait_until
from .processes import is_running

pytestmark = [pytest.mark.usefixtures("nothing_is_left"), pytest.mark.once]


@pytest.fixture
def own(image: str, busybox: str) -> Iterator[Daemon]:
    """A daemon that the test may break, with busybox in it."""
    with Daemon.start(Settings(image=image, preload=(busybox,))) as started:
        yield started


@pytest.fixture(scope="module")
def shared(daemon: Daemon, busybox: str) -> Daemon:
    """A daemon that others use too, with busybox in it."""
    daemon.load(busybox)
    return daemon


def run(daemon: Daemon, image: str, script: str, **how: Any) -> str:
    """Run a shell script in an inner container; return what it printed."""
    printed: bytes = daemon.client.containers.run(image, ["sh", "-c", script], remove=True, **how)
    return printed.decode().strip()


@pytest.fixture
def server(shared: Daemon, busybox: str) -> Iterator[Container]:
    """An inner container that serves `hello` over HTTP, publishes port 80 and 53/udp, and exposes 81."""
    command = ["sh", "-c", "mkdir /www && echo hello >/www/index.html && exec httpd -f -p 80 -h /www"]
    ports = {"80/tcp": None, "53/udp": None}
    container = shared.client.containers.run(busybox, command, detach=True, ports=ports, init=True)
    yield container
    container.remove(force=True)


# -- its life


@pytest.mark.heart
def test_a_daemon_starts_runs_a_container_with_a_memory_limit_and_stops_with_nothing_left(
    host: docker.DockerClient, image: str, busybox: str
) -> None:
    with Daemon.start(Settings(image=image)) as daemon:
        daemon.load(busybox)
        assert run(daemon, busybox, SHOW_LIMIT, mem_limit="64m") == str(64 * 1024**2)
        volumes = [one["Name"] for one in host.api.inspect_container(daemon.name)["Mounts"] if one["Type"] == "volume"]
        directory = Path(daemon.host.removeprefix("unix://")).parent
        assert directory.parent.stat().st_mode & 0o077 == 0, "no other user gets at the socket"
    assert host.api.containers(all=True, filters={"name": daemon.name}) == []
    assert len(volumes) == 1
    assert [one["Name"] for one in host.api.volumes()["Volumes"] if one["Name"] in volumes] == []
    assert not directory.exists()


@pytest.mark.heart
def test_what_is_in_a_daemon_cannot_take_more_than_it_may(image: str, busybox: str) -> None:
    limits = Settings(image=image).changed("here", memory="200m", cpus=0.5, pids=300)
    with Daemon.start(limits) as daemon:
        daemon.load(busybox)
        # `tail` keeps what it reads, up to the last line end, and there is none.
        eats = daemon.client.containers.run(busybox, ["sh", "-c", "tail </dev/zero"], detach=True)
        assert eats.wait()["StatusCode"] == 137, "killed by the kernel"
        forks = "for i in $(seq 400); do sleep 60 & done"
        forked = daemon.client.containers.run(busybox, ["sh", "-c", forks], detach=True)
        assert forked.wait()["StatusCode"] != 0
        assert b"can't fork" in forked.logs()
        group = "cat /sys/fs/cgroup/cpu/cpu.cfs_{quota,period}_us 2>/dev/null || cat /sys/fs/cgroup/cpu.max"
        quota, period = daemon.exec(["bash", "-c", group])[1].split()
        assert int(quota) / int(period) == 0.5
        assert daemon.alive


def test_a_daemon_is_empty_and_what_is_done_in_it_no_other_sees(shared: Daemon, image: str, busybox: str) -> None:
    with Daemon.start(Settings(image=image)) as fresh:
        assert fresh.client.images.list() == []
        assert fresh.client.containers.list(all=True) == []
        assert fresh.client.volumes.list() == []
        assert [one.name for one in fresh.client.networks.list(names=["bridge", "host", "none"])] != []
        fresh.load(busybox)
        fresh.client.containers.run(busybox, ["sleep", "1000"], name="mine", detach=True)
        fresh.client.volumes.create("mine")
        fresh.client.networks.create("mine")
        assert shared.client.containers.list(all=True, filters={"name": "mine"}) == []
        assert "mine" not in [one.name for one in shared.client.volumes.list()]
        assert shared.client.networks.list(names=["mine"]) == []


@pytest.mark.heart
def test_a_daemon_whose_dockerd_was_killed_is_started_anew_at_the_same_address(own: Daemon, busybox: str) -> None:
    host, client, env, before = own.host, own.client, own.env, own.name
    client.volumes.create("mine")
    assert own.alive
    own.exec(["sh", "-c", "kill -KILL $(cat /var/run/docker.pid)"])
    wait_until(lambda: not own.alive, lambda: "it still answers")
    own.restart()
    assert own.alive
    assert (own.host, own.name) == (host, before)
    assert own.client is client
    assert "mine" not in [one.name for one in client.volumes.list()]
    assert run(own, busybox, "echo again") == "again"
    assert own.env is env
    assert env["DOCKER_HOST"] == own.host
    assert env["TESTCONTAINERS_HOST_OVERRIDE"] == own.ip


def test_a_daemon_that_works_is_started_anew_too_and_loses_what_it_had(own: Daemon, busybox: str) -> None:
    own.client.containers.run(busybox, ["sleep", "1000"], detach=True)
    own.restart()
    assert own.client.containers.list(all=True) == []
    assert own.client.images.get(busybox).tags == [busybox], "what was to be preloaded is there again"


def test_a_daemon_can_be_stopped_twice_and_then_says_that_it_is_gone(image: str) -> None:
    daemon = Daemon.start(Settings(image=image))
    daemon.stop()
    daemon.stop()
    assert not daemon.alive
    assert daemon.logs() == ""
    with pytest.raises(DaemonStateError, match=f"^{daemon.name} has no address: it has ended"):
        _ = daemon.ip


def test_a_daemon_is_stopped_when_the_block_that_it_serves_fails(image: str) -> None:
    with pytest.raises(ZeroDivisionError), Daemon.start(Settings(image=image)) as daemon:
        _ = 1 // 0
    assert not daemon.alive


def test_four_daemons_start_at_once_from_four_threads(image: str, busybox: str) -> None:
    def one_life(number: int) -> tuple[str, str]:
        with Daemon.start(Settings(image=image)) as daemon:
            daemon.load(busybox)
            return daemon.name, run(daemon, busybox, f"echo {number}", name="same-name-in-all")

    with ThreadPoolExecutor(4) as threads:
        lives = list(threads.map(one_life, range(4)))
    assert len({name for name, _ in lives}) == 4
    assert [said for _, said in lives] == ["0", "1", "2", "3"]


def test_a_kept_daemon_outlives_its_end_until_it_is_removed_by_hand(host: docker.DockerClient, image: str) -> None:
    daemon = Daemon.start(Settings(image=image))
    address = daemon.host
    daemon.keep()
    try:
        assert daemon.kept
        daemon.stop()
        client = docker.DockerClient(base_url=address)
        assert client.ping()
        client.close()
    finally:
        host.containers.get(daemon.name).remove(force=True, v=True)
        shutil.rmtree(Path(address.removeprefix("unix://")).parent)


def test_a_daemon_inside_this_daemon_is_one_of_its_own(engine_settings: Settings, image: str, busybox: str) -> None:
    with Daemon.start(engine_settings) as own:
        with own.nest(Settings(image=image)) as inner:
            assert own.client.containers.get(inner.name).status == "running"
            assert inner.client.images.list() == []
            inner.load(busybox)
            assert run(inner, busybox, SHOW_LIMIT, mem_limit="64m") == str(64 * 1024**2)
            server = inner.client.containers.run(busybox, "sleep 60", ports={"80/tcp": None}, detach=True)
            with pytest.raises(DaemonStateError, match=rf"of {inner.name} cannot be reached from here, and "):
                inner.address(server, 80)
            assert "TESTCONTAINERS_HOST_OVERRIDE" not in inner.env
        assert own.client.containers.list(all=True) == []
        assert own.client.volumes.list() == []
        # One that nobody stops ends with the daemon that it is in.
        forgotten = own.nest(Settings(image=image))
        own.stop()
        assert forgotten.stopped
        assert not Path(forgotten.host.removeprefix("unix://")).parent.exists()


# -- what it is


def test_a_daemon_says_what_it_is(shared: Daemon, host: docker.DockerClient, image: str) -> None:
    container = host.containers.get(shared.name)
    assert container.labels[OURS]
    assert shared.settings.image == image
    assert shared.host.startswith("unix:///")
    assert len(shared.host.removeprefix("unix://")) <= 107
    assert shared.version == shared.client.version()["Version"]
    assert shared.ip == container.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert shared.client is shared.client
    assert shared.alive
    assert shared.start_seconds > 0


def test_its_env_names_it_and_nothing_that_would_mislead(shared: Daemon) -> None:
    assert shared.env["DOCKER_HOST"] == shared.host
    assert shared.env["TESTCONTAINERS_HOST_OVERRIDE"] == shared.ip
    assert Path(shared.env["DOCKER_CONFIG"]).parent == Path(shared.host.removeprefix("unix://")).parent
    assert MISLEADING.isdisjoint(shared.env)
    assert shared.env["PATH"] == os.environ["PATH"]
    assert shared.env is shared.env


def test_the_docker_command_uses_the_daemon_that_env_names(shared: Daemon, busybox: str) -> None:
    if shutil.which("docker") is None:
        pytest.skip("this machine has no docker command")

    def cli(*argv: str) -> str:
        done = subprocess.run(["docker", *argv], env=shared.env, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert cli("info", "--format", "{{.ID}}") == shared.client.info()["ID"]
    assert cli("run", "--rm", "-m", "64m", busybox, "sh", "-c", SHOW_LIMIT) == str(64 * 1024**2)
    assert cli("context", "show") == "default"


def test_an_environment_made_for_another_docker_does_not_disturb(
    image: str, busybox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HostEngine.connect()
    misleading = {
        "DOCKER_HOST": "tcp://192.0.2.1:2376",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": "/nonexistent",
        "DOCKER_CONTEXT": "nonexistent",
        "DOCKER_API_VERSION": "1.12",
        "DOCKER_DRIVER": "nonexistent",
        "DOCKER_CONFIG": "/nonexistent",
        "BUILDX_BUILDER": "nonexistent",
        "HTTP_PROXY": "http://192.0.2.1:3128",
        "http_proxy": "http://192.0.2.1:3128",
        "ALL_PROXY": "http://192.0.2.1:3128",
    }
    for name, value in misleading.items():
        monkeypatch.setenv(name, value)
    with Daemon.start(Settings(image=image), engine=engine) as daemon:
        daemon.load(busybox)
        assert run(daemon, busybox, "echo hello") == "hello"
        _, inside = daemon.exec(["cat", "/proc/1/environ"])
        assert [name for name in misleading if f"{name}=" in inside] == []
        expected = {"DOCKER_HOST": daemon.host, "HTTP_PROXY": misleading["HTTP_PROXY"]}
        assert {name: daemon.env.get(name) for name in ("DOCKER_HOST", "HTTP_PROXY")} == expected
        assert MISLEADING.isdisjoint(daemon.env)
        if shutil.which("docker"):
            argv = ["docker", "info", "--format", "{{.ID}}"]
            shown = subprocess.run(argv, env=daemon.env, check=True, capture_output=True, text=True).stdout
            assert shown.strip() == daemon.client.info()["ID"]
    engine.close()


# -- images


def test_an_image_is_loaded_from_the_host_engine_by_tag(
    host: docker.DockerClient, shared: Daemon, busybox: str
) -> None:
    identity = shared.load(busybox)
    inside = shared.client.images.get(busybox)
    assert inside.id == identity
    assert inside.attrs["RootFS"] == host.images.get(busybox).attrs["RootFS"]


def test_an_image_is_loaded_from_the_host_engine_by_id(host: docker.DockerClient, image: str, busybox: str) -> None:
    identity = str(host.images.get(busybox).id)
    with Daemon.start(Settings(image=image)) as daemon:
        assert daemon.load(identity) == identity
        assert run(daemon, identity, "echo hello") == "hello"
        # Also in the short form that people copy from a screen.
        assert daemon.load(identity.removeprefix("sha256:")[:12]) == identity


def test_loading_an_image_again_does_nothing(own: Daemon, busybox: str) -> None:
    first = own.load(busybox)  # It has been preloaded.
    assert own.load(busybox) == first
    events = own.client.events(since=0, until=_now(own), filters={"type": "image"}, decode=True)
    assert "load" not in [event["Action"] for event in events]


def _now(daemon: Daemon) -> int:
    return int(daemon.exec(["date", "+%s"])[1]) + 1


def test_an_image_whose_tag_has_moved_on_the_host_engine_is_loaded_anew(
    host: docker.DockerClient, shared: Daemon, busybox: str
) -> None:
    name = f"pytest-dind/moved-{shared.name}:latest"
    try:
        host.images.get(busybox).tag(name)
        before = shared.load(name)
        container = host.containers.create(busybox, ["true"])
        try:
            container.put_archive("/", _archive_of_nothing_but_a_folder())
            container.commit(name)
        finally:
            container.remove(force=True, v=True)
        assert shared.load(name) != before
        assert run(shared, name, "ls -d /new") == "/new"
        shared.client.images.remove(name)
    finally:
        host.images.remove(name)


def _archive_of_nothing_but_a_folder() -> bytes:
    import io
    import tarfile

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        folder = tarfile.TarInfo("new")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    return archive.getvalue()


def test_an_image_that_only_the_daemon_has_is_left_as_it_is(shared: Daemon, busybox: str) -> None:
    shared.client.images.get(busybox).tag("only-inside:1")
    assert shared.load("only-inside:1") == shared.client.images.get(busybox).id
    shared.client.images.remove("only-inside:1")


def test_an_image_that_is_nowhere_is_an_error_that_names_it_and_the_places(shared: Daemon) -> None:
    name = "localhost:1/not-there:1"
    with pytest.raises(ImageNotFoundError) as caught:
        shared.load(name)
    assert caught.value.image == name
    assert str(caught.value).startswith(
        f"image '{name}' is nowhere: the host engine at {shared.engine.address} has not got it, "
        "and pulling it in the daemon failed: "
    )
    assert "localhost:1" in caught.value.tried


def test_a_name_that_no_image_can_have_is_an_error_that_names_it(shared: Daemon) -> None:
    with pytest.raises(ImageNotFoundError, match=r"image 'Not-An-Image' is nowhere: the host engine says: .*format"):
        shared.load("Not-An-Image")


def test_a_daemon_is_not_started_from_an_image_that_is_nowhere() -> None:
    with pytest.raises(ImageNotFoundError) as caught:
        Daemon.start(Settings(image="localhost:1/not-there:1"))
    expected = r"image 'localhost:1/not-there:1' is nowhere: the host engine at \S+ has not got it, and pulling it"
    assert re.match(expected, str(caught.value))
    assert "--dind-image" in str(caught.value)


def test_a_daemon_whose_preload_is_nowhere_is_not_left_behind(image: str) -> None:
    with pytest.raises(ImageNotFoundError, match=r"localhost:1/not-there:1"):
        Daemon.start(Settings(image=image, preload=("localhost:1/not-there:1",)))


def test_version_in_an_image_name_stands_for_the_host_engines(host: docker.DockerClient, image: str) -> None:
    version = re.split("[+-]", host.version()["Version"])[0]
    name = f"pytest-dind/{os.getpid()}:{version}"
    host.images.get(image).tag(name)
    try:
        with Daemon.start(Settings(image=name.replace(version, "{version}"))) as daemon:
            assert daemon.settings.image == name
            assert host.containers.get(daemon.name).attrs["Config"]["Image"] == name
    finally:
        host.images.remove(name)


# -- what it does


def test_a_published_tcp_port_is_reached_from_this_process(shared: Daemon, server: Container) -> None:
    address = shared.address(server, 80)
    assert address[0] == shared.ip
    assert fetch(address) == "hello\n"
    assert shared.address(server, "80/tcp") == address
    assert shared.address(str(server.name), 80) == address


def test_a_published_udp_port_is_reached_from_this_process(shared: Daemon, server: Container) -> None:
    def datagrams() -> int:
        """Count the datagrams that came to the container, where nobody listens for them."""
        _, output = inside.run(shared.client.api, str(server.id), ["cat", "/proc/net/snmp"])
        names, values = (line.split() for line in output.splitlines() if line.startswith("Udp: "))
        return int(dict(zip(names, values, strict=True))["NoPorts"])

    before = datagrams()
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", shared.address(server, "53/udp"))
    wait_until(lambda: datagrams() > before, lambda: "the datagram never came")


def test_a_port_that_is_not_published_is_an_error_that_says_what_is(shared: Daemon, server: Container) -> None:
    with pytest.raises(DaemonStateError) as caught:
        shared.address(server, 81)
    assert str(caught.value) == (
        f"container {server.name} (running) does not publish port 81/tcp (published: 53/udp, 80/tcp); "
        "start it with ports={'81/tcp': None} or -p 81"
    )


def test_a_port_of_another_protocol_is_not_that_port(shared: Daemon, server: Container) -> None:
    with pytest.raises(DaemonStateError, match=r"does not publish port 53/tcp "):
        shared.address(server, 53)


def test_the_address_of_a_container_that_has_ended_is_an_error_that_says_so(shared: Daemon, busybox: str) -> None:
    container = shared.client.containers.run(busybox, "true", detach=True, ports={"80/tcp": None})
    try:
        container.wait()
        with pytest.raises(DaemonStateError, match=rf"^container {container.name} \(exited\) does not publish .*none"):
            shared.address(container, 80)
    finally:
        container.remove(force=True)
    with pytest.raises(DaemonStateError, match=rf"^container '{container.id}' is not in this daemon$"):
        shared.address(container, 80)


def test_a_file_is_put_into_the_daemon(shared: Daemon, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("hello")
    shared.put(tmp_path / "here", "/some/new/folder/there")
    assert shared.exec(["cat", "/some/new/folder/there"]) == (0, "hello")


def test_a_directory_is_put_into_the_daemon(shared: Daemon, tmp_path: Path) -> None:
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "below" / "file").write_text("hello")
    shared.put(str(tmp_path / "folder"), "/put")
    assert shared.exec(["cat", "/put/below/file"]) == (0, "hello")


@pytest.mark.parametrize("target", ["relative", "/", ""])
def test_a_target_that_is_no_path_below_the_root_is_refused(shared: Daemon, tmp_path: Path, target: str) -> None:
    with pytest.raises(DaemonStateError, match=rf"^cannot put {tmp_path} at '{target}': give an absolute path below /"):
        shared.put(tmp_path, target)


def test_exec_returns_exit_code_and_output_of_both_kinds(shared: Daemon) -> None:
    code, output = shared.exec(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (code, sorted(output.splitlines())) == (7, ["err", "out"])


def test_exec_waits_for_a_command_that_ends_after_its_output(shared: Daemon) -> None:
    assert shared.exec(["sh", "-c", "echo said; exec >&- 2>&-; sleep 0.5; exit 3"]) == (3, "said\n")


def test_exec_and_put_say_that_a_daemon_has_ended(own: Daemon) -> None:
    own.stop()
    with pytest.raises(DaemonStateError, match=rf"^{own.name} has ended"):
        own.exec(["true"])
    with pytest.raises(DaemonStateError, match=rf"^{own.name} has ended"):
        own.put(__file__, "/file")


def test_exec_loses_no_output_when_this_process_is_slow(shared: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = http.client.HTTPResponse.begin

    def begin_late(answer: http.client.HTTPResponse) -> None:
        time.sleep(0.5)  # By now the output has come too, and is read together with the answer's head.
        begin(answer)

    with monkeypatch.context() as patch:
        patch.setattr(http.client.HTTPResponse, "begin", begin_late)
        code, output = shared.exec(["echo", "hello"])
    assert (code, output) == (0, "hello\n")


def test_a_volume_of_an_inner_container_outlives_it_but_not_the_daemon(own: Daemon, busybox: str) -> None:
    volumes = {"data": {"bind": "/data", "mode": "rw"}}
    run(own, busybox, "echo hello >/data/file", volumes=volumes)
    assert run(own, busybox, "cat /data/file", volumes=volumes) == "hello"
    own.client.containers.run(busybox, ["sleep", "1000"], detach=True, volumes=volumes)


def test_a_mounted_path_means_the_same_in_an_inner_container(image: str, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("hello")
    volumes = [f"{tmp_path}:/data"]
    with Daemon.start(Settings(image=image, mount=(tmp_path,))) as daemon:
        daemon.load(busybox)
        assert run(daemon, busybox, "cat /data/here; echo back >/data/there", volumes=volumes) == "hello"
    assert (tmp_path / "there").read_text() == "back\n"


# -- its log


def test_the_log_can_be_read_from_a_position_on(shared: Daemon) -> None:
    position = shared.log_position()
    shared.exec(["sh", "-c", "echo a line of my own >/proc/1/fd/1"])
    wait_until(lambda: shared.logs(since=position), lambda: "the line never came")
    assert "a line of my own\n" in shared.logs(since=position)
    assert "API listen on" not in shared.logs(since=position)
    assert "API listen on" in shared.logs()


def test_the_lines_of_the_log_come_whole_and_in_order(shared: Daemon) -> None:
    position = shared.log_position()
    # Two streams, and lines longer than a pipe's buffer takes at once.
    script = "x=$(head -c 5000 /dev/zero | tr '\\0' x); i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo \"$i $x\"; done"
    shared.exec(["sh", "-c", f"{{ {script}; }} >/proc/1/fd/1"])

    def lines() -> list[str]:
        return [line for line in shared.logs(since=position).splitlines() if line.endswith("x" * 5000)]

    wait_until(lambda: len(lines()) >= 300, lambda: f"only {len(lines())} lines came")
    assert [line.split(" ")[0] for line in lines()] == [str(number) for number in range(1, 301)]


# -- in a process of its own


def test_a_plain_script_gets_a_daemon_without_importing_pytest(image: str) -> None:
    script = """if 1:
        import sys
        from pytest_dind import Daemon, Settings

        with Daemon.start(Settings(image=sys.argv[1])) as daemon:
            print(daemon.client.ping(), "pytest" in sys.modules)
    """
    argv = [sys.executable, "-W", "error", "-c", script, image]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr, done.returncode) == ("True False\n", "", 0)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("", id="its-last-line"),
        pytest.param("1 // 0", id="an-error"),
        pytest.param("import os; os._exit(0)", id="os._exit"),
        pytest.param("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", id="SIGKILL"),
        # The child has copies of all that its parent holds open, and lives on.
        pytest.param(
            "import os, time; print(os.fork() or time.sleep(600), flush=True); os._exit(0)",
            id="a-forked-child-lives-on",
        ),
    ],
)
def test_a_script_that_stops_no_daemon_leaves_none(host: docker.DockerClient, image: str, end: str) -> None:
    script = f"""if 1:
        import sys
        from pytest_dind import Daemon, Settings

        daemon = Daemon.start(Settings(image=sys.argv[1]))
        print(daemon.name, daemon.host, flush=True)
        {end}
    """
    argv = [sys.executable, "-c", script, image]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as p:
        assert p.stdout is not None
        name, address = p.stdout.readline().split()
        try:
            child = p.stdout.readline().strip() if "fork" in end else ""
            wait_until(
                lambda: not host.api.containers(all=True, filters={"name": name}), lambda: f"{name} is still there"
            )
            assert not child or is_running(int(child)), "or it would have shown nothing"
        finally:
            try:
                os.killpg(p.pid, signal.SIGKILL)
            except ProcessLookupError:  # all of them have ended
                pass
    assert not Path(address.removeprefix("unix://")).parent.exists()


def test_forked_children_own_daemons_of_their_own_and_leave_their_parents_alone(image: str) -> None:
    script = """if 1:
        import os, sys
        from pytest_dind import Daemon, Settings
        from pytest_dind.locks import is_dead
        from pytest_dind.owner import Owner

        settings = Settings(image=sys.argv[1])
        with Daemon.start(settings) as daemon:
            children = []
            for number in range(2):
                child = os.fork()
                if not child:
                    with Daemon.start(settings) as another:
                        assert another.client.ping()
                        assert another.name != daemon.name
                    daemon.stop()  # does nothing here
                    sys.exit(7)
                children.append(child)
            print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
            print(daemon.alive, is_dead(Owner.of_process().lease.label), daemon.client.ping())
    """
    argv = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, image]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=180)
    assert (done.stdout, done.stderr) == ("[7, 7]\nTrue False True\n", "")
