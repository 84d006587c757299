"""Daemons are reached from wherever a pipeline runs pytest, and the header says how and why."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import time
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import docker
import pytest

from pytest_dind.host import HostEngine
from pytest_dind.labels import BUILD, CONTAINER, ROLE
from pytest_dind.route import around
from pytest_dind.sweep import sweep

from .agents import (
    PACKAGE,
    Agent,
    Sidecar,
    archive,
    host_socket_agent,
    privileged_agent,
    ssh_agent,
    ssh_environment,
)
from .conftest import BUSYBOX, IMAGE, wait_until

#: Both ways of preloading, an own subprocess, and a port of an inner container, where it can be reached.
SUITE = f"""
import os, subprocess, urllib.request
import pytest
from pytest_dind import DaemonStateError

pytestmark = pytest.mark.dind(preload=["{BUSYBOX}"])


def test_the_client_and_the_cli_use_the_daemon(dind_daemon, dind_client, dind_env):
    reached = "no address for ports" not in os.environ.get("CASE", "")
    assert dind_env.get("TESTCONTAINERS_HOST_OVERRIDE") == (dind_daemon.ip if reached else None)
    assert dind_client.containers.run("{BUSYBOX}", ["echo", "inside"], remove=True) == b"inside\\n"
    said = subprocess.run(["docker", "info", "--format", "{{{{.Name}}}}"], env=dind_env, capture_output=True, text=True)
    assert said.stdout.strip() == dind_client.info()["Name"], said.stderr
    assert dind_daemon.loaded_because == "", "adopted from a store"


def test_a_fresh_one_is_another(dind_client, dind_fresh_client):
    assert dind_fresh_client.info()["ID"] != dind_client.info()["ID"]
    assert dind_fresh_client.images.get("{BUSYBOX}").tags


def test_a_published_port_is_reached(dind_daemon, dind_client):
    script = "mkdir /w; echo served >/w/index.html; httpd -f -p 80 -h /w"
    one = dind_client.containers.run("{BUSYBOX}", ["sh", "-c", script], ports={{"80/tcp": 8000}}, detach=True)
    ip, port = dind_daemon.address(one, 80)
    if "no address for ports" in os.environ.get("CASE", ""):
        assert port != 8000, "it is the engine's machine's"
        other = dind_client.containers.run("{BUSYBOX}", ["sleep", "60"], ports={{"80/tcp": 8001}}, detach=True)
        with pytest.raises(DaemonStateError, match="port 8001 of .* cannot be reached from here, .*--dind-port=8001"):
            dind_daemon.address(other, 80)
    for _ in range(100):
        try:
            assert urllib.request.urlopen(f"http://{{ip}}:{{port}}/index.html", timeout=5).read() == b"served\\n"
            break
        except ConnectionError:
            import time
            time.sleep(0.05)
"""
ENV = {"PYTEST_DIND_IMAGE": IMAGE}


#: Where the daemons' addresses are behind the engine's machine, and one port is published there; also an own value of
#: testcontainers', which is not for the daemons.
NO_PORTS = {"CASE": "no address for ports", "TESTCONTAINERS_HOST_OVERRIDE": "docker"}
PORT = ["--dind-port=8000"]
SOCKET = Path("/var/run/docker.sock")


def passed(agent: Agent, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Run the suite in an agent, where nothing is skipped or fails; return what pytest printed."""
    code, output = agent.pytest("--dind", "-rA", *arguments, files={"test_it.py": SUITE}, env={**ENV, **(env or {})})
    assert code == 0, output
    assert len(re.findall("^PASSED ", output, re.MULTILINE)) == 3, output
    return output


def header(output: str) -> str:
    """What the header says of the transport."""
    found = re.search(r"; transport (.*?)(?:;.*)?$", output, re.MULTILINE)
    assert found, output
    return found[1]


def on_network(name: str) -> str:
    """What the header says where daemons join a network of the container that pytest runs in."""
    return f"tls (at their addresses on network {name}, which this container is on)"


def ours(host: docker.DockerClient, container: str) -> list[str]:
    """What is on the host engine that a process in a container has made, and does not outlive it."""
    found: Any = {"label": f"{CONTAINER}={container}"}
    made: list[Any] = [*host.containers.list(all=True, filters=found), *host.networks.list(filters=found)]
    made += [one for one in host.volumes.list(filters=found) if ROLE not in one.attrs["Labels"]]
    return [str(one.name) for one in made]


# -- in a container with the socket of the host engine: Jenkins with docker.sock mounted


@pytest.mark.once
def test_with_the_hosts_socket_daemons_join_our_network_and_see_what_is_mounted(
    host: docker.DockerClient, tmp_path: Path
) -> None:
    (tmp_path / "space in ü").mkdir()
    with host_socket_agent(host, SOCKET, tmp_path / "space in ü", at="/other/place") as agent:
        agent.container.reload()
        (network,) = agent.container.attrs["NetworkSettings"]["Networks"]
        said = header(passed(agent, "-n2", env={"BUILD_TAG": "jenkins-folder/job-7"}))
        assert said == on_network(network)
        # Base temp on a mount of ours is where it is in the agent, for inner containers, too.
        code, output = agent.pytest(
            "--dind",
            "--basetemp=/other/place/temp",
            files={"test_it.py": BIND},
            env=ENV,
        )
        assert code == 0, output
        wait_until(lambda: not ours(host, str(agent.container.id)), lambda: f"{ours(host, str(agent.container.id))}")


#: A container mounts what a test has written, and the other way round.
BIND = f"""
def test_it(dind_client, tmp_path, dind_daemon):
    dind_daemon.load("{BUSYBOX}")
    (tmp_path / "from").write_text("the test")
    script = "cat /t/from; echo the container >/t/back"
    out = dind_client.containers.run("{BUSYBOX}", ["sh", "-c", script], volumes=[f"{{tmp_path}}:/t"], remove=True)
    assert out == b"the test"
    assert (tmp_path / "back").read_text() == "the container\\n"
"""


#: One daemon, and all that it is dialled for.
ONE = f"""
import urllib.request

def test_it(dind_daemon, dind_client):
    dind_daemon.load("{BUSYBOX}")
    script = "mkdir /w; echo served >/w/index.html; httpd -p 80 -h /w; echo up; sleep 60"
    one = dind_client.containers.run("{BUSYBOX}", ["sh", "-c", script], ports={{"80/tcp": 8000}}, detach=True)
    next(one.logs(stream=True))
    url = "http://%s:%d/index.html" % dind_daemon.address(one, 80)
    assert urllib.request.urlopen(url, timeout=10).read() == b"served\\n"
    _, routes = dind_daemon.exec(["cat", "/proc/net/route"])
    assert "00000000" in [line.split()[1] for line in routes.splitlines()], "without a default route it pulls nothing"
"""


@pytest.mark.once
def test_so_they_do_whatever_networks_the_container_is_on_and_whoever_the_user_is(host: docker.DockerClient) -> None:
    on_host = "tls (at ports of 127.0.0.1)"
    with ExitStack() as stack:

        def headed(**options: Any) -> tuple[Agent, str]:
            agent = stack.enter_context(host_socket_agent(host, SOCKET, **options))
            agent.run("true", files={"test_it.py": ONE})
            # What is put into a container is root's alone.
            agent.container.exec_run(["chmod", "-R", "a+rX", PACKAGE, agent.workspace], user="root")
            ended = agent.pytest("--dind", env=ENV)
            assert ended.code == 0, ended.output
            return agent, header(ended.output)

        assert headed(network_mode="bridge")[1] == on_network("bridge")
        sharing, said = headed(network_mode="host")
        assert said == on_host
        # As Jenkins' docker.inside has it: a user whom nobody knows here, and who has no home.
        nobody = {"user": "1000:1000", "group_add": [str(SOCKET.stat().st_gid)], "environment": {"HOME": "/"}}
        assert headed(network_mode=f"container:{sharing.container.id}", **nobody)[1] == on_host


@pytest.mark.once
def test_of_two_networks_they_join_the_one_that_leads_outside(host: docker.DockerClient) -> None:
    with host_socket_agent(host, SOCKET) as agent:
        outside = agent.container.attrs["HostConfig"]["NetworkMode"]
        internal = host.networks.create(f"a-{outside}", internal=True)  # the first by name
        try:
            internal.connect(agent.container)
            code, output = agent.pytest("--dind", files={"test_it.py": ONE}, env=ENV)
            assert code == 0, output
            assert header(output) == on_network(outside)
        finally:
            internal.disconnect(agent.container, force=True)
            internal.remove()


@pytest.mark.once
def test_on_no_network_of_the_engines_it_says_what_to_do(host: docker.DockerClient) -> None:
    with host_socket_agent(host, SOCKET, network_mode="none", cap_add=["NET_ADMIN"]) as agent:
        ended = agent.pytest("--dind", files={"test_it.py": ONE}, env=ENV)
        assert "on no network of the host engine (its mode is none), and so daemons" in ended.output
        # As Kubernetes does with its pods.
        for command in ("link add eth0 type veth peer eth1", "addr add 10.213.9.2/24 dev eth0", "link set eth0 up"):
            assert agent.run("ip", *command.split()).code == 0, command
        ended = agent.pytest("--dind", env=ENV)
        assert "on no network of the host engine but on one that somebody else made, as Kubernetes" in ended.output
        assert "with DOCKER_HOST=tcp://localhost:2376, or the pod with hostNetwork." in ended.output


@pytest.mark.once
def test_what_cannot_be_done_in_a_container_is_refused_with_the_reason(host: docker.DockerClient) -> None:
    with host_socket_agent(host, SOCKET) as agent:
        for argument, sentence in [
            ("--dind-mount=/opt", "--dind-mount=/opt: the host engine does not see this path, as it is of another"),
            ("--dind-transport=unix", "--dind-transport=unix: the host engine at unix:///var/run/docker.sock does not"),
            ("--dind-network=bridge", "which is not on that network but on pytest-dind-suite-"),
            (
                "--dind-network=none",
                "--dind-network=none: daemons are reached over TLS here, and with this network they",
            ),
        ]:
            code, output = agent.pytest("--dind", argument, files={"test_it.py": SUITE}, env=ENV)
            assert code != 0, argument
            assert sentence in output, output
            assert "Traceback" not in output
        assert not ours(host, str(agent.container.id))


@pytest.mark.once
def test_when_the_container_is_killed_nothing_is_left_of_what_its_process_made(host: docker.DockerClient) -> None:
    engine = HostEngine(host, "unix:///var/run/docker.sock")
    with host_socket_agent(host, SOCKET) as agent:
        waits = "def test_it(dind_client):\n    print('it runs', flush=True)\n    import time; time.sleep(600)\n"
        agent.container.put_archive(agent.workspace, archive({"test_waits.py": waits.encode()}))
        command = ["sh", "-c", "exec python3 -m pytest --dind -s test_waits.py >said 2>&1"]
        environment = {**ENV, "BUILD_TAG": "jenkins-job-8"}
        agent.container.exec_run(command, workdir=agent.workspace, environment=environment, detach=True)
        wait_until(lambda: "it runs" in agent.run("cat", "said").output, lambda: agent.run("cat", "said").output)
        identity = str(agent.container.id)
        (daemon,) = host.containers.list(filters={"label": f"{CONTAINER}={identity}"})
        assert daemon.labels[BUILD] == "jenkins-job-8"
        # As what a crashed engine leaves: a volume whose owner is dead, in a container that is no more.
        left = host.volumes.create(labels=daemon.labels)
        sweep(engine)
        assert left.name in ours(host, identity), "its container still runs"
        agent.container.kill("SIGKILL")
        # Nothing but that volume, which another run may have swept by now.
        wait_until(lambda: {*ours(host, identity)} <= {left.name}, lambda: f"still there: {ours(host, identity)}")
        sweep(engine)
        assert ours(host, identity) == []


def test_an_engine_that_nobody_uses_any_more_is_freed() -> None:
    engine = HostEngine(docker.DockerClient("unix:///nowhere", version="1.41"), "unix:///nowhere")
    assert around(engine) is around(engine)
    engine.close()
    known = weakref.ref(engine)
    del engine
    gc.collect()
    assert known() is None


# -- beside, behind and in an engine of its own


@pytest.mark.once
def test_beside_a_sidecar_daemons_are_reached_at_its_address(
    host: docker.DockerClient, beside: Sidecar, tmp_path: Path
) -> None:
    with beside.agent(host) as agent:
        said = header(passed(agent, "-n2", *PORT, env=NO_PORTS))
        assert said == "tls (at ports of docker, where the host engine is)"
    # From a machine that reaches the engine over TCP and TLS, and is in no container of it.
    (tmp_path / "test_it.py").write_text(SUITE)
    (tmp_path / "certificates").mkdir()
    environment = {**os.environ, **ENV, **NO_PORTS, **beside.environment(tmp_path / "certificates")}
    command = [sys.executable, "-m", "pytest", "--dind", *PORT, "-rA", "--rootdir", str(tmp_path), str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert header(ended.stdout).startswith("tls (at ports of 1")
    one_that_shares_its_socket_is_reached_by_its_name_or_refused_at_once(host, beside)


def one_that_shares_its_socket_is_reached_by_its_name_or_refused_at_once(
    host: docker.DockerClient, beside: Sidecar
) -> None:
    name = str(beside.container.id)[:12]
    with beside.agent_with_its_socket(host, beside.network) as agent:
        said = header(passed(agent, *PORT, env=NO_PORTS))
        assert said == f"tls (at ports of {name}, where the host engine is)"
    with beside.agent_with_its_socket(host, None) as agent:
        code, output = agent.pytest("--dind", files={"test_it.py": SUITE}, env=ENV)
        assert code == 4, output
        refusal = f"the host engine at unix:///shared/docker.sock is in another network, under the name of {name}, "
        assert refusal + "which is not known here" in output


#: Killed between the creation of a container and its start.
DIES = f"""
import os, signal
from pytest_dind.host import HostEngine
from pytest_dind.owner import Owner

engine = HostEngine.connect()
with Owner.of_process().watching(engine, "created", "/nowhere") as creating:
    creating()
    engine.create("created", {{"Image": "{BUSYBOX}"}})
    assert engine.container("created")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.once
def test_with_an_engine_in_the_same_container_and_behind_ssh(host: docker.DockerClient) -> None:
    with privileged_agent(host) as machine:
        assert header(passed(machine)) == "unix (the host engine is on this machine)"
        with ssh_agent(host, machine) as agent:
            env = ssh_environment(machine)
            said = header(passed(agent, *PORT, env=env | NO_PORTS))
            assert said == "tls (at ports of the host engine's 127.0.0.1, through ssh)"
            nothing_is_left_of_ssh(agent)
            assert agent.run("python3", "dies.py", files={"dies.py": DIES}, env=env).code == 137
            left = ["docker", "ps", "--all", "--quiet", "--filter", "name=created"]
            wait_until(lambda: not machine.run(*left).output, lambda: f"still there: {machine.run(*left).output}")
            wait_until(
                lambda: agent.run("pgrep", "-x", "ssh").code == 1, lambda: agent.run("pgrep", "-x", "-a", "ssh").output
            )
            code, output = agent.pytest("--dind", env=ENV | {"DOCKER_HOST": "ssh://nobody-there@127.0.0.1"})
            assert code == 4
            assert "no Docker engine is reached at ssh://nobody-there@127.0.0.1: ssh says: " in output

            what_ssh_carries_is_there_again_after_a_restart_and_stays_for_a_kept_daemon(agent, machine)
            an_owner_that_is_killed_takes_ssh_and_the_daemon_along(agent, machine)
            ctrl_c_is_not_for_ssh(agent, machine)
            many_logins_at_once_wait_for_their_turn(agent, machine)
            an_engine_behind_a_forwarder_is_refused(agent, machine)


def nothing_is_left_of_ssh(agent: Agent) -> None:
    directory = "/tmp/pytest-dind-0"
    assert agent.run("ls", f"{directory}/tunnels", f"{directory}/daemons").output == (
        f"{directory}/daemons:\n\n{directory}/tunnels:\n"
    )
    assert agent.run("pgrep", "-a", "ssh").output == ""


def what_ssh_carries_is_there_again_after_a_restart_and_stays_for_a_kept_daemon(agent: Agent, machine: Agent) -> None:
    script = f"""if 1:
        from pytest_dind import Daemon, DaemonStateError, Settings

        daemon = Daemon.start(Settings(image="{IMAGE}", port=(8000,)))
        ports = (daemon.engine.container(daemon.name) or {{}})["NetworkSettings"]["Ports"]
        assert {{one["HostIp"] for bound in ports.values() for one in bound or ()}} == {{"127.0.0.1"}}, ports
        before = daemon.host, daemon._life.transport.published(8000)
        assert daemon.client.ping()
        daemon.restart()
        assert (daemon.host, daemon._life.transport.published(8000)) == before
        assert daemon.client.ping()
        try:
            daemon.nest()
        except DaemonStateError as error:
            assert f"a daemon inside {{daemon.name}} cannot be reached from here" in str(error)
        else:
            raise AssertionError("it was started, though nobody here reaches it")
        daemon.keep()
        print("kept:", daemon.name, daemon.export)
    """
    code, output = agent.run("python3", "-c", script, env=ssh_environment(machine))
    assert code == 0, output
    kept = re.search("^kept: (\\S+) (.*)$", output, re.MULTILINE)
    assert kept, output
    name, export = kept.groups()
    ended = agent.run("sh", "-c", f"export {export}; docker info --format '{{{{.Name}}}}'")
    assert ended.code == 0, ended.output
    assert machine.run("docker", "rm", "-fv", name).code == 0
    wait_until(lambda: not agent.run("pgrep", "ssh").output, lambda: agent.run("pgrep", "-a", "ssh").output)
    agent.run("rm", "-r", "/tmp/pytest-dind-0")


def an_owner_that_is_killed_takes_ssh_and_the_daemon_along(agent: Agent, machine: Agent) -> None:
    script = f"""if 1:
        import os, signal
        from pytest_dind import Daemon, Settings

        daemon = Daemon.start(Settings(image="{IMAGE}"))
        assert daemon.client.ping()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert agent.run("python3", "-c", script, env=ssh_environment(machine)).code == 137
    wait_until(lambda: not agent.run("pgrep", "ssh").output, lambda: agent.run("pgrep", "-a", "ssh").output)
    wait_until(lambda: not machine.run("docker", "ps", "-aq").output, lambda: machine.run("docker", "ps", "-a").output)
    agent.run("rm", "-r", "/tmp/pytest-dind-0")


def ctrl_c_is_not_for_ssh(agent: Agent, machine: Agent) -> None:
    waits = """
import os, signal, time

def test_it(dind_client):
    os.killpg(0, signal.SIGINT)
    time.sleep(60)
"""
    code, output = agent.pytest(
        "--dind", "test_waits.py", files={"test_waits.py": waits}, env=ENV | ssh_environment(machine)
    )
    assert code == 2, output
    assert "KeyboardInterrupt" in output
    assert "left on the host engine" not in output
    assert machine.run("docker", "ps", "-aq").output == ""
    nothing_is_left_of_ssh(agent)


def many_logins_at_once_wait_for_their_turn(agent: Agent, machine: Agent) -> None:
    assert machine.run("/usr/sbin/sshd", "-p", "2222", "-o", "MaxStartups=3:100:3").code == 0
    script = f"""if 1:
        from concurrent.futures import ThreadPoolExecutor
        from pytest_dind.tunnel import Tunnel

        with ThreadPoolExecutor(12) as pool:
            for tunnel in pool.map(Tunnel, ["ssh://root@{machine.address}:2222"] * 12):
                tunnel.close()
    """
    code, output = agent.run("python3", "-c", script)
    assert code == 0, output


def an_engine_behind_a_forwarder_is_refused(agent: Agent, machine: Agent) -> None:
    forwards = ["-L", f"2375:{SOCKET}", "-L", f"/root/engine.sock:{SOCKET}"]
    ssh = ["ssh", "-f", "-N", "-o", "ExitOnForwardFailure=yes", *forwards, f"root@{machine.address}"]
    assert agent.run(*ssh).code == 0
    name = str(machine.container.id)[:12]
    for address, sentence in [
        (
            "unix:///root/engine.sock",
            f"the socket of the host engine at unix:///root/engine.sock leads to another machine, {name}, ",
        ),
        ("localhost:2375", " serves on the host engine at tcp://localhost:2375, but tcp://127.0.0.1:"),
    ]:
        begin = time.monotonic()
        code, output = agent.pytest("--dind", files={"test_it.py": SUITE}, env=ENV | {"DOCKER_HOST": address})
        assert code == 4, output
        assert sentence in output, output
        assert output.count(sentence) == 1, output
        assert time.monotonic() - begin < 30, "the limit for a slow machine is 120 s"
    assert machine.run("docker", "ps", "-aq").output == ""
