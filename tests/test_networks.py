"""A daemon's own networks beside those that it is on: what fits through, who is found, and who is hidden by a range."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest
from docker.errors import APIError
from docker.models.containers import Container
from docker.models.networks import Network

from pytest_dind import Build, Daemon, Settings, built, networks
from pytest_dind.labels import OURS

from .builds import workplace, write
from .conftest import BUSYBOX, IMAGE, MATRIX, wait_until

pytestmark = [pytest.mark.usefixtures("nothing_is_left"), pytest.mark.once]

MTU = "com.docker.network.driver.mtu"
ENGINES = list(dict.fromkeys([IMAGE, *MATRIX]))
SERVE = "mkdir /www && echo hello >/www/index.html && exec httpd -f -p 80 -h /www"
#: Where Docker 24 and newer say what networks have that are made without saying it.
KNOWS_NETWORK_OPTIONS = 24


# -- what is outside


@contextmanager
def outer_network(host: docker.DockerClient, **how: Any) -> Iterator[Network]:
    """A network of the host engine, on the first of the ranges that inner networks have by default and it has free."""
    for number in range(18, 32):
        pool = docker.types.IPAMPool(subnet=f"172.{number}.0.0/16", gateway=f"172.{number}.0.1")
        try:
            made = host.networks.create(
                f"outer-{number}-{id(pool):x}", ipam=docker.types.IPAMConfig(pool_configs=[pool]), **how
            )
        except APIError:  # it overlaps with another network
            continue
        try:
            yield made
        finally:
            made.remove()
        return
    pytest.fail("no range is free for a network of the host engine")


@contextmanager
def service(host: docker.DockerClient, network: Network, **how: Any) -> Iterator[Container]:
    """A container that serves `hello` over HTTP on a network of the host engine."""
    container = host.containers.run(
        BUSYBOX,
        ["sh", "-c", SERVE],
        detach=True,
        init=True,
        network=network.name,
        name=f"{network.name}-service",
        **how,
    )
    try:
        yield container
    finally:
        container.remove(force=True)


def inspected(container: Container) -> Any:
    container.reload()
    return container.attrs["NetworkSettings"]


def ranges(client: docker.DockerClient) -> list[IPv4Network]:
    found = [one for network in client.networks.list() for one in network.attrs["IPAM"]["Config"] or ()]
    return [IPv4Network(one["Subnet"]) for one in found]


def run(daemon: Daemon, script: str, **how: Any) -> str:
    """Run a shell script in an inner container; return what it printed."""
    printed: bytes = daemon.client.containers.run(BUSYBOX, ["sh", "-c", script], remove=True, **how)
    return printed.decode().strip()


# -- on a network that somebody made, with a smaller MTU and a range that inner networks have by default


@pytest.fixture(scope="module", params=ENGINES)
def outside(request: pytest.FixtureRequest, host: docker.DockerClient) -> Iterator[tuple[Daemon, Network, Container]]:
    """A daemon of each engine on such a network, the network, and a service there; inside, a network `inner`."""
    with outer_network(host, options={MTU: "1400"}) as network, service(host, network) as neighbour:
        settings = Settings(image=request.param, network=network.name, preload=(BUSYBOX,))
        with Daemon.start(settings) as daemon:
            daemon.client.networks.create("inner")
            yield daemon, network, neighbour


SHOW_MTU = "cat /sys/class/net/eth0/mtu"


def test_the_default_bridge_has_the_mtu_of_the_network_outside(
    outside: tuple[Daemon, Network, Container],
) -> None:
    daemon, _, _ = outside
    assert run(daemon, SHOW_MTU) == "1400"


def test_networks_of_the_users_have_it_too_where_the_engine_knows_how(
    outside: tuple[Daemon, Network, Container],
) -> None:
    daemon, _, _ = outside
    knows = int(daemon.version.partition(".")[0]) >= KNOWS_NETWORK_OPTIONS
    assert run(daemon, SHOW_MTU, network="inner") == ("1400" if knows else "1500")


@pytest.mark.parametrize("inner", ["bridge", "inner", "host"])
def test_names_of_the_network_outside_resolve_in_every_container(
    outside: tuple[Daemon, Network, Container], inner: str
) -> None:
    daemon, _, neighbour = outside
    assert run(daemon, f"wget -qO- http://{neighbour.name}", network=inner) == "hello"


@pytest.mark.parametrize("outside", [IMAGE], indirect=True)
def test_names_resolve_over_tcp_as_well(outside: tuple[Daemon, Network, Container]) -> None:
    daemon, network, neighbour = outside
    # https://www.rfc-editor.org/rfc/rfc1035#section-4: one question, for a name's A record.
    name = str(neighbour.name).encode()
    question = b"\0\1\1\0\0\1\0\0\0\0\0\0" + bytes([len(name)]) + name + b"\0\0\1\0\1"
    sent = "".join(f"\\{byte:03o}" for byte in len(question).to_bytes(2, "big") + question)
    asking = f"(printf '{sent}'; sleep 1) | timeout 5 nc $(sed -n 's/^nameserver //p' /etc/resolv.conf) 53"
    answer = bytes.fromhex(run(daemon, f"{asking} | od -A n -t x1 -v"))
    assert answer.endswith(ipaddress.ip_address(inspected(neighbour)["Networks"][network.name]["IPAddress"]).packed)


@pytest.mark.parametrize("outside", [IMAGE], indirect=True)
def test_names_resolve_for_a_builder_as_well(outside: tuple[Daemon, Network, Container], tmp_path: Path) -> None:
    _, network, neighbour = outside
    context = write(tmp_path / "app", f"FROM {BUSYBOX}\nRUN [ $(wget -qO- http://{neighbour.name}) = hello ]\n")
    with workplace(IMAGE, tmp_path) as place:
        made = built.tar_of(Build(context), place.engine, place.settings(network=network.name), place.owner)
        assert made.image


def test_no_inner_network_hides_the_one_outside(
    outside: tuple[Daemon, Network, Container],
) -> None:
    daemon, network, neighbour = outside
    address = inspected(neighbour)["Networks"][network.name]["IPAddress"]
    for inner in ("bridge", "inner"):
        assert run(daemon, f"wget -qO- http://{address}", network=inner) == "hello"
    outer = [ipaddress.ip_network(one["Subnet"]) for one in network.attrs["IPAM"]["Config"]]
    assert not [one for one in ranges(daemon.client) if one.overlaps(outer[0])]


@pytest.mark.parametrize("outside", [IMAGE], indirect=True)
def test_the_loopback_of_a_daemons_container_is_not_open_to_containers(
    outside: tuple[Daemon, Network, Container],
) -> None:
    daemon, _, _ = outside
    # As if it were a way to the gateway; a container of the daemon's own may do that to its own network.
    detour = (
        "ip addr del 127.0.0.1/8 dev lo;"
        "ip route add 127.0.0.0/8 via $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p');"
        "timeout 2 wget -qO- http://127.0.0.1:8080 || echo closed"
    )
    server = daemon.client.containers.run(
        BUSYBOX, ["sh", "-c", SERVE.replace("-p 80", "-p 127.0.0.1:8080")], detach=True, network="host", init=True
    )
    try:
        fetch = "wget -qO- http://127.0.0.1:8080 || true"
        wait_until(lambda: run(daemon, fetch, network="host") == "hello", lambda: "nobody serves there")
        assert run(daemon, detour, cap_add=["NET_ADMIN"], sysctls={"net.ipv4.conf.all.route_localnet": "1"}) == "closed"
    finally:
        server.remove(force=True)


# -- ranges that the daemon itself does not see


def test_no_inner_network_hides_another_network_of_the_host_engine(host: docker.DockerClient) -> None:
    with outer_network(host) as network:
        gateway = network.attrs["IPAM"]["Config"][0]["Gateway"]
        with (
            service(host, network, ports={"80/tcp": (gateway, 0)}) as neighbour,
            Daemon.start(Settings(image=IMAGE, preload=(BUSYBOX,))) as daemon,
        ):
            inner = [daemon.client.networks.create(f"inner-{number}") for number in range(3)]
            port = inspected(neighbour)["Ports"]["80/tcp"][0]["HostPort"]
            for name in ("bridge", *(one.name for one in inner)):
                assert run(daemon, f"timeout 10 wget -qO- http://{gateway}:{port}", network=name) == "hello"
            outer = ranges(host)
            assert not [one for one in ranges(daemon.client) if any(one.overlaps(other) for other in outer)]


def test_daemons_share_one_network_and_make_none(host: docker.DockerClient) -> None:
    with Daemon.start(Settings(image=IMAGE)) as first, Daemon.start(Settings(image=IMAGE)) as second:
        on = [host.api.inspect_container(one.name)["NetworkSettings"]["Networks"] for one in (first, second)]
        assert [list(one) for one in on] == [["bridge"], ["bridge"]]
        assert host.networks.list(filters={"label": OURS}) == []


# -- what the user says himself


def test_what_the_user_says_of_networks_is_not_said_twice(host: docker.DockerClient) -> None:
    with outer_network(host, options={MTU: "1400"}) as network:
        settings = Settings(
            image=IMAGE,
            network=network.name,
            preload=(BUSYBOX,),
            daemon_arg=("--mtu=1300", "--bip=10.99.0.1/24"),
            config={"default-network-opts": {"bridge": {MTU: "1200"}}, "dns": ["192.0.2.53"]},
        )
        with Daemon.start(settings) as daemon:
            daemon.client.networks.create("inner")
            shown = run(daemon, f"{SHOW_MTU}; grep nameserver /etc/resolv.conf; ip -o -4 addr show eth0")
            assert shown.split()[:3] == ["1300", "nameserver", "192.0.2.53"]
            assert "10.99.0.2/24" in shown
            assert run(daemon, SHOW_MTU, network="inner") == "1200"


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        (Settings(), ["mtu", "default-network-opt"]),
        (Settings(daemon_arg=("--mtu=1400",)), ["default-network-opt"]),
        (Settings(daemon_arg=("--mtu", "--label=mtu")), ["default-network-opt"]),
        (Settings(config={"default-network-opts": {}}), ["mtu"]),
        (Settings(config={"mtu": 1400}, daemon_arg=("--default-network-opt=bridge=a=b",)), []),
    ],
)
def test_network_sh_decides_on_what_the_user_has_not_said(settings: Settings, left: list[str]) -> None:
    assert networks.undecided(settings) == left


# -- the choice of ranges


def engine(*subnets: str) -> Any:
    """A host engine with the default bridge on the first of some ranges, and a network on each other one."""
    answer: list[dict[str, Any]] = [
        {
            "Name": name or "bridge",
            "Id": f"id-{name}",
            "Options": {} if name else {"com.docker.network.bridge.default_bridge": "true"},
            "IPAM": {"Config": [{"Subnet": subnet}]},
        }
        for name, subnet in zip(["", *map(str, subnets[1:])], subnets, strict=True)
    ]
    answer.append({"Name": "host", "Id": "h", "Options": None, "IPAM": {"Config": None}})
    return SimpleNamespace(api=SimpleNamespace(networks=lambda: answer))


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with this machine's routes and name servers, which has none yet."""
    monkeypatch.setattr(networks, "_ROUTES", str(tmp_path / "route"))
    monkeypatch.setattr(networks, "_RESOLVERS", (str(tmp_path / "resolv.conf"),))
    return tmp_path


def chosen(engine: Any, network: str | None = None, **said: Any) -> list[str]:
    flags = networks.fitted(Settings(**said), engine, network).daemon_arg
    return [one.removeprefix("--default-address-pool=base=") for one in flags]


@pytest.mark.usefixtures("around")
class TestRanges:
    """What dockerd is told."""

    def test_nothing_beside_the_default_bridge_leaves_the_choice_to_docker(self) -> None:
        assert chosen(engine("172.17.0.0/16")) == []

    def test_nothing_in_other_ranges_than_dockers_does_either(self) -> None:
        assert chosen(engine("172.17.0.0/16", "10.1.0.0/16", "fd00::/64")) == []

    def test_nor_does_the_network_that_the_daemon_is_on(self) -> None:
        assert chosen(engine("10.9.0.0/16", "172.18.0.0/16"), network="172.18.0.0/16") == []
        assert chosen(engine("10.9.0.0/16", "172.18.0.0/16"), network="id-172.18.0.0/16") == []

    def test_another_network_is_left_out_of_dockers_ranges(self) -> None:
        assert chosen(engine("172.17.0.0/16", "172.20.5.0/24")) == [
            "172.18.0.0/15,size=16", "172.21.0.0/16,size=16", "172.22.0.0/15,size=16", "172.24.0.0/13,size=16",
            "192.168.0.0/16,size=20",
        ]  # fmt: skip

    def test_the_default_bridge_is_left_out_for_a_daemon_on_another_network(self) -> None:
        assert chosen(engine("172.17.0.0/16", "172.18.0.0/16"), network="172.18.0.0/16")[0] == "172.19.0.0/16,size=16"

    def test_where_few_are_free_there_is_a_spare_one_that_nobody_has(self, around: Path) -> None:
        (around / "resolv.conf").write_text(
            "# by hand\nnameserver 10.255.255.53\nnameserver fe80::1%eth0\nnameserver\n"
        )
        assert chosen(engine("172.17.0.0/16", "172.16.0.0/12", "192.168.0.0/17")) == [
            "192.168.128.0/17,size=20", "10.254.0.0/16,size=24",
        ]  # fmt: skip

    def test_where_none_is_free_the_choice_is_dockers(self) -> None:
        assert chosen(engine("172.17.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/8")) == []

    def test_what_a_vpn_leads_to_is_left_out_but_not_everything(self, around: Path) -> None:
        # The default route, OpenVPN's half of it, and 172.16.0.0/12, as the kernel of this machine writes them.
        heading = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        rows = [("0.0.0.0", 0), ("128.0.0.0", 1), ("172.16.0.0", 12)]
        (around / "route").write_text(
            heading + "".join(f"tun0\t{_hex(a)}\t0\t3\t0\t0\t0\t{_mask(p)}\t0\t0\t0\n" for a, p in rows)
        )
        assert chosen(engine("172.17.0.0/16")) == ["192.168.0.0/16,size=20"]

    @pytest.mark.parametrize(
        "said",
        [
            {"daemon_arg": ("--bip=10.99.0.1/24",)},
            {"daemon_arg": ("--default-address-pool=base=10.99.0.0/16,size=24",)},
            {"config": {"default-address-pools": [{"base": "10.99.0.0/16", "size": 24}]}},
            {"config": {"fixed-cidr": "10.99.0.0/24"}},
        ],
    )
    def test_ranges_of_the_users_own_are_the_only_ones(self, said: dict[str, Any]) -> None:
        settings = Settings(**said)
        assert networks.fitted(settings, engine("172.17.0.0/16", "172.18.0.0/16"), None) is settings

    def test_an_engine_that_does_not_tell_its_networks_is_no_error(self) -> None:
        def refuse() -> None:
            raise APIError("403 Forbidden")

        assert chosen(SimpleNamespace(api=SimpleNamespace(networks=refuse))) == []


def _hex(address: str) -> str:
    return f"{int.from_bytes(ipaddress.ip_address(address).packed, sys.byteorder):08X}"


def _mask(prefix: int) -> str:
    return _hex(str(IPv4Network((0, prefix)).netmask))
