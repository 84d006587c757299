"""Where a process runs: as text for the strange places, and in real containers for those that pipelines use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from pytest_dind import Daemon
from pytest_dind.host import HostEngine
from pytest_dind.owncontainer import find_itself
from pytest_dind.procfs import Listener, Process, container_sign, mount_points, own_ids, upper_directory
from pytest_dind.route import reaches_addresses
from pytest_dind.surroundings import Ci, Surroundings, ci_system

from .agents import SOCKET, WORKSPACE, Agent, host_socket_agent, privileged_agent, sidecar_agent, ssh_agent
from .conftest import BUSYBOX

pytestmark = pytest.mark.once

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


# -- the CI system


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"BUILD_TAG": "jenkins-team/app/main-12"}, Ci("Jenkins", "jenkins-team/app/main-12")),
        ({"JENKINS_HOME": "/var/jenkins_home"}, Ci("Jenkins", "")),
        ({"JENKINS_URL": "https://ci.example/", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, Ci("Jenkins", "")),
        ({"GITLAB_CI": "true", "CI_JOB_ID": "77"}, Ci("GitLab", "77")),
        ({"GITHUB_ACTIONS": "true", "GITHUB_RUN_ID": "5"}, Ci("GitHub", "5")),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, Ci("Kubernetes", "")),
        ({"CI": "true", "BUILD_TAG": "v1.2"}, Ci("", "")),
    ],
)
def test_a_ci_system_is_known_by_its_variables(environ: Mapping[str, str], expected: Ci) -> None:
    assert ci_system(environ) == expected


# -- what the kernel's files say


def mount(root: str, path: str, kind: str = "ext4", options: str = "rw") -> str:
    return f"245 227 254:0 {root} {path} rw,relatime - {kind} /dev/vda {options}\n"


ROOT = mount("/", "/", "overlay", f"rw,lowerdir=/x/{C}/diff,upperdir=/var/lib/docker/overlay2/{A}/diff,workdir=/w")
#: What a container of each kind reads of itself, and which ids it may have by that.
PLACES = {
    "docker": (Process(ROOT + mount(f"/var/lib/docker/containers/{A}/hostname", "/etc/hostname")), [A]),
    "docker-data-of-its-own": (Process(mount(f"/@vol/containers/{A}/hosts", "/etc/hosts")), [A]),
    "podman": (
        Process(mount(f"/containers/overlay-containers/{A}/userdata/hostname", "/etc/hostname")),
        [A],
    ),
    "cgroup-v1-nested": (Process(cgroup=f"4:memory:/docker/{B}/docker/{A}\n0::/\n"), [A]),
    "systemd-cgroups": (Process(cgroup=f"0::/system.slice/docker-{A}.scope/user.slice\n"), [A]),
    "ecs": (Process(cgroup=f"9:cpu:/ecs/0123/{A}\n"), [A]),
    "kubernetes": (
        Process(
            mount("/var/lib/kubelet/pods/0-1-2/etc-hosts", "/etc/hosts")
            + mount(f"/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/{B}/hostname", "/etc/hostname"),
            cgroup=f"0::/kubepods/burstable/pod0-1/{A}\n",
        ),
        [A],
    ),
    # It shares the network of B: its cgroup tells.
    "network-of-another": (
        Process(mount(f"/d/containers/{B}/hostname", "/etc/hostname"), f"0::/docker/{A}\n", "b" * 12),
        [B, A],
    ),
    "buildkit": (Process(ROOT + mount("/tmp/hosts12", "/etc/hosts")), []),
    "container-of-lxc": (Process(mount("/", "/"), "0::/\n", "box", init_environ="PATH=/bin\0container=lxc\0"), []),
}


@pytest.mark.parametrize(("process", "ids"), PLACES.values(), ids=PLACES)
def test_a_container_is_known_by_its_files_and_so_are_its_ids(process: Process, ids: list[str]) -> None:
    assert container_sign(process, {})
    assert own_ids(process) == ids


def test_the_hostname_is_an_id_only_where_nothing_else_is_and_it_looks_like_one() -> None:
    assert own_ids(Process(hostname="0123456789ab")) == ["0123456789ab"]
    assert own_ids(Process(hostname="build-agent7")) == []
    known = Process(mount(f"/d/containers/{A}/hostname", "/etc/hostname"), hostname=A[:12])
    assert own_ids(known) == [A]


def test_a_machine_is_no_container_though_its_files_name_some() -> None:
    # A virtual machine made of an image; one that has bound what an engine keeps of its containers.
    machine = Process(
        mount("/", "/")
        + mount(f"/var/lib/docker/overlay2/{A}/merged", f"/var/lib/docker/overlay2/{A}/merged", "overlay"),
        cgroup="4:memory:/session/2671a6b334ef765c7aabe2121e443188\n0::/user.slice\n",
        hostname="vm",
        init_environ="HOME=/\0TERM=linux\0the_container=no\0",
        marks=frozenset({"/.dockerenv"}),
    )
    assert container_sign(machine, {"CI": "true"}) == ""
    assert own_ids(machine) == []


def test_kubernetes_is_known_by_its_variable() -> None:
    assert container_sign(Process(), {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == "KUBERNETES_SERVICE_HOST is set"


def test_mountinfo_is_read_with_its_optional_fields_and_escapes() -> None:
    text = "36 35 98:0 /a\\040b /mnt/c\\134d rw shared:1 master:2 - ext4 /dev/x rw,x=\\054\nbroken\n"
    (found,) = mount_points(text)
    assert (found.root, found.path, found.kind, found.options) == ("/a b", "/mnt/c\\d", "ext4", "rw,x=,")


def test_the_upper_directory_is_that_of_the_root_that_is_seen() -> None:
    assert upper_directory(mount("/", "/", "overlay", "upperdir=/hidden") + ROOT).endswith(f"/{A}/diff")
    assert upper_directory(mount("/", "/data", "overlay", "upperdir=/x")) == ""


# -- which of several containers it is, where the engine does not name their layers


class Known(HostEngine):
    """An engine that keeps its layers to itself, as with the containerd store."""

    def __init__(self, *containers: Mapping[str, Any]) -> None:
        self._containers = {one["Id"]: one for one in containers}
        self.api = self

    def container(self, container: str) -> Mapping[str, Any] | None:
        return self._containers.get(container)

    def containers(self) -> list[Mapping[str, Any]]:
        return list(self._containers.values())


def described(identity: str, network: str, *destinations: str, upper: str | None = None) -> dict[str, Any]:
    return {
        "Id": identity,
        "Name": f"/{identity[:3]}",
        "HostConfig": {"NetworkMode": network},
        "NetworkSettings": {
            "Networks": {"net": {"IPAddress": "10.1.1.2", "Gateway": "10.1.1.1", "NetworkID": "n"}}
            if ":" not in network
            else {}
        },
        "GraphDriver": {"Data": {"UpperDir": upper} if upper else None, "Name": "overlay2"},
        "Mounts": [{"Type": "bind", "Source": f"/srv{path}", "Destination": path} for path in destinations],
    }


def test_of_containers_that_share_a_network_it_is_the_one_whose_mounts_it_has() -> None:
    engine = Known(
        described(A, "net", "/a"),
        described(B, f"container:{A}", "/b"),
        described(C, f"container:{A}"),
    )
    shared = mount(f"/d/containers/{A}/hostname", "/etc/hostname")
    for points, expected in (("/a", A), ("/b", B), ("/else", C)):
        found = find_itself(engine, Process(shared + mount("/srv", points)))
        assert found is not None
        assert found.id == expected
        assert [network.address for network in found.networks] == ["10.1.1.2"]


def test_layers_with_paths_relative_to_the_engines_directory_are_known_too() -> None:
    engine = Known(described(A, "net", upper=f"/var/lib/docker/overlay2/{B}/diff"))
    files = mount(f"/d/containers/{A}/hostname", "/etc/hostname")
    assert find_itself(engine, Process(files + mount("/", "/", "overlay", f"rw,upperdir={B}/diff,workdir={B}/w")))
    assert not find_itself(engine, Process(files + mount("/", "/", "overlay", f"rw,upperdir={C}/diff,workdir={C}/w")))


# -- on a machine


def test_outside_of_a_container_the_engine_is_asked_for_nothing(tmp_path: Path) -> None:
    engine = HostEngine(docker.DockerClient("unix:///nowhere", version="1.41"), "unix:///nowhere")
    found = Surroundings.of(engine, {}, Process(mount("/", "/")))
    assert (found.container_sign, found.container, found.engine_is_beside) == ("", None, True)
    assert found.translate(tmp_path) == tmp_path.resolve()


def test_an_engine_behind_a_network_has_none_of_our_files(tmp_path: Path) -> None:
    for address in ("tcp://docker:2376", "ssh://build@example"):
        engine = HostEngine(docker.DockerClient("unix:///nowhere", version="1.41"), address)
        found = Surroundings.of(engine, {}, Process(mount("/", "/")))
        assert (found.engine_is_local, found.engine_is_beside, found.translate(tmp_path)) == (False, False, None)


def test_beside_an_engine_what_is_on_a_mount_may_outlive_our_container_and_what_is_in_memory_does_not(
    tmp_path: Path,
) -> None:
    engine = HostEngine(docker.DockerClient("unix:///nowhere", version="1.41"), "tcp://docker:2376")
    mounts = mount("/vol", str(tmp_path / "kept")) + mount("/", str(tmp_path / "memory"), "tmpfs")
    found = Surroundings.of(engine, {}, Process(ROOT + mounts))
    assert [found.is_on_a_mount(tmp_path / name) for name in ("kept/state", "memory/state", "else")] == [
        True,
        False,
        False,
    ]


def test_an_engine_in_a_container_is_told_from_the_machines_by_who_listens_on_its_socket(
    daemon: Daemon, tmp_path: Path
) -> None:
    found = Surroundings.of(HostEngine(daemon.client, daemon.host), {})
    assert found.engine_scheme == "unix"
    assert found.listener is not None
    assert found.listener.is_nested
    assert found.engine_is_in_container
    assert not found.engine_is_beside
    assert found.translate(tmp_path) is None


def test_addresses_are_reached_of_the_machines_own_engine_and_not_of_one_in_a_container_or_a_rootless_one(
    daemon: Daemon,
) -> None:
    engine = HostEngine(docker.DockerClient("unix:///nowhere", version="1.41"), "unix:///nowhere")
    machine = Surroundings.of(engine, {}, Process(mount("/", "/")))
    # The machine's own is asked for nothing, as it would take its time.
    assert reaches_addresses(replace(machine, listener=Listener(7, is_nested=False, program="dockerd")))
    vars(engine).update(version={}, info={"SecurityOptions": ["name=rootless"]})
    assert not reaches_addresses(replace(machine, listener=Listener(7, is_nested=False, program="dockerd", user=1000)))
    assert not reaches_addresses(Surroundings.of(HostEngine(daemon.client, daemon.host), {}))


def test_where_nobody_listens_there_is_no_listener(tmp_path: Path) -> None:
    assert Listener.at(str(tmp_path / "nobody.sock")) is None


# -- in containers

#: Prints what it finds; its arguments are paths to translate.
PROBE = """
import json, sys
from pytest_dind.host import HostEngine
from pytest_dind.surroundings import Surroundings

engine = HostEngine.connect()
found = Surroundings.of(engine)
own = found.container
print(json.dumps({
    "sign": found.container_sign,
    "id": own and own.id,
    "mode": own and own.network_mode,
    "networks": own and [[one.name, one.address, one.gateway, one.is_default_bridge] for one in own.networks],
    "volumes": own and [one.volume for one in own.mounts if one.volume],
    "engine": [found.engine_scheme, found.engine_is_local, found.engine_is_beside, found.engine_is_in_container],
    "kind": [found.engine_is_desktop, found.engine_is_podman, found.engine_is_rootless],
    "paths": [path and str(path) for path in map(found.translate, sys.argv[1:])],
}))
"""


def look(agent: Agent, *paths: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Have a process in an agent look around."""
    ended = agent.run("python3", "probe.py", *paths, files={"probe.py": PROBE}, env=env)
    assert ended.code == 0, ended.output
    found: dict[str, Any] = json.loads(ended.output)
    return found


def read_by_the_engine(host: docker.DockerClient, path: str) -> str:
    """What a container reads that mounts a directory of the engine's machine, in its file `here`."""
    mounts = [docker.types.Mount("/seen", path, type="bind", read_only=True)]
    printed: bytes = host.containers.run(BUSYBOX, ["cat", "/seen/here"], mounts=mounts, remove=True)
    return printed.decode()


def test_with_the_hosts_socket_it_knows_its_container_network_and_paths_whatever_its_hostname(
    host: docker.DockerClient, host_socket: Path, tmp_path: Path
) -> None:
    with host_socket_agent(
        host,
        host_socket,
        tmp_path,
        at=WORKSPACE,
        hostname="b" * 12,
        cgroupns="private",
        tmpfs={"/workspace/hidden": ""},
    ) as agent:
        agent.run("mkdir", "sub", files={"here": "in the workspace"})
        agent.run("ln", "-s", "/workspace/sub", "/to-sub")
        found = look(
            agent, WORKSPACE, "/workspace/sub/new", "/to-sub", "/workspace/hidden/x", "/workspaces", "/etc/hosts"
        )
        assert found["id"] == agent.container.id
        agent.container.reload()
        ((network, settings),) = agent.container.attrs["NetworkSettings"]["Networks"].items()
        assert found["networks"] == [[network, settings["IPAddress"], settings["Gateway"], False]]
        assert found["paths"] == [str(tmp_path), f"{tmp_path}/sub/new", f"{tmp_path}/sub", None, None, None]
        assert found["engine"] == ["unix", True, False, False]
        assert found["kind"] == [False, False, False]
        assert read_by_the_engine(host, found["paths"][0]) == "in the workspace"


def test_so_it_does_on_the_hosts_network_and_with_a_workspace_in_a_volume(
    host: docker.DockerClient, host_socket: Path
) -> None:
    with host_socket_agent(host, host_socket, network_mode="host", cgroupns="host") as agent:
        agent.run("true", files={"here": "in the volume"})
        found = look(agent, WORKSPACE, SOCKET)
        assert (found["id"], found["mode"], found["networks"]) == (agent.container.id, "host", [])
        assert len(found["volumes"]) == 1
        assert found["paths"][1] == str(host_socket)
        assert read_by_the_engine(host, found["paths"][0]) == "in the volume"


def test_a_container_that_shares_anothers_network_does_not_take_itself_for_that(
    host: docker.DockerClient, host_socket: Path, tmp_path: Path
) -> None:
    with (
        host_socket_agent(host, host_socket) as other,
        host_socket_agent(
            host, host_socket, tmp_path, network_mode=f"container:{other.container.id}", cgroupns="private"
        ) as agent,
    ):
        found = look(agent, str(tmp_path))
        assert (found["id"], found["paths"]) == (agent.container.id, [str(tmp_path)])
        assert [one[1] for one in found["networks"]] == [other.address]


def test_beside_a_sidecar_the_engine_does_not_know_its_container(host: docker.DockerClient) -> None:
    with sidecar_agent(host, images=()) as agent:
        found = look(agent, WORKSPACE, "/certs")
        assert found["sign"]
        assert (found["id"], found["paths"]) == (None, [None, None])
        assert found["engine"] == ["tcp", False, False, True]


def test_with_a_dockerd_in_the_same_container_paths_are_what_they_are_and_not_at_the_other_end_of_ssh(
    host: docker.DockerClient,
) -> None:
    with privileged_agent(host, images=()) as machine, ssh_agent(host, machine) as far:
        found = look(machine, WORKSPACE, "/etc/hosts")
        assert found["sign"]
        assert (found["id"], found["paths"]) == (None, [WORKSPACE, "/etc/hosts"])
        assert found["engine"] == ["unix", True, True, True]

        tunnel = f"/root/tunnel.sock:{SOCKET}"
        ended = far.run("ssh", "-f", "-N", "-o", "ExitOnForwardFailure=yes", "-L", tunnel, f"root@{machine.address}")
        assert ended.code == 0, ended.output
        found = look(far, WORKSPACE, env={"DOCKER_HOST": "unix:///root/tunnel.sock"})
        assert (found["id"], found["paths"]) == (None, [None])
        assert found["engine"] == ["unix", True, False, True]
