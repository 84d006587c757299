"""`--dind-environ`: suites that know nothing of this plugin, in the worker's daemon from the first import on."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import docker
import pytest

from .conftest import InnerRun, usage_error

#: A suite as others write them: it looks for Docker where everybody does, some of it already when it is imported.
CONFTEST = """
    import json, os, pathlib
    import docker

    def identity():
        client = docker.from_env()
        try:
            return client.info()["ID"]
        finally:
            client.close()

    HERE = pathlib.Path(__file__).parent
    AT_IMPORT = identity()

    def write(name, **found):
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        (HERE / f"{worker}-{name}.seen").write_text(json.dumps({"worker": worker, **found}))

    write("conftest", ids=[AT_IMPORT])
"""

SUITE = """
    import docker, pytest
    from conftest import identity, write

    IMAGE = {busybox!r}
    CLIENT = docker.from_env()
    ID = CLIENT.info()["ID"]

    @pytest.mark.parametrize("n", range(2))
    def test_client_{name}(n):
        write(f"{name}-{{n}}", ids=[ID, CLIENT.info()["ID"], identity()])

    def test_mount_{name}(tmp_path):
        (tmp_path / "in").write_text("from the test")
        command = ["sh", "-c", "cat /data/in; echo back >/data/out"]
        there = {{str(tmp_path): {{"bind": "/data"}}}}
        assert CLIENT.containers.run(IMAGE, command, volumes=there, remove=True) == b"from the test"
        assert (tmp_path / "out").read_text() == "back\\n"
"""


class Suite:
    """The suite above, and which engine each process of its runs saw."""

    def __init__(self, inner: InnerRun, busybox: str) -> None:
        self.inner = inner
        self.preload = f"--dind-preload={busybox}"
        inner.pytester.makeconftest(CONFTEST)
        inner.pytester.makepyfile(**{f"test_{name}": SUITE.format(busybox=busybox, name=name) for name in "ab"})

    def run(self, *arguments: str) -> pytest.RunResult:
        # Not inner.run(): pytester names a base temp, and pytest makes one that is named anew.
        return self.inner.pytester.run(sys.executable, "-m", "pytest", "--dind", self.preload, *arguments)

    def engines(self, files: str = "*") -> dict[str, str]:
        """Which engine each process saw, always the same one."""
        seen: dict[str, set[str]] = {}
        for path in self.inner.pytester.path.glob(f"{files}.seen"):
            found = json.loads(path.read_text())
            seen.setdefault(found["worker"], set()).update(found["ids"])
        assert all(len(ids) == 1 for ids in seen.values()), seen
        return {worker: ids.pop() for worker, ids in seen.items()}


@pytest.fixture
def suite(inner: InnerRun, busybox: str, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(inner.pytester.mkdir("temp")))
    return Suite(inner, busybox)


@pytest.mark.parametrize("arguments", ["-p no:xdist", "-n 0 --dist loadfile"])
def test_one_process_has_its_daemon_from_the_first_import_on(
    suite: Suite, arguments: str, host: docker.DockerClient
) -> None:
    suite.run("--dind-environ", *arguments.split()).assert_outcomes(passed=6)
    engines = suite.engines()
    assert list(engines) == ["main"]
    assert engines["main"] != host.info()["ID"]
    assert suite.inner.left() == []


@pytest.mark.parametrize("arguments", ["", "-n 2"])
def test_what_is_only_collected_is_imported_with_a_daemon_too(
    suite: Suite, arguments: str, host: docker.DockerClient
) -> None:
    suite.inner.pytester.makepyfile(test_c="from conftest import identity, write\nwrite('module', ids=[identity()])")
    result = suite.run("--dind-environ", "--collect-only", *arguments.split())
    assert result.ret == 0
    engines = suite.engines()
    assert list(engines) == ["main"]
    assert engines["main"] != host.info()["ID"]
    assert suite.inner.left() == []


def test_with_a_base_temp_that_pytest_makes_anew_conftests_too_see_a_daemon_and_tests_see_their_files(
    suite: Suite, host: docker.DockerClient
) -> None:
    base = suite.inner.pytester.mkdir("base temp, ü") / "deeper"
    base.mkdir()
    suite.run("--dind-environ", "-p", "no:xdist", f"--basetemp={base}").assert_outcomes(passed=6)
    for engines in (suite.engines("main-conftest"), suite.engines("main-[ab]-*")):
        assert engines["main"] != host.info()["ID"]
    assert suite.inner.left() == []


def test_every_worker_has_its_daemon_from_the_first_import_on(suite: Suite, host: docker.DockerClient) -> None:
    suite.inner.pytester.makeini("[pytest]\ndind_environ = true")
    result = suite.run("-n", "2")
    result.assert_outcomes(passed=6)
    engines = suite.engines()
    engines.pop("main")  # The controller, which only imports conftest.py, and has no daemon.
    assert sorted(engines) == ["gw0", "gw1"]
    assert len({host.info()["ID"], *engines.values()}) == 3
    result.stdout.fnmatch_lines(["dind: 2 daemons started *"])
    assert suite.inner.left() == []


def test_a_worker_in_the_place_of_a_crashed_one_has_its_daemon_from_the_first_import_on_too(
    suite: Suite, host: docker.DockerClient
) -> None:
    suite.inner.pytester.makepyfile(
        test_0="""
        import os, signal

        def test_crashes(): os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    result = suite.run("--dind-environ", "-n", "1")
    result.assert_outcomes(passed=6, failed=1)
    result.stdout.fnmatch_lines(["worker 'gw0' crashed while running *::test_crashes*"])
    engines = suite.engines()
    engines.pop("main")
    assert sorted(engines) == ["gw0", "gw1"]
    assert len({host.info()["ID"], *engines.values()}) == 3
    suite.inner.wait_until_nothing_is_left()


def test_the_process_has_its_own_environment_back_in_the_end(
    suite: Suite, host_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{host_socket}")
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    script = suite.inner.pytester.makepyfile(
        script=f"""
        import os, pytest

        def now():
            # pytest's own names are not our business; this script is run by a test.
            return {{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}}

        before = now()
        code = pytest.main(["--dind", "--dind-environ", {suite.preload!r}, "-p", "no:xdist"])
        assert code == 0
        assert now() == before
        """
    )
    assert suite.inner.pytester.runpython(script).ret == 0


def test_the_docker_cli_lands_in_the_workers_daemon(inner: InnerRun, busybox: str) -> None:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker CLI on this machine")
    inner.pytester.makepyfile(
        f"""
        import subprocess
        import docker, pytest

        def cli(*arguments):
            return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()

        ID = cli("info", "--format", "{{{{.ID}}}}")

        @pytest.mark.parametrize("n", range(2))
        def test_it(tmp_path, n):
            assert ID == cli("info", "--format", "{{{{.ID}}}}") == docker.from_env().info()["ID"]
            cli("tag", {busybox!r}, "other:name")
            cli("run", "--name=mine", "-v", f"{{tmp_path}}:/data", "other:name", "touch", "/data/out")
            assert (tmp_path / "out").exists()
            assert cli("ps", "-a", "--format", "{{{{.Names}}}}") == "mine"
            cli("rm", "mine")
        """
    )
    result = inner.run("--dind", "--dind-environ", f"--dind-preload={busybox}", "-n2")
    result.assert_outcomes(passed=2)
    assert inner.left() == []


def test_testcontainers_land_in_the_workers_daemon_and_are_reached_there(
    inner: InnerRun, busybox: str, host: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("testcontainers")
    # Its reaper is an image that a daemon without a registry cannot get.
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    inner.pytester.makepyfile(
        f"""
        import time, urllib.request
        import pytest
        from testcontainers.core.container import DockerContainer

        def fetch(url):
            deadline = time.monotonic() + 60
            while True:
                try:
                    return urllib.request.urlopen(url, timeout=10).read()
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)

        @pytest.mark.parametrize("n", range(2))
        def test_it(n):
            serve = ["sh", "-c", "mkdir /w && echo served >/w/index.html && exec httpd -f -h /w"]
            with DockerContainer({busybox!r}).with_command(serve).with_exposed_ports(80) as container:
                assert container.get_docker_client().client.info()["ID"] != {host.info()["ID"]!r}
                url = f"http://{{container.get_container_host_ip()}}:{{container.get_exposed_port(80)}}/"
                assert fetch(url) == b"served\\n"
        """
    )
    result = inner.run("--dind", "--dind-environ", f"--dind-preload={busybox}", "-n2")
    result.assert_outcomes(passed=2)
    assert inner.left() == []


@pytest.mark.parametrize("mode", ["-p no:xdist", "-n 2"])
def test_a_daemon_that_does_not_start_is_one_message_and_nothing_of_the_suite_is_imported_in_its_stead(
    suite: Suite, mode: str
) -> None:
    result = suite.run("--dind-environ", "--dind-daemon-arg=--no-such-argument", *mode.split())
    usage_error(result, "pytest-dind-", "did not start: it ended after", "unknown flag: --no-such-argument")
    # It would have used the user's own Docker. The controller, which only imports conftest.py, is `main`.
    assert set(suite.engines()) <= ({"main"} if mode == "-n 2" else set())
    suite.inner.wait_until_nothing_is_left()


@pytest.mark.parametrize("mode", ["-p no:xdist", "-n 2"])
def test_an_engine_that_does_not_answer_is_one_message(
    inner: InnerRun, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    inner.pytester.makepyfile("def test_it(): pass")
    result = inner.run("--dind", "--dind-environ", *mode.split())
    usage_error(result, "no Docker engine answers at unix:///nowhere.sock (from DOCKER_HOST): ")


def test_a_test_that_breaks_the_daemon_leaves_a_new_one_for_the_next_at_the_same_address(inner: InnerRun) -> None:
    inner.pytester.makepyfile(
        """
        import os, subprocess, sys
        import docker

        CLIENT = docker.from_env()
        BEFORE = {"address": os.environ["DOCKER_HOST"], "id": CLIENT.info()["ID"]}

        def test_breaks(dind_daemon):
            assert dind_daemon.host == BEFORE["address"]
            dind_daemon.exec(["pkill", "-KILL", "-x", "dockerd"])

        def test_next():
            assert os.environ["DOCKER_HOST"] == BEFORE["address"]
            assert CLIENT.info()["ID"] == docker.from_env().info()["ID"] != BEFORE["id"]
        """
    )
    result = inner.run("--dind", "--dind-environ", "-p", "no:xdist")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["dind: the session daemon * was replaced: *::test_breaks broke it (*)"])
