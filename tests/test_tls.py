"""The transport `tls`: who has the certificate is served at the one address there is, and nobody else anywhere."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from pytest_dind import (
    Daemon,
    DaemonStartError,
    DaemonStateError,
    HostEngineError,
    Settings,
    SettingsError,
    certificates,
)
from pytest_dind.certificates import Authority
from pytest_dind.host import HostEngine
from pytest_dind.locks import host_id
from pytest_dind.reach import OnNetwork, Published
from pytest_dind.route import Route, lead
from pytest_dind.sweep import sweep
from pytest_dind.tls import Tls
from pytest_dind.transport import UnixSocket

from .conftest import IMAGE, MATRIX, OFFICIAL, InnerRun, fetch, wait_until

pytestmark = [pytest.mark.usefixtures("nothing_is_left"), pytest.mark.once]

OTHERS = [image for image in dict.fromkeys([OFFICIAL, *MATRIX]) if image != IMAGE]
DOCKER_PY = "import docker; client = docker.from_env(); print(client.version()['Version']); client.close()"


@pytest.fixture(scope="module")
def over_tls(image: str) -> Iterator[Daemon]:
    """A daemon for tests that only look."""
    with Daemon.start(Settings(image=image, transport="tls")) as started:
        yield started


def directory_of(daemon: Daemon) -> Path:
    return Path(daemon.env["DOCKER_CERT_PATH"])


def published(daemon: Daemon) -> dict[str, Any]:
    """Which ports of its container are reached from elsewhere, and where."""
    ports: dict[str, Any] = (daemon.engine.container(daemon.name) or {})["NetworkSettings"]["Ports"]
    return {port: bound for port, bound in ports.items() if bound}


def version_by(argv: list[str], env: dict[str, str]) -> str:
    """What a command says of the daemon's version, in an environment."""
    done = subprocess.run(argv, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def is_served(daemon: Daemon, env: dict[str, str]) -> None:
    """Check that clients which know nothing but the environment are at the daemon."""
    assert version_by([sys.executable, "-c", DOCKER_PY], env) == daemon.version
    if shutil.which("docker"):
        assert version_by(["docker", "version", "--format", "{{.Server.Version}}"], env) == daemon.version


def ask(daemon: Daemon, context: ssl.SSLContext) -> bytes:
    """Ask the daemon for its version over a connection of our own; return the answer."""
    address, _, port = daemon.host.removeprefix("tcp://").rpartition(":")
    with (
        socket.create_connection((address, int(port)), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=address) as connection,
    ):
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
        return connection.recv(100)


# -- who is served


def test_clients_that_know_the_environment_alone_are_served(over_tls: Daemon) -> None:
    assert over_tls.host.startswith("tcp://127.0.0.1:")
    assert over_tls.env["DOCKER_HOST"] == over_tls.host
    assert over_tls.env["DOCKER_TLS_VERIFY"] == "1"
    is_served(over_tls, over_tls.env)
    assert over_tls.alive


@pytest.mark.parametrize("image", OTHERS)
def test_so_are_those_of_other_engines(image: str, version_of: Callable[[str], str]) -> None:
    version = version_of(image)
    with Daemon.start(Settings(image=image, transport="tls")) as daemon:
        assert daemon.version == version
        is_served(daemon, daemon.env)
        assert list(published(daemon)) == ["2376/tcp"]


def test_a_client_without_a_certificate_is_refused(over_tls: Daemon) -> None:
    context = ssl.create_default_context(cafile=str(directory_of(over_tls) / "ca.pem"))
    with pytest.raises(ssl.SSLError, match=r"certificate required|bad certificate"):
        ask(over_tls, context)
    context.load_cert_chain(directory_of(over_tls) / "cert.pem", directory_of(over_tls) / "key.pem")
    assert ask(over_tls, context).startswith(b"HTTP/1.1 200 OK"), "that is all that was missing"


def test_a_client_with_a_certificate_of_another_authority_is_refused(over_tls: Daemon, tmp_path: Path) -> None:
    other = Authority().client
    (tmp_path / "pem").write_bytes(other.certificate + other.key)
    context = ssl.create_default_context(cafile=str(directory_of(over_tls) / "ca.pem"))
    context.load_cert_chain(tmp_path / "pem")
    with pytest.raises(ssl.SSLError, match=r"unknown ca|bad certificate|decrypt error"):
        ask(over_tls, context)


def test_what_lies_in_a_daemon_is_no_key_to_another(over_tls: Daemon, image: str, tmp_path: Path) -> None:
    state = "/run/pytest-dind"
    with Daemon.start(Settings(image=image, transport="tls")) as other:
        found = {name: other.exec(["cat", f"{state}/{name}.pem"])[1] for name in ("ca", "cert", "key")}
    (tmp_path / "pem").write_text(found["cert"] + found["key"])
    # Nor can anybody take its place with what he finds there: not even whom to trust is the same.
    assert found["ca"].encode() != (directory_of(over_tls) / "ca.pem").read_bytes()
    context = ssl.create_default_context(cafile=str(directory_of(over_tls) / "ca.pem"))
    context.load_cert_chain(tmp_path / "pem")
    with pytest.raises(ssl.SSLError, match=r"unknown ca|bad certificate|decrypt error"):
        ask(over_tls, context)


def test_a_client_that_trusts_another_authority_refuses_the_daemon(over_tls: Daemon) -> None:
    context = ssl.create_default_context(cadata=Authority().certificate.decode())
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(over_tls, context)


def test_it_listens_on_this_machine_alone_and_never_without_tls(over_tls: Daemon) -> None:
    (bound,) = published(over_tls)["2376/tcp"]
    assert bound["HostIp"] == "127.0.0.1"
    assert over_tls.host == f"tcp://127.0.0.1:{bound['HostPort']}"
    _, tables = over_tls.exec(["cat", "/proc/net/tcp", "/proc/net/tcp6"])
    listening = {row.split()[1].split(":")[1] for row in tables.splitlines() if row.split()[3] == "0A"}
    assert listening == {f"{2376:04X}"}


def test_nobody_else_can_read_the_keys(over_tls: Daemon) -> None:
    directory = directory_of(over_tls)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.glob("*.pem")} == {0o600}
    state = "/run/pytest-dind"
    assert over_tls.exec(["stat", "-c", "%a", f"{state}/key.pem"]) == (0, "600\n")
    _, key = over_tls.exec(["cat", f"{state}/key.pem"])
    secret = key.splitlines()[1]
    assert len(secret) == 64
    assert secret not in json.dumps(over_tls.engine.container(over_tls.name))
    _, commands = over_tls.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline"])
    assert f"--tlskey={state}/key.pem" in commands
    assert secret not in commands
    assert secret not in over_tls.logs()


def test_proxies_authorities_and_certificates_of_the_user_do_no_harm(
    image: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    theirs = Authority().certificate
    (tmp_path / "theirs.pem").write_bytes(theirs)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "theirs.pem"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.com")
    engine = HostEngine.connect()
    monkeypatch.setenv("DOCKER_CERT_PATH", "/nowhere")
    with Daemon.start(Settings(image=image, transport="tls"), engine=engine) as daemon:
        is_served(daemon, daemon.env)
        assert daemon.env["NO_PROXY"] == daemon.env["no_proxy"] == "example.com,127.0.0.1"
        bundle = Path(daemon.env["REQUESTS_CA_BUNDLE"])
        assert theirs in bundle.read_bytes(), "other servers are still trusted as before"
        daemon.restart()
        assert theirs in bundle.read_bytes()
        is_served(daemon, daemon.env)
    engine.close()


# -- where it is


def test_started_anew_it_has_the_same_address_and_the_same_client(image: str) -> None:
    with Daemon.start(Settings(image=image, transport="tls")) as daemon:
        client, before = daemon.client, (daemon.host, daemon.client.info()["ID"])
        daemon.restart()
        assert daemon.host == before[0]
        assert client.info()["ID"] == daemon.client.info()["ID"] != before[1]
        # Its port may have gone to somebody else meanwhile.
        daemon._end()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", int(daemon.host.rpartition(":")[2])))
            other.listen()
            daemon.restart()
        assert daemon.host != before[0]
        assert client.ping()
        assert daemon.env["DOCKER_HOST"] == daemon.host


def test_on_a_network_it_is_reached_at_its_own_address_there_and_nothing_is_published(
    image: str, host: docker.DockerClient
) -> None:
    network = host.networks.create("pytest-dind-test-tls", driver="bridge")
    engine = HostEngine.connect()
    lead(engine, Route("tls", OnNetwork("pytest-dind-test-tls"), "a test says so"))
    try:
        with Daemon.start(Settings(image=image, transport="tls"), engine=engine) as daemon:
            container = engine.container(daemon.name) or {}
            address = container["NetworkSettings"]["Networks"]["pytest-dind-test-tls"]["IPAddress"]
            assert daemon.host == f"tcp://{address}:2376"
            assert published(daemon) == {}
            is_served(daemon, daemon.env)
            client = daemon.client
            daemon.restart()
            assert client.ping()
            is_served(daemon, daemon.env)
    finally:
        network.remove()
        engine.close()


def test_on_a_network_without_ipv4_it_is_reached_at_its_ipv6_address(image: str, host: docker.DockerClient) -> None:
    # Networks without IPv4 came with Docker 28: https://docs.docker.com/reference/cli/docker/network/create/
    class WithoutIpv4(OnNetwork):
        def find(self, container: Mapping[str, Any], port: int = 2376) -> tuple[str, int] | None:
            networks: Any = container["NetworkSettings"]["Networks"]
            only = {name: {**one, "IPAddress": ""} for name, one in networks.items()}
            return super().find({"NetworkSettings": {"Networks": only}}, port)

    ranges = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="fd00:d1d:7e57::/64")])
    network = host.networks.create("pytest-dind-test-ipv6", driver="bridge", enable_ipv6=True, ipam=ranges)
    engine = HostEngine.connect()
    lead(engine, Route("tls", WithoutIpv4(str(network.id)), "a test says so"))
    try:
        with Daemon.start(Settings(image=image, transport="tls"), engine=engine) as daemon:
            assert daemon.host == "tcp://[fd00:d1d:7e57::2]:2376"
            is_served(daemon, daemon.env)
            client = daemon.client
            daemon.restart()
            assert client.ping()
    finally:
        network.remove()
        engine.close()


def test_a_port_that_is_asked_for_is_reached_where_addresses_are_not(image: str, busybox: str) -> None:
    engine = HostEngine.connect()
    lead(engine, Route("tls", Published(), "a test says so", addresses_reached=False))
    settings = Settings(image=image, transport="tls", port=(8000, 8001))
    with Daemon.start(settings, engine=engine) as daemon:

        def serve() -> Container:
            script = "mkdir /w; echo served >/w/index.html; httpd -f -p 80 -h /w"
            ports: Any = {"80/tcp": 8000, "81/tcp": 9000, "53/udp": 8001}
            daemon.load(busybox)
            return daemon.client.containers.run(busybox, ["sh", "-c", script], ports=ports, detach=True)

        server = serve()
        address = daemon.address(server, "80/tcp")
        assert address[0] == "127.0.0.1"
        assert fetch(address) == "served\n"
        assert {one["HostIp"] for bound in published(daemon).values() for one in bound} == {"127.0.0.1"}
        assert list(published(daemon)) == ["2376/tcp", "8000/tcp", "8001/tcp"]
        out_of_reach = rf"port %s of {daemon.name} cannot be reached from here, and nor can its address, {daemon.ip}: "
        cure = r"--dind-port=9000 makes it so, with the container publishing at just that port: ports={81: 9000}$"
        with pytest.raises(DaemonStateError, match=out_of_reach % 9000 + ".*" + cure):
            daemon.address(server, 81)
        with pytest.raises(DaemonStateError, match=out_of_reach % 8001 + ".*--dind-port is for TCP ports"):
            daemon.address(server, "53/udp")
        with pytest.raises(DaemonStateError, match=f"a daemon inside {daemon.name} cannot be reached from here"):
            daemon.nest()
        daemon.restart()
        assert daemon.address(serve(), 80) == address, "started anew, it is where it was"
    engine.close()


def test_no_port_is_published_where_addresses_are_reached(image: str) -> None:
    with Daemon.start(Settings(image=image, transport="tls", port=(8000,))) as daemon:
        assert list(published(daemon)) == ["2376/tcp"]


@pytest.mark.parametrize("address", ["8.8.8.8", "0.0.0.0", "::", "224.0.0.1", "2001:4860:4860::8888", "100.128.0.1"])
def test_a_daemon_is_not_published_where_everybody_can_dial_it(address: str) -> None:
    refusal = f"the host engine is reached at {address}, which is a public address, .*DOCKER_HOST=ssh://USER@HOST"
    with pytest.raises(HostEngineError, match=refusal):
        Published(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", "172.17.0.1", "192.168.0.1", "100.64.0.1"])
def test_it_may_be_published_where_neighbours_can(address: str) -> None:
    assert Published(address).bindings({2376: None})["2376/tcp"][0]["HostIp"] == address


def test_of_a_machines_addresses_it_is_the_one_where_the_engine_answers() -> None:
    # `localhost` is ::1 first, where it has both.
    with socket.create_server(("127.0.0.1", 0)) as engine:
        assert Published.at("localhost", engine.getsockname()[1]) == Published("127.0.0.1")
        port = engine.getsockname()[1]
    with pytest.raises(HostEngineError, match=f"the host engine no longer answers at localhost:{port}: "):
        Published.at("localhost", port)


def test_a_machine_of_unknown_name_is_one_message() -> None:
    with pytest.raises(HostEngineError, match=r"the host engine's machine no-such\.invalid is not known here: "):
        Published.at("no-such.invalid", 2376)


def test_it_needs_a_network() -> None:
    with pytest.raises(SettingsError, match="'tls' needs a network, and --dind-network=none leaves none"):
        Settings(transport="tls", network="none")


# -- what daemons are for


def test_images_are_adopted_and_daemons_run_inside(busybox: str, image: str, engine_settings: Settings) -> None:
    with Daemon.start(dataclasses.replace(engine_settings, transport="tls")) as daemon:
        assert daemon.store is not None
        assert daemon.loaded_because == ""
        assert daemon.client.containers.run(busybox, ["echo", "served"], remove=True) == b"served\n"
        # The network of this machine must not be one inside.
        inner = daemon.nest(Settings(image=image, daemon_arg=("--bip=10.213.7.1/24",)))
        assert inner.host.startswith(f"tcp://{daemon.ip}:")
        assert inner.client.info()["ID"] != daemon.client.info()["ID"]
        with pytest.raises(DaemonStateError, match=f"a daemon inside {inner.name} cannot be reached from here"):
            inner.nest()


def test_it_is_as_fast_as_a_unix_socket(image: str) -> None:
    seconds: dict[str, list[float]] = {"unix": [], "tls": []}
    # The fastest of up to five: what others do on this machine meanwhile is in the rest.
    for _ in range(5):
        for transport, measured in seconds.items():
            with Daemon.start(Settings(image=image, transport=transport)) as daemon:
                measured.append(daemon.start_seconds)
        if min(seconds["tls"]) < min(seconds["unix"]) + 0.3:
            return
    pytest.fail(str(seconds))


def test_testcontainers_and_subprocesses_of_a_suite_land_in_the_workers_daemon(
    inner: InnerRun, busybox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("testcontainers")
    # Its reaper is an image that a daemon without a registry cannot get.
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    inner.pytester.makepyfile(
        f"""
        import os, subprocess, sys, time, urllib.request

        ASK = "import docker; print(docker.from_env().info()['ID'])"

        def test_subprocess(dind_env, dind_client):
            shown = subprocess.run([sys.executable, "-c", ASK], env=dind_env, capture_output=True, text=True)
            assert shown.stdout.strip() == dind_client.info()["ID"], shown.stderr
            assert "DOCKER_TLS_VERIFY" not in os.environ

        def test_testcontainers(dind_environ, dind_client):
            from testcontainers.core.container import DockerContainer  # It reads the environment when it is imported.

            serve = ["sh", "-c", "mkdir /w && echo served >/w/index.html && exec httpd -f -h /w"]
            with DockerContainer({busybox!r}).with_command(serve).with_exposed_ports(80) as container:
                assert container.get_docker_client().client.info()["ID"] == dind_client.info()["ID"]
                url = f"http://{{container.get_container_host_ip()}}:{{container.get_exposed_port(80)}}/"
                deadline = time.monotonic() + 60
                while True:
                    try:
                        assert urllib.request.urlopen(url, timeout=10).read() == b"served\\n"
                        break
                    except OSError:
                        assert time.monotonic() < deadline
                        time.sleep(0.05)

        def test_after():
            assert not [name for name in os.environ if name.startswith("DOCKER_TLS")]
        """
    )
    result = inner.run("--dind", "--dind-transport=tls", f"--dind-preload={busybox}", "-p", "no:xdist")
    result.assert_outcomes(passed=3)
    assert inner.left() == []


# -- how it ends


def test_a_daemon_that_refuses_its_owner_is_too_late_and_says_how_it_refused(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "_authority", None)

    class Mistaken(Authority):
        def __init__(self) -> None:
            super().__init__()
            self.client = Authority().client

    monkeypatch.setattr(certificates, "Authority", Mistaken)
    with pytest.raises(
        DaemonStartError, match=r"did not answer within 3 s on tcp://127.0.0.1:\d+ \(at last: .*(?i:ssl)"
    ):
        Daemon.start(Settings(image=image, transport="tls", start_timeout=3))


def test_a_daemon_that_does_not_start_says_why(image: str) -> None:
    with pytest.raises(DaemonStartError, match=r"it ended after [\s\S]*unknown flag: --no-such-argument"):
        Daemon.start(Settings(image=image, transport="tls", daemon_arg=("--no-such-argument",)))


def test_an_owner_that_ends_before_it_hands_the_certificate_over_leaves_no_container(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tls, "started", interrupted)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Daemon.start(Settings(image=image, transport="tls"))
    assert time.monotonic() - begin < 9, "the end of its input was the end of the container"


def test_an_owner_that_is_killed_leaves_no_container_and_the_next_run_removes_its_key_whatever_its_home(
    image: str, host: docker.DockerClient, tmp_path: Path
) -> None:
    script = f"""if 1:
        import sys, time
        from pytest_dind import Daemon, Settings
        daemon = Daemon.start(Settings(image={image!r}, transport="tls"))
        print(daemon.name, daemon.env["DOCKER_CERT_PATH"], flush=True)
        time.sleep(600)
    """
    engine = HostEngine(host, "")
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env) as owner:
        assert owner.stdout is not None
        name, directory = owner.stdout.readline().split()
        assert not Path(directory).name.startswith(host_id())
        assert stat.S_IMODE((Path(directory) / "lease").stat().st_mode) == 0o600
        sweep(engine)
        assert (Path(directory) / "key.pem").exists(), "it lives"
        owner.send_signal(signal.SIGKILL)
    api: Any = host.api
    wait_until(
        lambda: not [one for one in api.containers(all=True, filters={"name": name}) if one["Names"]],
        lambda: f"{name} is still there",
    )
    identity = (tmp_path / "pytest-dind" / "leases" / "id").rename(tmp_path / "id")
    sweep(engine)
    assert (Path(directory) / "key.pem").exists(), "its home is not known here"
    identity.rename(tmp_path / "pytest-dind" / "leases" / "id")
    sweep(engine)
    assert not Path(directory).exists()


def test_the_key_of_a_kept_daemon_stays_for_as_long_as_that_serves(image: str, host: docker.DockerClient) -> None:
    daemon = Daemon.start(Settings(image=image, transport="tls"))
    directory, transport = directory_of(daemon), daemon._life.transport
    try:
        daemon.keep()
        assert UnixSocket(directory).is_kept, "the sweep does not know which transport a directory is of"
        shown = dict(word.split("=", 1) for word in daemon.export.split())
        assert shown == {"DOCKER_HOST": daemon.host, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(directory)}
        if shutil.which("docker"):
            assert version_by(["docker", "version", "--format", "{{.Server.Version}}"], {**os.environ, **shown})
        assert stat.S_IMODE((directory / "key.pem").stat().st_mode) == 0o600
    finally:
        daemon.client.close()
        host.containers.get(daemon.name).remove(force=True, v=True)
    assert not UnixSocket(directory).is_kept
    transport.remove()
