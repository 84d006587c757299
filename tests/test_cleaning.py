"""What a test leaves in its worker's daemon is gone after it, and nothing else; what would not go is said."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest

from pytest_dind import Daemon, Settings
from pytest_dind.cleaning import Cleaning
from pytest_dind.inventory import Inventory

from .conftest import IMAGE, MATRIX, InnerRun, wait_until

pytestmark = pytest.mark.once

NO_XDIST = ("-p", "no:xdist")


# -- in a daemon


def is_there(daemon: Daemon) -> tuple[dict[str, dict[str, str]], dict[str, str], str]:
    """All that is in a daemon, whatever else is known of it."""
    found = Inventory.of(daemon.client.api)
    return found.things, found.tags, found.swarm


def cleaned(daemon: Daemon, before: Inventory) -> Cleaning:
    cleaning = Cleaning(daemon.client.api, before)
    cleaning.run()
    return cleaning


def build(daemon: Daemon, kit: int, *lines: str, tag: str = "") -> str:
    """Build an image beside the daemon, with BuildKit or by the classic builder; return its id."""
    script = 'mkdir -p /w && printf "%s\\n" "$@" >/w/Dockerfile && docker build -q $TAG /w'
    argv = ["env", f"DOCKER_BUILDKIT={kit}", f"TAG={tag and f'--tag={tag}'}", "sh", "-c", script, "sh", *lines]
    code, output = daemon.exec(argv)
    assert code == 0, output
    return output.split()[-1]


def leave(daemon: Daemon, busybox: str, name: str, base: str) -> None:
    """Leave something of everything: containers in all states, what they use, and images of all origins."""
    client = daemon.client
    client.networks.create(f"{name}-net")
    volumes = {f"{name}-vol": {"bind": "/v"}, f"{name}-vol2": {"bind": "/w"}}
    client.volumes.create(f"{name}-vol")
    paused = client.containers.run(
        busybox, "sleep 1000", name=f"{name}-paused", detach=True, network=f"{name}-net", volumes=volumes
    )
    paused.pause()  # On cgroup v1 it does not even die of SIGKILL.
    client.containers.run(busybox, "touch /x", name=f"{name}-ran")
    client.containers.get(f"{name}-ran").commit(name, "committed")
    client.containers.create(f"{name}:committed", name=f"{name}-made", volumes=["/anonymous"])
    client.containers.run(
        busybox, "false", name=f"{name}-again", detach=True, restart_policy={"Name": "always"}
    )  # as soon as it ends
    client.images.get(busybox).tag(name, "tag")
    build(daemon, 1, f"FROM {busybox}", f"RUN echo {name} >/kit", tag=f"{name}:kit")
    build(daemon, 0, f"FROM {base}", f"RUN echo {name} >/classic", "RUN true", tag=f"{name}:classic")


ENGINES = {
    "default": (IMAGE, None),
    **{image.rpartition(":")[2]: (image, None) for image in MATRIX if ":20." in image},
    **{
        f"{image.rpartition(':')[2]}-containerd": (image, {"features": {"containerd-snapshotter": True}})
        for image in MATRIX
        if ":28." in image
    },
}


@pytest.mark.parametrize("engine", ENGINES)
def test_all_that_came_goes_and_all_that_was_there_stays(
    engine: str, busybox: str, version_of: Callable[[str], str]
) -> None:
    image, config = ENGINES[engine]
    version_of(image)
    with Daemon.start(Settings(image=image, config=config, preload=(busybox,))) as daemon:
        nameless = build(daemon, 0, f"FROM {busybox}", "RUN touch /nameless")
        leave(daemon, busybox, "before", base=busybox)
        before, there = Inventory.of(daemon.client.api), is_there(daemon)

        leave(daemon, busybox, "during", base=nameless)
        daemon.client.images.get("during:kit").tag("before", "kit")
        daemon.client.images.get(busybox).tag("before", "committed")
        daemon.client.images.remove("before:tag")
        now = Inventory.of(daemon.client.api)
        came = {kind: len(now.came_since(before, kind)) for kind in now.things}
        assert came == {**came, "container": 4, "network": 1, "volume": 3, "plugin": 0}
        assert came["image"] >= 3
        assert came["build cache"] >= 1

        cleaning = cleaned(daemon, before)
        assert (cleaning.refused, cleaning.lost) == ([], set())
        assert is_there(daemon) == there
        assert daemon.client.containers.get("before-paused").status == "paused"
        assert daemon.client.containers.run("before:kit", "cat /kit") == b"before\n"


@pytest.fixture(scope="module")
def own(busybox: str) -> Iterator[Daemon]:
    """A daemon for the tests of this module, each of which cleans it."""
    with Daemon.start(Settings(image=IMAGE, preload=(busybox,))) as started:
        yield started


@pytest.fixture
def as_before(own: Daemon) -> Iterator[Inventory]:
    """What is there before the test; fails when it is not the same afterwards."""
    there = is_there(own)
    yield Inventory.of(own.client.api)
    assert is_there(own) == there


def serve(daemon: Daemon, busybox: str, name: str) -> None:
    """Have a service run in the daemon's swarm, with a network, a secret and a config of its own."""
    api: Any = daemon.client.api
    services: Any = daemon.client.services
    daemon.client.networks.create(f"{name}-net", driver="overlay")
    daemon.client.secrets.create(name=f"{name}-secret", data=b"x")
    daemon.client.configs.create(name=f"{name}-config", data=b"x")
    service = services.create(busybox, "sleep 1000", name=name, networks=[f"{name}-net"])
    wait_until(
        lambda: any(one["Status"]["State"] == "running" for one in service.tasks()),
        lambda: json.dumps(service.tasks(), default=str),
    )
    assert api.containers(filters={"name": name})


def test_a_swarm_that_came_is_left_with_all_that_is_in_it(own: Daemon, busybox: str, as_before: Inventory) -> None:
    own.client.swarm.init(advertise_addr=own.ip, listen_addr=f"{own.ip}:2377")
    serve(own, busybox, "web")
    assert cleaned(own, as_before).refused == []
    assert own.client.info()["Swarm"]["LocalNodeState"] == "inactive"


def test_of_a_swarm_that_was_there_only_what_came_into_it_goes(own: Daemon, busybox: str, as_before: Inventory) -> None:
    own.client.swarm.init(advertise_addr=own.ip, listen_addr=f"{own.ip}:2377")
    empty, nothing = Inventory.of(own.client.api), is_there(own)
    serve(own, busybox, "first")  # With it comes a network that stays with the swarm.
    assert cleaned(own, empty).refused == []
    assert is_there(own) == nothing
    serve(own, busybox, "before")
    before, there = Inventory.of(own.client.api), is_there(own)
    serve(own, busybox, "during")
    own.client.networks.create("waits-net", driver="overlay")
    services: Any = own.client.services
    waits = services.create(busybox, name="waits", networks=["waits-net"], constraints=["node.labels.none == x"])
    wait_until(waits.tasks, lambda: "it has no task")
    assert cleaned(own, before).refused == []
    assert is_there(own) == there
    cleaned(own, as_before)


def test_what_a_swarm_starts_for_a_service_from_before_is_not_the_tests(
    own: Daemon, busybox: str, as_before: Inventory
) -> None:
    own.client.swarm.init(advertise_addr=own.ip, listen_addr=f"{own.ip}:2377")
    services: Any = own.client.services
    service = services.create(
        busybox, "sleep 1000", name="web", mounts=[docker.types.Mount("/v", None)], restart_policy={"Delay": 0}
    )

    def running() -> list[Any]:
        return own.client.containers.list(filters={"label": f"com.docker.swarm.service.id={service.id}"})

    wait_until(running, lambda: "no task")
    before = Inventory.of(own.client.api)
    (first,) = running()
    first.remove(force=True, v=True)
    wait_until(lambda: running() and running() != [first], lambda: "swarm starts no other")
    own.client.containers.create(busybox, name="during")
    assert cleaned(own, before).refused == []
    (second,) = running()
    assert [one["Name"] for one in second.attrs["Mounts"]] == [one.name for one in own.client.volumes.list()]
    cleaned(own, as_before)


def test_an_image_that_a_service_from_before_waits_for_is_not_the_tests(
    own: Daemon, busybox: str, as_before: Inventory
) -> None:
    own.client.swarm.init(advertise_addr=own.ip, listen_addr=f"{own.ip}:2377")
    services: Any = own.client.services
    service = services.create("late:1", "sleep 1000", name="web", restart_policy={"Delay": 0})
    before = Inventory.of(own.client.api)
    build(own, 0, f"FROM {busybox}", "RUN touch /late", tag="late:1")
    build(own, 0, f"FROM {busybox}", "RUN touch /other", tag="late:2")

    def runs() -> bool:
        return any(one["Status"]["State"] == "running" for one in service.tasks())

    wait_until(runs, lambda: json.dumps(service.tasks(), default=str))
    assert cleaned(own, before).refused == []
    assert runs()
    assert sorted(Inventory.of(own.client.api).tags) == sorted(["late:1", busybox])
    assert cleaned(own, as_before).refused == []


def test_where_an_engine_counts_what_is_on_its_disk_for_another_the_rest_is_cleaned(
    busybox: str, version_of: Callable[[str], str]
) -> None:
    image = next((one for one in MATRIX if ":20." in one), "docker:20-dind")
    version_of(image)
    with Daemon.start(Settings(image=image, preload=(busybox,))) as daemon:
        before = Inventory.of(daemon.client.api)
        daemon.client.containers.create(busybox, name="during")
        said: list[str] = []
        done = threading.Event()

        def count() -> None:
            with closing(daemon.connect(60)) as client:
                while not done.is_set():
                    try:
                        client.df()
                    except docker.errors.APIError as error:
                        said.append(str(error.explanation))

        with ThreadPoolExecutor(3) as others:
            for _ in range(3):
                others.submit(count)
            wait_until(lambda: said, lambda: "they do not meet")
            try:
                cleaning = cleaned(daemon, before)
            finally:
                done.set()
        assert set(said) == {"a disk usage operation is already running"}
        not_counted = "build cache: it did not say what is in it, as it was busy with that for another client"
        assert cleaning.refused in ([], [not_counted])
        assert daemon.client.containers.list(all=True) == []


def test_a_plugin_that_came_goes(own: Daemon, tmp_path: Path, as_before: Inventory) -> None:
    (tmp_path / "rootfs").mkdir()
    interface = {"socket": "x.sock", "types": ["docker.volumedriver/1.0"]}
    (tmp_path / "config.json").write_text(json.dumps({"entrypoint": ["/x"], "interface": interface}))
    assert own.client.api.create_plugin("mine:latest", str(tmp_path))
    assert Inventory.of(own.client.api).came_since(as_before, "plugin")
    assert cleaned(own, as_before).refused == []


def test_what_somebody_else_is_removing_is_waited_for(own: Daemon, busybox: str, as_before: Inventory) -> None:
    for number in range(4):
        own.client.containers.run(busybox, "sleep 1000", detach=True, remove=True, name=f"c{number}", volumes=["/v"])
        own.client.containers.get(f"c{number}").kill()
    assert cleaned(own, as_before).refused == []


def test_what_would_not_go_is_named_with_the_reason(own: Daemon, busybox: str, as_before: Inventory) -> None:
    nameless = build(own, 0, f"FROM {busybox}", "RUN touch /nameless")
    before = Inventory.of(own.client.api)
    own.client.images.get(nameless).tag("named", "late")
    assert cleaned(own, before).refused == [
        "image named:late: it is the only name of an image from before, which would go with it"
    ]
    assert nameless in Inventory.of(own.client.api).things["image"]
    cleaned(own, as_before)


def test_a_network_goes_even_if_containers_from_before_were_connected_to_it(
    own: Daemon, busybox: str, as_before: Inventory
) -> None:
    own.client.networks.create("before")
    served = own.client.containers.run(busybox, "sleep 1000", name="before", network="before", detach=True)
    before, there = Inventory.of(own.client.api), is_there(own)
    own.client.networks.create("during").connect("before")
    assert cleaned(own, before).refused == []
    assert is_there(own) == there
    served.reload()
    assert served.status == "running"
    assert list(served.attrs["NetworkSettings"]["Networks"]) == ["before"]
    cleaned(own, as_before)


def test_networks_go_that_others_are_made_from_in_whatever_order_they_are_listed(
    own: Daemon, as_before: Inventory
) -> None:
    api: Any = own.client.api
    for number in range(4):  # A daemon lists them in an order of its own.
        for network in (
            {"Name": f"template{number}", "ConfigOnly": True, "Options": {"com.docker.network.driver.mtu": "1400"}},
            {"Name": f"made{number}", "ConfigFrom": {"Network": f"template{number}"}, "Driver": "bridge"},
        ):
            api._raise_for_status(api._post_json(api._url("/networks/create"), data=network))
    assert cleaned(own, as_before).refused == []


def test_containers_that_start_while_others_are_removed_go_too(
    own: Daemon, busybox: str, as_before: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = Cleaning._remove_container

    def start_another_and_remove(cleaning: Cleaning, identity: str) -> None:
        if name := next(names, ""):
            own.client.containers.run(busybox, "sleep 1000", name=name, volumes=[f"{name}-vol:/v"], detach=True)
        remove(cleaning, identity)

    monkeypatch.setattr(Cleaning, "_remove_container", start_another_and_remove)
    names = iter(["second", "third"])
    own.client.containers.run(busybox, "sleep 1000", name="first", detach=True)
    assert cleaned(own, as_before).refused == []
    assert is_there(own) == (as_before.things, as_before.tags, as_before.swarm)

    names = iter([f"again-{number}" for number in range(9)])
    own.client.containers.run(busybox, "sleep 1000", name="again", detach=True)
    assert cleaned(own, as_before).refused[0] == "containers: new ones came as fast as others were removed, 5 times"
    monkeypatch.undo()
    cleaned(own, as_before)


def test_it_takes_little_more_than_to_remove_all_that_by_hand(own: Daemon, busybox: str, as_before: Inventory) -> None:
    client = own.client

    def left() -> tuple[list[Any], Any, Any]:
        network, volume = client.networks.create("net"), client.volumes.create("vol")
        how: Any = {"detach": True, "network": "net", "volumes": ["vol:/v"]}
        return [client.containers.run(busybox, "sleep 1000", **how) for _ in range(3)], network, volume

    def seconds_by_hand() -> float:
        containers, network, volume = left()
        begin = time.monotonic()
        for container in containers:
            container.remove(force=True)
        network.remove()
        volume.remove(force=True)
        return time.monotonic() - begin

    def seconds(leave: Callable[[], object]) -> float:
        leave()
        begin = time.monotonic()
        Inventory.of(client.api)  # As before the test.
        assert cleaned(own, as_before).refused == []
        return time.monotonic() - begin

    # Where nothing else runs, which is waited for.
    wait_until(lambda: seconds(lambda: None) < 0.1, lambda: "it was never that fast after nothing")
    wait_until(lambda: seconds(left) < seconds_by_hand() + 0.25, lambda: "it was never that fast")


# -- in a run


def test_dind_clean_removes_what_the_test_left_and_nothing_else(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makepyfile(
        f"""
        import pytest

        IMAGE = {busybox!r}

        def everything(client):
            containers, volumes = client.containers.list(all=True), client.volumes.list()
            return sorted(one.name for one in containers) + sorted(one.name for one in volumes)

        def leave(client, name):
            client.containers.run(IMAGE, "sleep 1000", name=name, detach=True, volumes=[f"{{name}}-vol:/v"])

        @pytest.fixture
        def removes_its_own(dind_client):
            leave(dind_client, "own")
            yield
            dind_client.containers.get("own").remove(force=True)  # It must still be there.

        @pytest.fixture(scope="session")
        def late(dind_client):
            leave(dind_client, "late")
            dind_client.images.remove("before:1")  # It is not to come back.

        @pytest.fixture(scope="module", autouse=True)
        def module(dind_client):
            leave(dind_client, "module")

        def test_before(dind_client):
            leave(dind_client, "before")
            dind_client.images.get(IMAGE).tag("before:1")

        @pytest.mark.parametrize("fails", [False, True])
        def test_leaves(dind_client, removes_its_own, dind_clean, request, fails):
            leave(dind_client, "during")
            request.getfixturevalue("late")
            assert not fails

        def test_after(dind_client):
            assert dind_client.images.get(IMAGE).tags == [IMAGE]
            assert everything(dind_client) == ["before", "late", "module", "before-vol", "late-vol", "module-vol"]

        def test_asks_for_it_in_the_middle(dind_client, request):
            leave(dind_client, "stays")
            request.getfixturevalue("dind_clean")
            leave(dind_client, "goes")

        def test_and_it_counts_from_there(dind_client):
            assert everything(dind_client)[:4] == ["before", "late", "module", "stays"]
            assert "goes-vol" not in everything(dind_client)
        """
    )
    result = inner.run("--dind", f"--dind-preload={busybox}", *NO_XDIST, "-W", "error")
    result.assert_outcomes(passed=5, failed=1)


def test_with_the_ini_value_every_test_that_uses_the_daemon_is_cleaned_after(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makeini("[pytest]\ndind_clean = true\ndind_builds = built:1 app")
    app = inner.pytester.mkdir("app")
    (app / "Dockerfile").write_text(f"FROM {busybox}\nRUN touch /app\n")
    inner.pytester.makepyfile(
        test_none="def test_that_needs_no_daemon(tmp_path, request): pass",
        test_some=f"""
        import subprocess
        import pytest

        IMAGE = {busybox!r}

        @pytest.fixture(scope="session", autouse=True)
        def kept(request):
            request.getfixturevalue("dind_client").volumes.create("kept")

        def test_by_name(request):
            request.getfixturevalue("dind_client").containers.create(IMAGE)

        def test_by_command(dind_env):
            subprocess.run(["docker", "run", "-v", "/v", IMAGE, "true"], env=dind_env, check=True)

        def test_builds(dind_build, dind_client):
            dind_build("app", tag="app:1")
            dind_client.images.get("app:1").tag(IMAGE)
            dind_client.images.get("app:1").tag("app:2")

        def test_prunes(dind_client):
            found = [tag for image in dind_client.images.list() for tag in image.tags]
            assert sorted(found) == sorted([IMAGE, "app:1", "built:1"])
            with pytest.raises(Exception, match="No such file"):
                dind_client.containers.run(IMAGE, "ls /app", stderr=True)
            for image in dind_client.images.list():
                dind_client.images.remove(image.id, force=True)

        def test_finds_all_that_is_not_a_tests(dind_client):
            assert sorted(image.tags for image in dind_client.images.list()) == sorted([[IMAGE], ["built:1"]])
            assert dind_client.containers.list(all=True) == []
            assert [volume.name for volume in dind_client.volumes.list()] == ["kept"]

        def test_breaks_it(dind_daemon):
            dind_daemon.client.volumes.create("during")
            dind_daemon.exec(["sh", "-c", "kill -9 $(pidof dockerd)"])

        def test_gets_a_new_one(dind_client):
            assert dind_client.volumes.list() == []
        """,
    )
    wanted = ("--dind", f"--dind-preload={busybox}", *NO_XDIST, "-W", "error")
    result = inner.run(*wanted, "test_none.py")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("dind: * started *")
    result = inner.run(*wanted)
    result.assert_outcomes(passed=8)


def test_what_fixtures_of_wider_scopes_do_in_their_end_comes_after_the_cleaning_and_stays(
    inner: InnerRun, busybox: str
) -> None:
    inner.pytester.makeconftest(
        f"""
        import pytest

        def network_for(scope):
            @pytest.fixture(scope=scope, name=f"{{scope}}_network")
            def fixture(dind_client):
                network = dind_client.networks.create(f"{{scope}}-net")
                yield network
                network.remove()  # It fails while a container of a test's is connected.
                dind_client.volumes.create(f"by-{{scope}}")

            return fixture

        class_network, module_network = network_for("class"), network_for("module")
        session_network = network_for("session")

        def leave(client, *networks):
            container = client.containers.create({busybox!r}, "sleep 1000", name="left", volumes=["left-vol:/v"])
            for network in networks:
                network.connect(container)
            container.start()
        """
    )
    inner.pytester.makepyfile(
        test_a="""
        import unittest
        import pytest
        from conftest import leave

        class TestAll:
            def test_it(self, dind_client, class_network, module_network, session_network):
                leave(dind_client, class_network, module_network, session_network)

            def test_again(self, dind_client, class_network, module_network, session_network):
                leave(dind_client, class_network, module_network, session_network)

        class TestSetUp:
            @pytest.fixture(autouse=True)
            def client(self, dind_client):
                self.client = dind_client

            def teardown_method(self):
                self.client.volumes.create("in-teardown")

            def test_of_a_class(self, class_network):
                leave(self.client, class_network)

        class TestOfUnittest(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def client(self, dind_client, module_network):
                self.client, self.network = dind_client, module_network

            def test_one(self):
                leave(self.client, self.network)
        """,
        test_b="""
        def from_a_doctest():
            '''
            >>> getfixture("dind_client").volumes.create("by-doctest").name
            'by-doctest'
            '''

        def test_finds_what_the_fixtures_left(dind_client):
            assert dind_client.containers.list(all=True) == []
            assert [one.name for one in dind_client.networks.list() if one.name.endswith("-net")] == ["session-net"]
            assert sorted(one.name for one in dind_client.volumes.list()) == ["by-class", "by-module"]
        """,
    )
    result = inner.run("--dind", "--dind-clean", "--doctest-modules", f"--dind-preload={busybox}", *NO_XDIST)
    result.assert_outcomes(passed=6)


def test_a_preloaded_image_without_a_name_comes_back(inner: InnerRun, busybox: str, host: docker.DockerClient) -> None:
    with (inner.pytester.path / "nameless.tar").open("wb") as file:
        file.writelines(host.images.get(busybox).save())
    inner.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("time", [1, 2])
        def test_removes_it(dind_client, dind_clean, time):
            image, = dind_client.images.list()
            assert image.tags == []
            dind_client.images.remove(image.id, force=True)
        """
    )
    inner.run("--dind", "--dind-preload=./nameless.tar", *NO_XDIST).assert_outcomes(passed=2)


def test_a_warning_says_which_test_left_what_and_why_it_is_still_there(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makepyfile(
        f"""
        def test_before(dind_client):
            dind_client.containers.create({busybox!r}, name="before").commit()

        def test_it(dind_client, dind_clean):
            nameless, = [one for one in dind_client.images.list() if not one.tags]
            nameless.tag("mine", "late")
        """
    )
    result = inner.run("--dind", f"--dind-preload={busybox}", *NO_XDIST)
    result.assert_outcomes(passed=2, warnings=1)
    left = "all that *::test_it left in pytest-dind-*, and the tests that follow will find it: image mine:late: *name*"
    result.stdout.fnmatch_lines([f"*DindWarning: dind_clean could not remove {left}"])


def test_of_a_daemon_that_is_kept_the_last_test_is_not_cleaned_and_even_a_quiet_run_names_it(
    inner: InnerRun, busybox: str, host: docker.DockerClient
) -> None:
    inner.pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.parametrize("name", ["first", "second"])
        def test_it(dind_client, name):
            dind_client.containers.create({busybox!r}, name=name)
            assert name == "first"

        def test_after(dind_client):
            assert dind_client.containers.list(all=True) == []
        """
    )
    options = ("--dind", "--dind-clean", "--dind-keep=failed", f"--dind-preload={busybox}", *NO_XDIST, "-q")
    for more, left in (((), []), (("-x",), ["second"])):
        result = inner.run(*options, *more)
        (kept,) = inner.containers()
        result.stdout.fnmatch_lines([f"dind: kept {kept}: export DOCKER_HOST=*", f"*docker rm -fv {kept}"])
        (said,) = re.findall(r"export DOCKER_HOST=(\S+)", str(result.stdout))
        client = docker.DockerClient(said)
        assert [one.name for one in client.containers.list(all=True)] == left
        client.close()
        result.assert_outcomes(passed=1 if more else 2, failed=1)
        host.containers.get(kept).remove(force=True, v=True)
    inner.run("--dind", *NO_XDIST)  # It sweeps the directory of the last one's socket.


@pytest.mark.parametrize("asks", ["", "dind_env"])
def test_it_is_clean_in_every_worker_with_every_engine_and_in_a_suite_that_knows_of_none(
    inner: InnerRun, busybox: str, asks: str
) -> None:
    inner.pytester.makepyfile(
        f"""
        import docker
        import pytest

        @pytest.fixture
        def client({asks}):
            client = docker.from_env(environment={asks or None})
            yield client
            client.close()

        @pytest.mark.parametrize("number", range(3))
        def test_it(client, number):
            assert client.containers.list(all=True) == []
            client.containers.run({busybox!r}, "true", name="left")

        def test_whose_end_fails(client, request):
            assert client.containers.list(all=True) == []
            client.containers.create({busybox!r}, name="left")
            request.addfinalizer(lambda: 1 / 0)
        """
    )
    engines = [IMAGE, *MATRIX[-1:]] if asks else [IMAGE]
    how = (*NO_XDIST, *(f"--dind-image={engine}" for engine in engines)) if asks else ("--dind-environ", "-n2")
    result = inner.run("--dind", "--dind-clean", f"--dind-preload={busybox}", *how)
    result.assert_outcomes(passed=4 * len(engines), errors=len(engines))


def test_a_daemon_that_is_broken_is_not_cleaned_but_replaced(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makepyfile(
        f"""
        def test_stops_containerd(dind_daemon, dind_clean):
            dind_daemon.client.containers.run({busybox!r}, "sleep 1000", detach=True)
            dind_daemon.exec(["sh", "-c", "kill -STOP $(pidof containerd)"])

        def test_after(dind_client):
            assert dind_client.containers.list(all=True) == []
        """
    )
    result = inner.run("--dind", f"--dind-preload={busybox}", *NO_XDIST, "-W", "error")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["*::test_stops_containerd broke it (its containerd process is stopped, as by SIGSTOP)"]
    )
