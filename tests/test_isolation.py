"""Two workers do the same things with the same names at the same time; one breaks what it has, and nobody notices."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_dind import Daemon, Settings
from pytest_dind.labels import ROLE

from .conftest import InnerRun

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def engine(engine_settings: Settings) -> Iterator[Daemon]:
    """A host engine that nobody else changes: a daemon, with the images for daemons in it."""
    shared = (Path("/tmp"), Path(tempfile.gettempdir()))
    with Daemon.start(dataclasses.replace(engine_settings, mount=shared)) as daemon:
        yield daemon


@pytest.fixture
def on_engine(inner: InnerRun, engine: Daemon, monkeypatch: pytest.MonkeyPatch) -> InnerRun:
    """Inner runs on that engine; their workers can wait for each other."""
    for name in ("DOCKER_HOST", "DOCKER_CONFIG"):
        monkeypatch.setenv(name, engine.env[name])
    inner.pytester.makeconftest("""
        import os, pathlib, time
        import pytest

        @pytest.fixture
        def meet():
            \"\"\"Wait until the other worker has come to the same point.\"\"\"
            here = pathlib.Path(__file__).parent

            def meet(point):
                (here / f"{point}-{os.environ['PYTEST_XDIST_WORKER']}").touch()
                deadline = time.monotonic() + 60
                while len(list(here.glob(f"{point}-*"))) < 2:
                    assert time.monotonic() < deadline, f"the other worker did not come to {point}"
                    time.sleep(0.01)

            return meet
    """)
    return inner


def everything(engine: Daemon) -> dict[str, Any]:
    """What is on an engine, as its API lists it, less what changes by itself."""
    api: Any = engine.client.api
    return {
        "containers": sorted(one["Id"] for one in api.containers(all=True)),
        "images": sorted((one["Id"], sorted(one["RepoTags"] or [])) for one in api.images(all=True)),
        "networks": sorted((one["Id"], one["Name"]) for one in api.networks()),
        # Image stores are to stay.
        "volumes": sorted(one["Name"] for one in api.volumes()["Volumes"] or [] if ROLE not in (one["Labels"] or {})),
    }


def test_two_workers_use_the_same_names_at_once_and_one_prunes_everything(
    on_engine: InnerRun, engine: Daemon, busybox: str
) -> None:
    before = everything(engine)
    common = f"""
        IMAGE = {busybox!r}

        def make(client, text):
            client.images.get(IMAGE).tag("app", "latest")
            client.networks.create("net")
            client.volumes.create("data")
            client.containers.run(
                "app", ["sh", "-c", f"echo {{text}} >/data/index.html; httpd -f -h /data"], name="web", detach=True,
                network="net", ports={{"80/tcp": 8080}}, volumes={{"data": {{"bind": "/data"}}}},
            )

        def fetch(client):
            command = ["sh", "-c", "for i in $(seq 100); do wget -qO- http://127.0.0.1:8080 && break; sleep 0.1; done"]
            return client.containers.run(IMAGE, command, network_mode="host", remove=True).decode().strip()

        def names(client):
            return (
                [c.name for c in client.containers.list(all=True)], client.images.list("app") != [],
                [n.name for n in client.networks.list(names=["net"])], [v.name for v in client.volumes.list()],
            )
    """
    on_engine.pytester.makepyfile(
        common=common,
        test_pruning="""
        from common import *

        def test_it(dind_client, meet):
            make(dind_client, "pruning")
            meet("made")
            assert fetch(dind_client) == "pruning"
            for container in dind_client.containers.list(all=True):
                container.kill()
            dind_client.containers.prune()
            dind_client.images.prune(filters={"dangling": False})
            dind_client.networks.prune()
            dind_client.volumes.prune(filters={"all": True})
            assert names(dind_client) == ([], False, [], [])
            assert dind_client.images.list(all=True) == []
            meet("pruned")
        """,
        test_using="""
        from common import *

        def test_it(dind_client, meet):
            make(dind_client, "using")
            meet("made")
            assert fetch(dind_client) == "using"
            meet("pruned")
            assert fetch(dind_client) == "using"
            assert names(dind_client) == (["web"], True, ["net"], ["data"])
        """,
    )
    result = on_engine.run("--dind", f"--dind-preload={busybox}", "-n2", "--dist=loadfile")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"dind: host engine * at {engine.host} *", "dind: 2 daemons started *"])
    assert everything(engine) == before


def test_a_worker_that_kills_its_daemon_gets_a_new_one_and_the_other_worker_notices_nothing(
    on_engine: InnerRun, engine: Daemon, busybox: str
) -> None:
    before = everything(engine)
    on_engine.pytester.makepyfile(
        test_killing=f"""
        import os, subprocess, sys
        import docker, pytest

        IMAGE = {busybox!r}
        KEPT = {{}}

        def test_before(dind_daemon, dind_client, dind_env):
            dind_client.containers.create(IMAGE, name="mine")
            KEPT.update(
                client=docker.from_env(environment=dind_env), id=dind_client.info()["ID"], host=dind_daemon.host,
                name=dind_daemon.name, environ=dind_env,
            )
            assert KEPT["client"].info()["ID"] == KEPT["id"]

        def test_kills(dind_daemon, meet):
            meet("started")
            dind_daemon.exec(["pkill", "-KILL", "-x", "dockerd"])

        def test_asks_for_it_by_name(request):
            assert request.getfixturevalue("dind_client").info()["ID"] != KEPT["id"]

        def test_after(dind_daemon, dind_client, dind_env, meet):
            new = dind_client.info()["ID"]
            assert new != KEPT["id"]
            assert (dind_daemon.host, dind_daemon.name, dind_env) == (KEPT["host"], KEPT["name"], KEPT["environ"])
            assert KEPT["client"].info()["ID"] == new
            code = "import docker; print(docker.from_env().info()['ID'])"
            output = subprocess.run([sys.executable, "-c", code], env=dind_env, capture_output=True, text=True).stdout
            assert output.strip() == new
            # A new one, with the images that it is to have and nothing of the old one.
            assert dind_client.containers.list(all=True) == []
            assert dind_client.images.get(IMAGE).tags == [IMAGE]
            assert dind_client.containers.run(IMAGE, "echo works", remove=True) == b"works\\n"
            # Addresses in an engine that is itself in a container are not reached, and so not handed out.
            assert "TESTCONTAINERS_HOST_OVERRIDE" not in dind_env
            meet("mended")

        def test_fails_with_the_new_one(dind_daemon):
            assert False
        """,
        test_using=f"""
        def test_it(dind_client, meet):
            identity = dind_client.info()["ID"]
            container = dind_client.containers.run({busybox!r}, "sleep 1000", detach=True)
            meet("started")
            meet("mended")
            assert dind_client.info()["ID"] == identity
            container.reload()
            assert container.status == "running"
        """,
    )
    result = on_engine.run("--dind", f"--dind-preload={busybox}", "-n2", "--dist=loadfile", "-rP")
    result.assert_outcomes(passed=5, failed=1)
    note = "test_killing.py::test_kills broke the session daemon pytest-dind-gw?-*-1: its *"
    result.stdout.fnmatch_lines([f"{note}; this is a new one in its place"])
    result.stdout.fnmatch_lines(
        ["dind: 3 daemons started *",
         "dind: the session daemon pytest-dind-gw?-* was replaced: test_killing.py::test_kills broke it (*)"]
    )  # fmt: skip
    assert everything(engine) == before
