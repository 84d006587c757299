"""pytest where pipelines run it: in containers with the host's socket, beside a docker:dind, or with an own dockerd."""

from __future__ import annotations

import io
import os
import secrets
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NamedTuple

import docker
import pytest
from docker.models.containers import Container
from docker.models.networks import Network
from docker.models.volumes import Volume

import pytest_dind
from pytest_dind.host import HostEngine

from .conftest import BUSYBOX, IMAGE, OFFICIAL, wait_until

#: The image that agents are made of; see `make test`.
AGENT = os.environ.get("PYTEST_DIND_TEST_AGENT_IMAGE", "")
#: On everything that is made here, so that whoever finds some of it left knows whose it was.
LABEL = "pytest-dind-suite"
#: Seconds after which an agent ends by itself, if the suite was killed.
LIFETIME = 600
#: Where the package lies in an agent.
PACKAGE = "/opt/pytest-dind"
#: Where the workspace is mounted in an agent, unless it is at the same path as on the host.
WORKSPACE = "/workspace"
SOCKET = "/var/run/docker.sock"
_DIND = Path(__file__).parent / "images" / "official" / "dind"


class Ended(NamedTuple):
    """What came of a command in an agent."""

    code: int
    output: str


@dataclass(frozen=True)
class Agent:
    """A container in which a pipeline's steps run."""

    container: Container
    #: In the container.
    workspace: str

    def run(self, *command: str, files: Mapping[str, str] | None = None, env: Mapping[str, str] | None = None) -> Ended:
        """Run a command in the workspace, which gets the files first."""
        if files:
            self.container.put_archive(self.workspace, archive({name: text.encode() for name, text in files.items()}))
        ended: Any = self.container.exec_run(list(command), workdir=self.workspace, environment=dict(env or {}))
        return Ended(ended.exit_code, ended.output.decode(errors="replace"))

    def pytest(
        self, *arguments: str, files: Mapping[str, str] | None = None, env: Mapping[str, str] | None = None
    ) -> Ended:
        """Run pytest in the workspace, with this checkout's plugin."""
        return self.run("python3", "-m", "pytest", "-p", "no:cacheprovider", *arguments, files=files, env=env)

    def load(self, *images: str) -> None:
        """Give the engine in this container images of the host's; a second or so for every 100 MB."""
        load(self.container, images)

    @property
    def address(self) -> str:
        """Its address on its first network."""
        self.container.reload()
        networks = self.container.attrs["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])


# -- the four set-ups


@contextmanager
def host_socket_agent(
    host: docker.DockerClient,
    socket: Path,
    workspace: Path | None = None,
    at: str | None = None,
    **options: Any,
) -> Iterator[Agent]:
    """An agent with the host engine's socket, as Jenkins in a container is often given it, on a network of its own.

    :param workspace: A directory of this machine, mounted as the workspace; a named volume if there is none.
    :param at: Where in the agent that is; its own path, if it has one, else /workspace.
    :param options: What docker-py's `containers.create` takes, to change it: `network`, `hostname`, ….
    """
    at = at or (str(workspace) if workspace else WORKSPACE)
    with ExitStack() as stack:
        source = str(workspace) if workspace else str(stack.enter_context(_volume(host)).name)
        mounts = {str(socket): {"bind": SOCKET}, source: {"bind": at}}
        if not {"network", "network_mode"} & set(options):
            options["network"] = stack.enter_context(_network(host)).name
        yield stack.enter_context(_agent(host, at, volumes=mounts, **options))


@dataclass(frozen=True)
class Sidecar:
    """A docker:dind beside an agent."""

    container: Container
    network: str
    #: The volume with the certificates.
    certificates: str

    def load(self, *images: str) -> None:
        """Give it images of the host's; a second or so for every 100 MB."""
        load(self.container, images)

    @contextmanager
    def agent(self, host: docker.DockerClient) -> Iterator[Agent]:
        """An agent that uses it as GitLab's and Jenkins' documentation have it."""
        env = {"DOCKER_HOST": "tcp://docker:2376", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/certs/client"}
        certificates = {self.certificates: {"bind": "/certs", "mode": "ro"}}
        with _agent(host, WORKSPACE, network=self.network, environment=env, volumes=certificates) as agent:
            yield agent

    @contextmanager
    def agent_with_its_socket(self, host: docker.DockerClient, network: str | None) -> Iterator[Agent]:
        """An agent that has its socket, out of a volume that both mount."""
        env = {"DOCKER_HOST": "unix:///shared/docker.sock"}
        shared = {self.certificates: {"bind": "/shared"}}
        with _agent(host, WORKSPACE, network=network, environment=env, volumes=shared) as agent:
            yield agent

    def environment(self, directory: Path) -> dict[str, str]:
        """Copy the client's certificates to a directory; return what a process on this machine needs to use it."""
        stream, _ = self.container.get_archive("/certs/client")
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member)
                if file and member.name.endswith(".pem"):
                    (directory / Path(member.name).name).write_bytes(file.read())
        self.container.reload()
        address = self.container.attrs["NetworkSettings"]["Networks"][self.network]["IPAddress"]
        return {
            "DOCKER_HOST": f"tcp://{address}:2376",
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": str(directory),
        }


@contextmanager
def sidecar(host: docker.DockerClient, images: Sequence[str] = (IMAGE, BUSYBOX)) -> Iterator[Sidecar]:
    """A docker:dind with the alias `docker` on a network of its own, started as its own entrypoint starts it.

    Its socket is in a volume, beside the certificates.

    :param images: What it has of the host's: what daemons need, at first.
    """
    with ExitStack() as stack:
        network = stack.enter_context(_network(host))
        certificates = stack.enter_context(_volume(host))
        aliases = {str(network.name): host.api.create_endpoint_config(aliases=["docker"])}
        container = stack.enter_context(
            _container(
                host,
                OFFICIAL,
                None,
                environment={"DOCKER_HOST": "unix:///certs/docker.sock"},
                privileged=True,
                network=network.name,
                networking_config=aliases,
                volumes={str(certificates.name): {"bind": "/certs"}},
            )
        )
        container.put_archive("/", archive(_keys()))
        container.start()
        # No exec while it starts: up to 27.5, docker:dind may die of that. https://github.com/docker-library/docker/issues/308
        wait_until(
            lambda: b"API listen on [::]:2376" in container.logs(),
            lambda: f"its engine does not serve:\n{container.logs().decode(errors='replace')}",
        )
        load(container, images)
        yield Sidecar(container, str(network.name), str(certificates.name))


@contextmanager
def sidecar_agent(host: docker.DockerClient, images: Sequence[str] = (IMAGE, BUSYBOX)) -> Iterator[Agent]:
    """An agent with a docker:dind of its own beside it; see `sidecar`."""
    with sidecar(host, images) as beside, beside.agent(host) as agent:
        yield agent


@contextmanager
def privileged_agent(host: docker.DockerClient, images: Sequence[str] = (IMAGE, BUSYBOX)) -> Iterator[Agent]:
    """An agent that runs a dockerd of its own.

    :param images: See `sidecar`.
    """
    with (
        _network(host) as network,
        # An overlay does not work on an overlay: its data is in a volume, as with docker:dind.
        _agent(
            host, WORKSPACE, privileged=True, cgroupns="private", network=network.name, volumes=["/var/lib/docker"]
        ) as agent,
    ):
        agent.container.put_archive("/", archive({"usr/local/bin/dind": _DIND.read_bytes()}))
        log = "/var/log/dockerd.log"
        agent.container.exec_run(["sh", "-c", f"exec sh /usr/local/bin/dind dockerd >{log} 2>&1"], detach=True)
        wait_until(
            lambda: agent.run("docker", "version").code == 0,
            lambda: f"its engine does not serve:\n{agent.run('cat', log).output}",
        )
        agent.load(*images)
        yield agent


@contextmanager
def ssh_agent(host: docker.DockerClient, machine: Agent) -> Iterator[Agent]:
    """An agent whose engine is that of another machine, a privileged agent, which it reaches with ssh."""
    with _agent(host, WORKSPACE, network=_network_of(machine.container)) as agent:
        _succeed(agent, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519")
        public = _succeed(agent, "cat", "/root/.ssh/id_ed25519.pub")
        machine.container.put_archive("/", archive({"root/.ssh/authorized_keys": public.encode()}))
        _succeed(machine, "mkdir", "-p", "/run/sshd")
        _succeed(machine, "/usr/sbin/sshd")
        config = b"StrictHostKeyChecking no\nLogLevel ERROR\n"
        agent.container.put_archive("/", archive({"root/.ssh/config": config}))
        yield Agent(agent.container, agent.workspace)


def ssh_environment(machine: Agent) -> dict[str, str]:
    """What an `ssh_agent` needs to use its engine."""
    return {"DOCKER_HOST": f"ssh://root@{machine.address}"}


@contextmanager
def started_agent(host: docker.DockerClient, image: str, workspace: str, **options: Any) -> Iterator[Agent]:
    """An agent of any image, and nothing in it that the options, docker-py's, do not say."""
    with _container(host, image, ["sleep", str(LIFETIME)], working_dir=workspace, **options) as container:
        container.start()
        yield Agent(container, workspace)


# -- what they are made of


def archive(files: Mapping[str, bytes]) -> bytes:
    """A tar with files, which are root's and for root only."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def package() -> bytes:
    """The package as an agent gets it: this checkout's modules, and what makes it a plugin, without a build."""
    sources = Path(pytest_dind.__file__).parent
    installed = distribution("pytest-dind")
    info = f"pytest_dind-{installed.version}.dist-info"
    files = {f"pytest_dind/{path.name}": path.read_bytes() for path in sources.iterdir() if path.is_file()}
    files |= {f"{info}/{name}": (installed.read_text(name) or "").encode() for name in ("METADATA", "entry_points.txt")}
    return archive({f"{PACKAGE.lstrip('/')}/{name}": content for name, content in files.items()})


def load(container: Container, images: Sequence[str]) -> None:
    """Bring images of the host engine's to the engine in a container."""
    if not images:
        return
    with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saving:
        loading = ["docker", "exec", "-i", str(container.id), "docker", "load", "--quiet"]
        subprocess.run(loading, stdin=saving.stdout, stdout=subprocess.DEVNULL, check=True)
    assert saving.returncode == 0


@contextmanager
def _agent(host: docker.DockerClient, workspace: str, **options: Any) -> Iterator[Agent]:
    if not AGENT:
        pytest.skip("there is no image of an agent here; .ci/setup --matrix makes it")
    options["environment"] = {"PYTHONPATH": PACKAGE, **options.get("environment", {})}
    with _container(host, AGENT, ["sleep", str(LIFETIME)], init=True, working_dir=workspace, **options) as container:
        container.put_archive("/", package())
        container.start()
        yield Agent(container, workspace)


@contextmanager
def _container(host: docker.DockerClient, image: str, command: list[str] | None, **options: Any) -> Iterator[Container]:
    labels = {LABEL: "agent"}
    made = host.containers.create(image, command, labels=labels, auto_remove=True, name=_name(), **options)
    try:
        yield made
    finally:
        HostEngine(host, "").remove_and_wait(str(made.id))


@contextmanager
def _network(host: docker.DockerClient) -> Iterator[Network]:
    network = host.networks.create(_name(), labels={LABEL: "agent"})
    try:
        yield network
    finally:
        network.reload()
        for left in network.containers:  # What an aborted run has not taken off yet would hold it.
            network.disconnect(left, force=True)
        network.remove()


@contextmanager
def _volume(host: docker.DockerClient) -> Iterator[Volume]:
    volume = host.volumes.create(_name(), labels={LABEL: "agent"})
    try:
        yield volume
    finally:
        volume.remove(force=True)


def _name() -> str:
    return f"pytest-dind-suite-{secrets.token_hex(6)}"


def _network_of(container: Container) -> str:
    container.reload()
    return str(next(iter(container.attrs["NetworkSettings"]["Networks"])))


def _keys() -> dict[str, bytes]:
    """Keys where the official entrypoint looks for them: its own, of RSA, take three seconds and more."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return {
        f"certs/{owner}/key.pem": ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        for owner in ("ca", "server", "client")
    }


def _succeed(agent: Agent, *command: str) -> str:
    ended = agent.run(*command)
    assert ended.code == 0, f"{command}: {ended.output}"
    return ended.output
