"""What users see of the plugin: options, skips, fixtures."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from pytest_dind import Daemon, Settings
from pytest_dind.container import describe
from pytest_dind.labels import Ownership
from pytest_dind.plugin import SKIP_REASON
from pytest_dind.transport import UnixSocket

from .conftest import MATRIX, InnerRun, tags_on, usage_error
from .servers import Door, Handler

SUITE = """
    def test_daemon(dind_client):
        assert dind_client.ping()

    def test_no_daemon():
        pass
"""


def test_without_dind_tests_that_ask_for_a_daemon_are_skipped_and_the_reason_names_the_option(inner: InnerRun) -> None:
    inner.pytester.makepyfile(SUITE)
    result = inner.run("-rs")
    result.assert_outcomes(skipped=1, passed=1)
    result.stdout.fnmatch_lines(["*needs a Docker daemon of its own*run pytest with --dind*"])


@pytest.mark.heart
def test_with_dind_a_test_gets_a_daemon(inner: InnerRun) -> None:
    inner.pytester.makepyfile(SUITE)
    result = inner.run("--dind", "-p", "no:xdist")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["dind: host engine Docker *", "dind: 1 daemon started (median *); all removed*"])
    assert inner.left() == []


FIXTURES = ("dind_settings", "dind_daemon", "dind_client", "dind_env", "dind_environ", "dind_fresh_daemon",
            "dind_fresh_client", "dind_factory", "dind_clean")  # fmt: skip
NO_XDIST = ("-p", "no:xdist")
MODES = pytest.mark.parametrize("mode", [NO_XDIST, ("-n2",)], ids=["no-xdist", "n2"])


# -- without --dind


@MODES
def test_without_dind_every_fixture_skips_also_when_it_is_asked_for_by_name(
    inner: InnerRun, mode: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    tests = "".join(f"def test_{name}({name}): pass\n" for name in FIXTURES)
    inner.pytester.makepyfile(
        "import pytest\n" + tests + f"@pytest.mark.parametrize('name', {FIXTURES})\n"
        "def test_by_name(request, name): request.getfixturevalue(name)\n"
    )
    result = inner.run("-rs", *mode)
    result.assert_outcomes(skipped=2 * len(FIXTURES))
    result.stdout.fnmatch_lines([f"SKIPPED [[]*[]] *: {SKIP_REASON}"])
    assert "dind:" not in str(result.stdout)


def test_without_dind_nothing_slow_is_imported(inner: InnerRun) -> None:
    inner.pytester.makepyfile("def test_it(): pass")
    result = inner.pytester.run(sys.executable, "-X", "importtime", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert result.ret == 0
    imported = {line.rpartition("|")[2].strip() for line in result.errlines}
    assert "pytest_dind.table" in imported  # The plugin itself is imported in a way that is not shown.
    ours = {f"pytest_dind.{name}" for name in ("build", "early", "session", "settings")}
    for slow in ("docker", "requests", "filelock", "platformdirs", *ours):
        assert slow not in imported


@pytest.mark.parametrize("shown", ["--help", "--markers", "--fixtures", "--fixtures-per-test", "--collect-only"])
@pytest.mark.parametrize("wanted", [(), ("--dind",), ("--dind", "-n2")], ids=["without-dind", "dind", "dind-n2"])
def test_what_only_shows_something_needs_no_engine_and_starts_nothing(
    inner: InnerRun, shown: str, wanted: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    inner.pytester.makepyfile("def test_it(dind_client): pass")
    result = inner.pytester.runpytest_inprocess(shown, *wanted)
    assert result.ret == 0
    seen = {
        "--help": "*--dind-image=IMAGE*", "--markers": "@pytest.mark.dind(preload, image, *",
        "--fixtures": "dind_daemon*", "--fixtures-per-test": "dind_client*", "--collect-only": "*test_it>*",
    }  # fmt: skip
    result.stdout.fnmatch_lines([seen[shown]])
    assert not (inner.pytester.path / ".local").exists()


# -- what ends the run with one message


class SilentSocket:
    """What may lie at an engine's address without an engine behind it."""

    @staticmethod
    def nothing(path: Path) -> None:
        pass

    @staticmethod
    def regular_file(path: Path) -> None:
        path.touch()

    @staticmethod
    def refusing(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))


@pytest.mark.parametrize(
    ("there", "mode"),
    [
        (SilentSocket.nothing, NO_XDIST),
        (SilentSocket.nothing, ("-n2",)),
        (SilentSocket.regular_file, NO_XDIST),
        (SilentSocket.refusing, NO_XDIST),
    ],
)
def test_an_engine_that_does_not_answer_is_one_usage_error(
    inner: InnerRun, mode: tuple[str, ...], there: Callable[[Path], None], short_tmp: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    there(short_tmp / "engine.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{short_tmp}/engine.sock")
    inner.pytester.makepyfile("def test_it(dind_client): pass")
    reason = "No such file or directory" if there is SilentSocket.nothing else "Connection refused"
    usage_error(
        inner.run("--dind", *mode),
        f"no Docker engine answers at unix://{short_tmp}/engine.sock (from DOCKER_HOST): ",
        reason,
        "Start Docker, set DOCKER_HOST to an engine that runs, or, if the permission is denied, add your user",
    )


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "ftp://x"])
def test_an_address_where_no_engine_can_be_is_one_usage_error(
    inner: InnerRun, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    inner.pytester.makepyfile("def test_it(dind_client): pass")
    usage_error(inner.run("--dind"), "no Docker engine answers at", "(from DOCKER_HOST)")


USERS = """
    import pytest

    @pytest.mark.parametrize("n", range(6))
    def test_it(dind_client, n): pass
"""


@pytest.mark.parametrize(
    ("argument", "texts"),
    [
        ("--dind-image=localhost:1/engine:1",
         ("image 'localhost:1/engine:1' is nowhere: the host engine at ", "has not got it, and pulling it failed",
          "or name another with --dind-image")),
        ("--dind-preload=localhost:1/inner:1",
         ("image 'localhost:1/inner:1' is nowhere: the host engine at ",
          "has not got it, and pulling it in the daemon failed")),
        ("--dind-runtime=nope", ("the host engine refuses to run pytest-dind-", "nope", "cause: ", "cure: ")),
        ("--dind-runtime=sysbox-runc", ("the host engine refuses to run pytest-dind-", "sysbox-runc", "cure: ")),
        ("--dind-network=nowhere", ("the host engine refuses to run pytest-dind-", "nowhere")),
    ],
    ids=["image", "preload", "runtime", "sysbox", "network"],
)  # fmt: skip
def test_what_no_daemon_can_start_without_is_one_usage_error(
    inner: InnerRun, argument: str, texts: tuple[str, ...]
) -> None:
    inner.pytester.makepyfile(USERS)
    usage_error(inner.run("--dind", argument, *NO_XDIST), *texts)
    inner.wait_until_nothing_is_left(none_started="--dind-image" in argument)


@pytest.mark.parametrize("argument", ["--dind-image=localhost:1/a:1", "--dind-preload=localhost:1/b:1"])
def test_what_no_daemon_can_start_without_is_one_usage_error_of_all_workers(inner: InnerRun, argument: str) -> None:
    inner.pytester.makepyfile(USERS)
    usage_error(inner.run("--dind", argument, "-n2"), f"image {argument.partition('=')[2]!r} is nowhere: ")
    inner.wait_until_nothing_is_left(none_started="--dind-image" in argument)


class NoPrivileges(Handler):
    """A door to the real engine that refuses privileged containers, as an authorization plugin does."""

    def do_POST(self) -> None:  # noqa: N802 (http.server's name)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.partition("?")[0].endswith("/containers/create") and json.loads(body)["HostConfig"]["Privileged"]:
            self.answer(403, b'{"message": "authorization denied by plugin casbin: privileged"}')
        else:
            self._pass_on(body)

    def do_GET(self) -> None:  # noqa: N802
        self._pass_on(None)

    def _pass_on(self, body: bytes | None) -> None:
        connection = http.client.HTTPConnection("docker")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.engine))
        connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        self.answer(answer.status, answer.read())
        connection.close()

    #: The real engine's socket.
    engine: Path


@MODES
def test_an_engine_whose_policy_denies_privileged_containers_is_one_usage_error(
    inner: InnerRun, mode: tuple[str, ...], short_tmp: Path, host_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoPrivileges, "engine", host_socket, raising=False)
    with Door.opened(short_tmp / "engine.sock", NoPrivileges):
        monkeypatch.setenv("DOCKER_HOST", f"unix://{short_tmp}/engine.sock")
        inner.pytester.makepyfile(USERS)
        result = inner.run("--dind", *mode)
    usage_error(
        result, "the host engine refuses to run pytest-dind-", "authorization denied by plugin casbin: privileged",
        "cause: ", "cure: ",
    )  # fmt: skip
    inner.wait_until_nothing_is_left()


@pytest.fixture(scope="module")
def engine_with_user_namespaces(image: str, busybox: str) -> Iterator[Daemon]:
    """An engine that refuses privileged containers, since it maps root to another user."""
    shared = (Path("/tmp"), Path(tempfile.gettempdir()))
    with Daemon.start(Settings(image=image, daemon_arg=("--userns-remap=default",), mount=shared)) as engine:
        # The plugin looks for its image first; the refusal comes before it would matter which.
        engine.load(busybox)
        yield engine


def test_an_engine_with_user_namespaces_is_one_usage_error(
    inner: InnerRun, engine_with_user_namespaces: Daemon, busybox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine_with_user_namespaces.host)
    inner.pytester.makepyfile(USERS)
    usage_error(
        inner.run("--dind", f"--dind-image={busybox}", *NO_XDIST),
        "privileged mode is incompatible with user namespaces",
        "cause: ",
        "userns-remap",
        "cure: ",
    )
    assert engine_with_user_namespaces.client.containers.list(all=True) == []


def test_a_marker_that_no_engine_can_satisfy_is_that_tests_error_alone(inner: InnerRun) -> None:
    inner.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.dind(image="localhost:1/engine:1")
        def test_image(dind_fresh_daemon): pass

        @pytest.mark.dind(preload=["localhost:1/inner:1"])
        def test_fresh_preload(dind_fresh_daemon): pass

        @pytest.mark.dind(preload=["localhost:1/inner:2"])
        def test_session_preload(dind_client): pass

        @pytest.mark.dind(runtime="nope")
        def test_runtime(dind_fresh_daemon): pass

        def test_good(dind_client): dind_client.ping()

        def test_break(dind_daemon): dind_daemon.exec(["pkill", "-KILL", "dockerd"])

        def test_good_after_it_was_started_anew(dind_client): dind_client.ping()
        """
    )
    result = inner.run("--dind", *NO_XDIST)
    result.assert_outcomes(passed=3, errors=4)
    for name in ("localhost:1/engine:1", "localhost:1/inner:1", "localhost:1/inner:2"):
        result.stdout.fnmatch_lines([f"E *ImageNotFoundError: image '{name}' is nowhere: *"])
    result.stdout.fnmatch_lines(["E *EngineRefusedError: the host engine refuses to run *nope*"])


# -- settings reach the daemon


def test_markers_and_options_reach_the_daemon(inner: InnerRun, host: docker.DockerClient, busybox: str) -> None:
    network = host.networks.create(f"pytest-dind-test-{secrets.token_hex(4)}")
    try:
        inner.pytester.makepyfile(
            f"""
            import docker, pytest

            HOST = docker.from_env()
            IMAGE = {busybox!r}

            def inspected(daemon):
                return HOST.api.inspect_container(daemon.name)

            @pytest.mark.dind(memory="512m", config={{"mtu": 1300}}, daemon_args=["--label=x=y"])
            class TestMarked:
                @pytest.mark.dind(memory="768m", pids=4000, preload=[IMAGE], network={network.name!r}, runtime="runc")
                def test_it(self, dind_fresh_daemon, dind_fresh_client, dind_daemon):
                    assert dind_fresh_client is dind_fresh_daemon.client
                    found = inspected(dind_fresh_daemon)
                    limits = found["HostConfig"]
                    assert (limits["Memory"], limits["MemorySwap"]) == (768 * 1024 ** 2,) * 2
                    assert (limits["NanoCpus"], limits["PidsLimit"]) == (1_500_000_000, 4000)
                    assert (limits["Privileged"], limits["Runtime"]) == (True, "runc")
                    assert list(found["NetworkSettings"]["Networks"]) == [{network.name!r}]
                    assert dind_fresh_daemon.ip == found["NetworkSettings"]["Networks"][{network.name!r}]["IPAddress"]
                    assert dind_fresh_client.info()["Labels"] == ["x=y"]
                    bridge = dind_fresh_client.networks.get("bridge").attrs
                    assert bridge["Options"]["com.docker.network.driver.mtu"] == "1300"
                    assert dind_fresh_client.images.get(IMAGE).id == HOST.images.get(IMAGE).id
                    # Of the same marker, the session daemon gets what to preload and nothing else.
                    assert dind_daemon.client.images.get(IMAGE).id == HOST.images.get(IMAGE).id

            def test_session(dind_daemon):
                found = inspected(dind_daemon)
                limits = found["HostConfig"]
                assert (limits["Memory"], limits["MemorySwap"]) == (2 * 1024 ** 3,) * 2
                assert (limits["NanoCpus"], limits["PidsLimit"]) == (1_500_000_000, 5000)
                assert list(found["NetworkSettings"]["Networks"]) == ["bridge"]
                assert sorted(dind_daemon.client.info()["Labels"]) == ["a=b", "c=d"]

            def test_factory(dind_factory, dind_daemon):
                with dind_factory(memory="1g", daemon_args=[]) as daemon:
                    assert inspected(daemon)["HostConfig"]["Memory"] == 1024 ** 3
                    assert daemon.client.info()["Labels"] in ([], None)
                    assert daemon.client.info()["ID"] != dind_daemon.client.info()["ID"]
                    name = daemon.name
                with pytest.raises(docker.errors.NotFound):
                    HOST.api.inspect_container(name)
                left_to_the_run = dind_factory()
                assert left_to_the_run.client.ping()
            """
        )
        result = inner.run(
            "--dind", *NO_XDIST, "--dind-memory=2g", "--dind-cpus=1.5", "--dind-pids=5000",
            "--dind-daemon-arg=--label=a=b", "--dind-daemon-arg=--label=c=d",
        )  # fmt: skip
        result.assert_outcomes(passed=3)
        result.stdout.fnmatch_lines(["dind: 4 daemons started (median * s, max * s); all removed with their volumes"])
        inner.wait_until_nothing_is_left()
    finally:
        network.remove()


@pytest.mark.parametrize(
    ("runtime", "privileged"), [(None, True), ("runc", True), ("sysbox-runc", False), ("my-sysbox", False)]
)
def test_only_a_runtime_of_sysbox_does_without_privileged(runtime: str | None, privileged: bool) -> None:
    described = describe(
        Settings(runtime=runtime), UnixSocket(Path("/s/d")), Ownership("run", "gw0", "host", "lease"), {}
    )
    assert described["HostConfig"]["Privileged"] is privileged
    assert described["HostConfig"].get("Runtime") == runtime


def test_what_a_marker_preloads_is_there_for_every_test_though_one_removes_it(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makepyfile(f"""
        import pytest

        pytestmark = pytest.mark.dind(preload=["{busybox}"])

        @pytest.mark.parametrize("number", range(2))
        def test_remove(dind_client, number):
            assert dind_client.images.get("{busybox}")
            dind_client.images.remove("{busybox}", force=True)
    """)
    inner.run("--dind", "-p", "no:xdist").assert_outcomes(passed=2)


def test_dind_settings_can_be_overridden_at_the_root_and_for_fresh_daemons_below(inner: InnerRun) -> None:
    inner.pytester.makepyfile(
        **{
            "conftest": """
                import pytest

                @pytest.fixture(scope="session")
                def dind_settings(dind_settings):
                    return dind_settings.changed("conftest.py", memory="1g", daemon_args=["--label=a=b"])
            """,
            "a/test_a": """
                import pytest

                def test_session(dind_daemon, dind_client):
                    assert dind_daemon.settings.memory == 1024 ** 3
                    assert dind_client.info()["Labels"] == ["a=b"]

                @pytest.mark.dind(memory="2g")
                def test_fresh(dind_fresh_daemon):
                    assert dind_fresh_daemon.settings.memory == 2 * 1024 ** 3
                    assert dind_fresh_daemon.client.info()["Labels"] == ["a=b"]
            """,
            "b/conftest": """
                import pytest

                @pytest.fixture(scope="session")
                def dind_settings(dind_settings):
                    return dind_settings.changed("b/conftest.py", daemon_args=["--label=c=d"])
            """,
            "b/test_b": """
                def test_fresh(dind_fresh_daemon, dind_factory):
                    assert dind_fresh_daemon.settings.memory == 1024 ** 3
                    assert dind_fresh_daemon.client.info()["Labels"] == ["c=d"]
            """,
            "c/conftest": """
                import pytest

                @pytest.fixture(scope="session")
                def dind_settings(dind_settings):
                    return dind_settings.changed("c/conftest.py", memory="1k")
            """,
            "c/test_c": "def test_c(dind_client): pass",
        }
    )
    result = inner.run("--dind", *NO_XDIST)
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["E *SettingsError: c/conftest.py, memory: '1k' is not a size of at least 6m*"])


@pytest.fixture(scope="module")
def other_image(host: docker.DockerClient, image: str) -> str:
    """The image of another engine than `image`."""
    present = tags_on(host)
    for candidate in MATRIX:
        if candidate != image and candidate in present:
            return candidate
    pytest.skip(f"the host engine has no second image of an engine: {MATRIX} (PYTEST_DIND_MATRIX)")


@MODES
def test_with_several_images_every_test_that_uses_a_daemon_runs_on_each(
    inner: InnerRun, mode: tuple[str, ...], image: str, other_image: str, version_of: Callable[[str], str]
) -> None:
    inner.pytester.makepyfile(
        test_it=f"""
        import pytest

        @pytest.fixture(scope="session")
        def of_my_own(dind_client):
            return dind_client.version()["Version"]

        def version(request):
            image = request.node.callspec.params["_dind_image"]
            return {dict(zip((image, other_image), map(version_of, (image, other_image)), strict=True))!r}[image]

        def test_session(dind_daemon, dind_client, of_my_own, request):
            assert dind_client.version()["Version"] == version(request)
            assert dind_daemon.version == of_my_own

        def test_fresh(dind_fresh_client, request):
            assert dind_fresh_client.version()["Version"] == version(request)

        @pytest.mark.dind(image={image!r})
        def test_marked(dind_fresh_daemon, dind_settings):
            assert dind_fresh_daemon.settings.image == {image!r}

        def test_none(): pass
        """
    )
    result = inner.run("--dind", f"--dind-image={image}", f"--dind-image={other_image}", "-v", *mode)
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines([f"dind: *; image {image}, {other_image}; *"])
    for test in ("session", "fresh", "marked"):
        for name in (image, other_image):
            assert f"test_it.py::test_{test}[{name}]" in str(result.stdout)


# -- the environment


def test_dind_environ_is_the_daemons_and_nothing_of_the_users_gets_into_it_or_stays_changed(
    inner: InnerRun, host_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users_config = inner.pytester.mkdir("users-config")
    (users_config / "config.json").write_text('{"auths": {"registry.invalid": {"auth": "dXNlcjpzZWNyZXQ="}}}')
    monkeypatch.setenv("DOCKER_HOST", f"unix://{host_socket}")
    monkeypatch.setenv("DOCKER_CONFIG", str(users_config))
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "")
    monkeypatch.setenv("DOCKER_CERT_PATH", "")
    monkeypatch.setenv("DOCKER_API_VERSION", "1.41")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    monkeypatch.setenv("OF_THE_USER", "stays")
    inner.pytester.makepyfile(
        """
        import json, os, pathlib
        import docker, pytest

        HOST = docker.from_env()

        def now():
            return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}

        BEFORE = now()
        # The names of the user's that have no place there.
        GONE = {"DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION"}

        @pytest.fixture(autouse=True)
        def restored():
            assert now() == BEFORE
            yield
            assert now() == BEFORE

        def test_env(dind_env, dind_daemon):
            assert now() == BEFORE
            changed = {"DOCKER_HOST": dind_daemon.host, "DOCKER_CONFIG": dind_env["DOCKER_CONFIG"],
                       "TESTCONTAINERS_HOST_OVERRIDE": dind_daemon.ip}
            assert {k: v for k, v in dind_env.items() if k != "PYTEST_CURRENT_TEST"} == {
                **{name: value for name, value in BEFORE.items() if name not in GONE}, **changed}
            config = json.loads((pathlib.Path(dind_env["DOCKER_CONFIG"]) / "config.json").read_text())
            assert "auths" not in config

        def test_environ(dind_environ, dind_daemon):
            assert GONE.isdisjoint(os.environ)
            assert os.environ["OF_THE_USER"] == "stays"
            for name in ("DOCKER_HOST", "DOCKER_CONFIG", "TESTCONTAINERS_HOST_OVERRIDE"):
                assert os.environ[name] == dind_environ[name]
            assert docker.from_env().info()["ID"] == dind_daemon.client.info()["ID"] != HOST.info()["ID"]

        def test_fails(dind_environ):
            os.environ["DOCKER_HOST"] = os.environ["DOCKER_CONTEXT"] = "of the test"
            assert False

        def test_container(dind_daemon):
            env = HOST.containers.get(dind_daemon.name).attrs["Config"]["Env"] or []
            of_the_image = HOST.images.get(dind_daemon.settings.image).attrs["Config"]["Env"] or []
            assert set(env) <= set(of_the_image)
        """
    )
    inner.run("--dind", *NO_XDIST).assert_outcomes(passed=3, failed=1)
