"""Caveats: each applies to what it is about and to nothing else, is said once, and ends the run only when asked to."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest

import pytest_dind
from pytest_dind import Daemon, Settings
from pytest_dind.caveats import ARTICLE, CAVEATS, IDS, applying, how_taken
from pytest_dind.container import BaseTemp
from pytest_dind.facts import Facts
from pytest_dind.gathering import gather
from pytest_dind.host import HostEngine
from pytest_dind.labels import HOST
from pytest_dind.procfs import hierarchies, routed_interfaces
from pytest_dind.surroundings import Surroundings

from .agents import Agent, host_socket_agent, privileged_agent, sidecar_agent, started_agent
from .conftest import IMAGE, InnerRun, usage_error, wait_until

pytestmark = pytest.mark.once

V1 = frozenset({"cpu", "memory", "devices", "systemd"})
#: For each caveat: facts that it applies to, what it says of them, and facts that only look like it.
CASES: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("siblings", {"own_container": "job-7"}, "pytest runs in its container job-7", {"in_container": True}),
    ("bind-paths", {"unseen_paths": ("/tmp/a", "/src")}, "/tmp/a, /src", {"own_container": "job-7"}),
    (
        "published-ports",
        {"addresses_reached": False, "engine": "ssh://build@far"},
        "the engine is ssh://build@far",
        {"addresses_reached": False, "engine": "ssh://build@far", "ports": (8080,)},
    ),
    ("socket-group", {"socket_mode": 0o666}, "its mode is 0666", {"socket_mode": 0o660}),
    (
        "shared-cache",
        {"lost_state": "/root/.local/state/pytest-dind is on no mount"},
        "/root/.local/state/pytest-dind is on no mount",
        {"in_container": True},
    ),
    (
        "shared-names",
        {"own_container": "job-7", "preloaded_names": ("app:1", "db:2")},
        "app:1, db:2",
        {"preloaded_names": ("app:1",)},
    ),
    (
        "root-owned-files",
        {"user": 1000, "workspace_owner": 1000, "mounts": ("--dind-mount=/src",)},
        "user 1000, --dind-mount=/src",
        {"user": 1000, "workspace_owner": 1000},
    ),
    (
        "root-owned-files",
        {"workspace_owner": 1000, "in_container": True},
        "pytest runs as root in the workspace of user 1000",
        {"workspace_owner": 1000},
    ),
    ("root-owned-files", {"workspace_owner": 7, "ci": "Jenkins"}, "the workspace of user 7", {"ci": "Jenkins"}),
    ("aborted-builds", {"ci": "GitLab", "keep": "failed"}, "--dind-keep=failed in GitLab", {"keep": "failed"}),
    ("data-root", {"data_on_overlay": "/var/lib/docker of the host engine"}, "/var/lib/docker of the host engine", {}),
    (
        "two-layers",
        {"engine_in_container": True, "engine": "tcp://docker:2376"},
        "the engine is tcp://docker:2376",
        {"in_container": True},
    ),
    (
        "plain-tcp",
        {"plain_tcp": True, "engine": "tcp://docker:2375"},
        "the engine is tcp://docker:2375",
        {"engine": "tcp://docker:2375"},
    ),
    (
        "inotify",
        {"inotify_instances": 64},
        "max_user_instances is 64, and this run may want 128",
        {"inotify_instances": 128, "workers": 16},
    ),
    (
        "inotify",
        {"inotify_instances": 128, "workers": 17},
        "max_user_instances is 128, and this run may want 136",
        {"inotify_instances": 1024, "workers": 128},
    ),
    ("inotify", {"inotify_watches": 8191}, "fs.inotify.max_user_watches is 8191, and 8192", {"inotify_watches": 8192}),
    ("mtu", {"mtu": 1450}, "its MTU is 1450", {"mtu": 1500}),
    (
        "address-pools",
        {"inner_subnets": ("10.1.0.1/16", "fd00::/64"), "outer_subnets": ("10.0.0.0/8", "172.17.0.0/16")},
        "10.1.0.1/16 inside and 10.0.0.0/8 outside",
        {"inner_subnets": ("10.1.0.1/16",), "outer_subnets": ("10.2.0.0/16", "::/0")},
    ),
    (
        "apparmor",
        {"apparmor": True, "images": ("docker:28-dind", "mine/dind:1")},
        "AppArmor is on, and the image is mine/dind:1",
        {"apparmor": True, "images": ("docker:dind", "mirror.example/library/docker@sha256:0", "docker")},
    ),
    ("apparmor", {"apparmor": True, "images": ("my-docker:1",)}, "my-docker:1", {"images": ("my-docker:1",)}),
    (
        "cgroup-hierarchies",
        {"cgroup_v1_hierarchies": V1 - {"systemd", "devices"}},
        "there is none for devices and systemd",
        {"cgroup_v1_hierarchies": V1},
    ),
    ("storage-driver", {"engine_driver": "vfs"}, "the host engine uses vfs", {"engine_driver": "btrfs"}),
    ("storage-driver", {"storage_driver": "native"}, "are told to use native", {"storage_driver": "overlay2"}),
    ("old-engine", {"engine_version": "20.10.24+dfsg1"}, "Docker 20.10.24+dfsg1", {"engine_version": "23.0.0"}),
    (
        "kubernetes",
        {"in_kubernetes": True, "unlimited": ("--dind-memory", "--dind-cpus")},
        "no limit is given with --dind-memory and --dind-cpus",
        {"in_kubernetes": True},
    ),
]


# -- each by itself


def test_there_are_cases_for_every_caveat() -> None:
    assert {case[0] for case in CASES} == set(IDS)
    assert len(set(IDS)) == len(IDS)


def test_none_applies_to_a_plain_machine() -> None:
    assert list(applying(Facts())) == []
    usual = Facts(inotify_instances=128, inotify_watches=65536, cgroup_v1_hierarchies=V1, engine_version="26.1.5")
    assert list(applying(dataclasses.replace(usual, mtu=1500, unlimited=("--dind-memory",), socket_mode=0o660))) == []


@pytest.mark.parametrize(("name", "given", "found", "other"), CASES, ids=[f"{one[0]}-{one[2]}" for one in CASES])
def test_it_applies_to_what_it_is_about_and_to_nothing_that_only_looks_like_it(
    name: str, given: dict[str, Any], found: str, other: dict[str, Any]
) -> None:
    said = {caveat.id: said for caveat, said in applying(Facts(**given))}
    assert found in said[name]
    assert name not in {caveat.id for caveat, _ in applying(Facts(**other))}


@pytest.mark.parametrize("caveat", CAVEATS, ids=IDS)
def test_its_text_says_what_was_found_what_to_do_how_to_accept_it_and_where_to_read_more(caveat: Any) -> None:
    text = caveat.text("FOUND")
    assert text.startswith(f"{caveat.id}: {caveat.what} Here: FOUND. {caveat.cure}")
    assert f"--dind-caveats={caveat.id}=ignore" in text
    assert text.count(ARTICLE) == 1
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", caveat.id)
    assert "|" not in caveat.what + caveat.cure, "they are cells of a table"


def test_what_is_said_of_one_counts_more_than_what_is_said_of_all_and_the_last_word_counts() -> None:
    assert how_taken((), "mtu") == "warn"
    assert how_taken(("error",), "mtu") == "error"
    assert how_taken(("mtu=ignore", "error"), "mtu") == "ignore"
    assert how_taken(("mtu=ignore", "error"), "inotify") == "error"
    assert how_taken(("mtu=ignore", "mtu=warn", "error", "ignore"), "mtu") == "warn"
    assert how_taken(("error", "ignore"), "inotify") == "ignore"


def test_an_unknown_id_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        pytest_dind.SettingsError, match=r"'mut=ignore' names no caveat; there are siblings, bind-paths, "
    ):
        Settings(caveats=("mut=ignore",))


# -- the facts, of real engines


def ids_of(engine: HostEngine, *, base_temp: Path | None = None, **settings: Any) -> dict[str, str]:
    """The caveats that apply to a run of this process on an engine, with what was found."""
    facts = gather(
        Surroundings.of(engine, {}),
        [Settings(**settings)],
        base_temp=BaseTemp(base_temp, base_temp) if base_temp else None,
        project="/",
        workers=1,
    )
    return {caveat.id: found for caveat, found in applying(facts)}


@pytest.fixture
def of_machine(host: docker.DockerClient, host_socket: Path) -> HostEngine:
    return HostEngine(host, f"unix://{host_socket}")


def test_what_settings_say_makes_caveats_on_any_machine(of_machine: HostEngine, host: docker.DockerClient) -> None:
    before = ids_of(of_machine)
    network: Any = host.networks.list(names=["bridge"])[0]
    subnet = network.attrs["IPAM"]["Config"][0]["Subnet"]
    config = {"data-root": "/data", "default-address-pools": [{"base": subnet, "size": 24}, {"base": "no address"}]}
    found = ids_of(of_machine, daemon_arg=("--storage-driver=vfs", f"--bip={subnet}"), config=config)
    assert {name: said for name, said in found.items() if name not in before} == {
        "address-pools": f"{subnet} inside and {subnet} outside, {subnet} inside and {subnet} outside",
        "data-root": "--data-root=/data is in no volume",
        "storage-driver": "the daemons are told to use vfs",
    }
    same = {"default-address-pool": "no list", "data-root": "/var/lib/docker/mine"}
    assert ids_of(of_machine, daemon_arg=("--default-address-pool=base=198.18.0.0/16,size=24",), config=same) == before


def test_of_an_engine_in_a_container_paths_and_addresses_are_not_ours(
    daemon: Daemon, tmp_path: Path, of_machine: HostEngine
) -> None:
    own = set(ids_of(of_machine, base_temp=tmp_path))
    found = ids_of(HostEngine(daemon.client, daemon.host), base_temp=tmp_path)
    assert found["bind-paths"] == str(tmp_path)
    assert found["two-layers"] == found["published-ports"] == f"the engine is {daemon.host}"
    assert set(found) - own == {"bind-paths", "two-layers", "published-ports"}


def test_a_network_with_small_packets_is_known_by_its_name(daemon: Daemon) -> None:
    network = daemon.client.networks.create("small", options={"com.docker.network.driver.mtu": "1400"})
    engine = HostEngine(daemon.client, daemon.host)
    assert ids_of(engine, network="small")["mtu"] == "its MTU is 1400"
    assert "mtu" not in ids_of(engine)
    network.remove()


def test_a_socket_that_everybody_may_use_is_seen(host: docker.DockerClient, short_tmp: Path) -> None:
    with Daemon.start(Settings(image=IMAGE)) as daemon:
        engine = HostEngine(daemon.client, daemon.host)
        assert "socket-group" not in ids_of(engine)
        Path(daemon.host.removeprefix("unix://")).chmod(0o666)
        assert ids_of(engine)["socket-group"] == "its mode is 0666"


def test_an_engine_without_tls_is_seen(host: docker.DockerClient) -> None:
    serve = ["dockerd", "--host=tcp://0.0.0.0:2375", "--tls=false", "--iptables=false", "--bridge=none"]
    options = {"entrypoint": ["env"], "privileged": True, "volumes": ["/var/lib/docker"]}
    with started_agent(host, IMAGE, "/", **options) as machine:
        machine.container.exec_run(serve, detach=True)
        address = f"tcp://{machine.address}:2375"
        with closing(docker.DockerClient(address, version="1.41")) as client:
            wait_until(lambda: answers(client), lambda: f"nobody answers at {address}")
            assert ids_of(HostEngine(client, address))["plain-tcp"] == f"the engine is {address}"


def answers(client: docker.DockerClient) -> bool:
    try:
        return bool(client.ping())
    except OSError:  # docker-py's errors are
        return False


def test_an_engine_of_copying_drivers_is_known_by_its_own_words() -> None:
    with Daemon.start(Settings(image=IMAGE, daemon_arg=("--storage-driver=vfs",))) as daemon:
        found = ids_of(HostEngine(daemon.client, daemon.host))
        assert found["storage-driver"] == "the host engine uses vfs"


def test_the_kernels_hierarchies_and_routes_are_read() -> None:
    mounted = {line.split()[0] for line in Path("/proc/cgroups").read_text().splitlines()[1:] if line.split()[1] != "0"}
    assert mounted <= hierarchies() | {"misc"}, "with cgroup v2 there are none"
    assert {path.name for path in Path("/sys/class/net").iterdir()} >= routed_interfaces()


# -- in runs

ASKS_FOR_NOTHING = "def test_one(): pass\ndef test_two(): pass"


def warned(output: str) -> list[str]:
    """The ids of all warnings in pytest's output, in order, as often as they are there."""
    return re.findall(r"DindCaveatWarning: ([a-z-]+): ", output)


@pytest.fixture
def jenkins(inner: InnerRun, monkeypatch: pytest.MonkeyPatch) -> InnerRun:
    """An inner run to which at least one caveat applies if it keeps daemons."""
    monkeypatch.setenv("BUILD_TAG", "jenkins-app-1")
    inner.pytester.makepyfile(ASKS_FOR_NOTHING)
    return inner


def test_on_this_machine_there_is_none(inner: InnerRun, host: docker.DockerClient) -> None:
    inner.pytester.makepyfile(ASKS_FOR_NOTHING)
    result = inner.run("--dind", "-p", "no:xdist")
    result.assert_outcomes(passed=2)
    # An image of one's own, where AppArmor is on.
    assert set(warned(result.stdout.str())) <= {"apparmor"}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_it_is_said_once_in_the_summary_of_warnings_whatever_the_number_of_workers(
    workers: str, jenkins: InnerRun
) -> None:
    result = jenkins.run("--dind", "--dind-keep=failed", "-n", workers)
    result.assert_outcomes(passed=2, warnings=len(warned(result.stdout.str())))
    assert warned(result.stdout.str()).count("aborted-builds") == 1
    result.stdout.fnmatch_lines(["*DindCaveatWarning: aborted-builds: *Here: --dind-keep=failed in Jenkins. Leave *"])


@pytest.mark.parametrize(
    "without",
    [
        ["--dind-caveats=ignore"],
        ["--dind-caveats=error", "--dind-caveats=aborted-builds=ignore", "--dind-caveats=apparmor=ignore"],
        ["-W", "ignore::pytest_dind.DindCaveatWarning"],
        ["-W", "ignore::pytest.PytestWarning"],
        ["--dind-keep=never", "--dind-caveats=apparmor=ignore", "-W", "error"],
    ],
    ids=lambda without: without[-1],
)
def test_who_knows_it_does_not_hear_of_it(without: Sequence[str], jenkins: InnerRun) -> None:
    result = jenkins.run("--dind", "--dind-keep=failed", "-p", "no:xdist", *without)
    result.assert_outcomes(passed=2)
    assert warned(result.stdout.str()) == []


@pytest.mark.parametrize(
    "strict",
    [["--dind-caveats=error"], ["-W", "error::pytest_dind.DindCaveatWarning"], ["--dind-caveats=error", "-n", "2"]],
    ids=" ".join,
)
def test_asked_to_it_ends_the_run_before_its_first_test_and_names_all_that_apply(
    strict: Sequence[str], jenkins: InnerRun
) -> None:
    result = jenkins.run("--dind", "--dind-keep=failed", "--dind-daemon-arg=--storage-driver=vfs", *strict)
    usage_error(
        result,
        "pytest-dind: caveats apply that this run is not to be started with:",
        "aborted-builds: A daemon that is kept outlives its build",
        "storage-driver: This storage driver copies every layer in full",
    )
    assert "passed" not in result.stdout.str()


def test_with_the_daemon_in_the_environment_it_is_said_once_too(jenkins: InnerRun) -> None:
    jenkins.pytester.makeini("[pytest]\ndind_caveats =\n  apparmor=ignore\n  storage-driver=ignore")
    result = jenkins.run("--dind", "--dind-environ", "--dind-keep=failed", "-p", "no:xdist")
    result.assert_outcomes(passed=2, warnings=1)
    assert warned(result.stdout.str()) == ["aborted-builds"]


# -- where pipelines run

#: Prints the ids of the caveats that apply.
PROBE = """
from pytest_dind import Settings
from pytest_dind.caveats import applying
from pytest_dind.container import BaseTemp
from pytest_dind.gathering import gather
from pytest_dind.host import HostEngine
from pytest_dind.surroundings import Surroundings
from pathlib import Path

here = BaseTemp(Path("/tmp"), None)
facts = gather(Surroundings.of(HostEngine.connect()), [Settings()], base_temp=here, project="/", workers=1)
print(*(caveat.id for caveat, _ in applying(facts)))
"""


def probe(agent: Agent) -> set[str]:
    ended = agent.run("python3", "probe.py", files={"probe.py": PROBE})
    assert ended.code == 0, ended.output
    return set(ended.output.split())


def test_in_a_container_with_the_hosts_socket_each_is_said_once_and_not_where_it_was_heeded(
    host: docker.DockerClient, host_socket: Path
) -> None:
    with host_socket_agent(host, host_socket) as agent:
        arguments = ("--dind", f"--dind-image={IMAGE}", "--dind-caveats=apparmor=ignore", "-n", "2")
        ended = agent.pytest(*arguments, files={"test_it.py": ASKS_FOR_NOTHING})
        assert ended.code == 0, ended.output
        assert warned(ended.output) == ["siblings", "bind-paths", "shared-cache"], ended.output
        assert f"in its container {agent.container.name}." in ended.output

        heeded = {"XDG_STATE_HOME": f"{agent.workspace}/state", "XDG_CACHE_HOME": f"{agent.workspace}/cache"}
        ended = agent.pytest(*arguments, "--basetemp=temp", env=heeded)
        assert warned(ended.output) == ["siblings"], ended.output


def test_with_a_dockerd_in_the_same_container_there_are_two_layers_and_nothing_else(host: docker.DockerClient) -> None:
    with privileged_agent(host, images=()) as agent:
        assert probe(agent) == {"two-layers"}


def test_beside_a_sidecar_neither_paths_nor_ports_are_shared(host: docker.DockerClient) -> None:
    with sidecar_agent(host, images=()) as agent:
        assert probe(agent) == {"two-layers", "bind-paths", "published-ports"}
        # Of a job whose home is another; it may well be another agent's.
        assert agent.run("docker", "volume", "create", "--label", f"{HOST}=0123456789ab").code == 0
        assert probe(agent) == {"two-layers", "bind-paths", "published-ports", "shared-cache"}
