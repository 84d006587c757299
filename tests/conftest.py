"""What all tests share: a real host engine, its images, and inner runs of pytest that can be told from all others."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest

from pytest_dind import Daemon, DindError, Settings
from pytest_dind.basetemp import base_temp_of
from pytest_dind.host import HostEngine
from pytest_dind.labels import HOST, LEASE, ROLE
from pytest_dind.locks import host_id
from pytest_dind.owner import Owner
from pytest_dind.places import sockets_dir
from pytest_dind.store import all_stores, let_go, remove, remove_volume

if TYPE_CHECKING:
    from .agents import Sidecar
    from .watching import Watched

pytest_plugins = ["pytester"]

#: A slow machine gets this long for what takes a fast one a tenth of a second.
PATIENCE = float(os.environ.get("PYTEST_DIND_TEST_PATIENCE", "60"))
#: Where this is set, every test can run, and one that is skipped has failed.
NO_SKIP = bool(os.environ.get("PYTEST_DIND_TEST_NO_SKIP"))

#: The image of the daemons under test.
IMAGE = os.environ.get("PYTEST_DIND_IMAGE") or "docker:dind"
#: docker:dind, or what stands in for it where no registry is reached.
OFFICIAL = os.environ.get("PYTEST_DIND_OFFICIAL_IMAGE") or "docker:dind"
#: A small image with a shell, on the host engine.
BUSYBOX = os.environ.get("PYTEST_DIND_TEST_IMAGE") or "busybox:latest"
#: Images of further engines, older and newer.
MATRIX = os.environ.get("PYTEST_DIND_MATRIX", "").replace(",", " ").split()

#: What a container says of its own memory limit: cgroup v1, then v2.
SHOW_LIMIT = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"


def pytest_configure() -> None:
    # What a script runs in its background ignores Ctrl-C, and so would all that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# -- a skip is a failure, where it is asked for


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} does not run here, and PYTEST_DIND_TEST_NO_SKIP is set: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


# -- the order


#: Modules with tests of half a minute, which come first: in the end the other worker would wait for one of them.
LONG = ("test_pipelines.py", "test_route.py")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


# -- what outlives runs, and is of no use to anybody when the suite has ended


@pytest.fixture(scope="session", autouse=True)
def _stores_of_this_process_are_the_suites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # Where scripts run, which is the project of their image stores.
        patch.setenv("PWD", str(tmp_path_factory.getbasetemp()))
        yield


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the image stores and builders of all tests; the workers have ended by now."""
    config = session.config
    temp = None if hasattr(config, "workerinput") or config.option.collectonly else base_temp_of(config)
    if temp is None:
        return
    try:
        engine = HostEngine.connect()
    except DindError:  # none answers, and so none has anything of ours
        return
    try:
        let_go()
        for store in all_stores(engine):
            if Path(store.project).is_relative_to(temp.mount):
                remove(engine, store)
        for home in temp.mount.rglob("leases/id"):
            builders = {"name": f"pytest-dind-builder-{home.read_text()}-"}
            for volume in engine.api.volumes(filters=builders)["Volumes"] or []:
                remove_volume(engine, volume["Name"])
    finally:
        engine.close()


# -- other users


def said_to(user: int, ask: Callable[[], object]) -> str:
    """What a user without a home hears; in a forked child, since that user may not read this Python."""
    import platformdirs  # noqa: F401 (before)

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
                os.environ.pop(name, None)
            os.environ["HOME"] = "/nonexistent"
            tempfile.tempdir = "/tmp"
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            os.write(writer, str(ask()).encode())
        except BaseException as error:  # noqa: BLE001
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        return answer.read()


# -- what there is to test on


def tags_on(host: docker.DockerClient) -> list[str]:
    """Return all names of images on an engine; `images.list()` also inspects each, which may be gone by then."""
    found: Any = host.api.images()
    return [tag for one in found for tag in one["RepoTags"] or ()]


@pytest.fixture(scope="session")
def image() -> str:
    """The image of the daemons under test."""
    return IMAGE


@pytest.fixture(scope="session")
def busybox() -> str:
    """A small image with a shell, on the host engine."""
    return BUSYBOX


@pytest.fixture(scope="session")
def host() -> Iterator[docker.DockerClient]:
    """The host engine."""
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="session")
def host_socket() -> Path:
    """The unix socket of the host engine, wherever DOCKER_HOST or a docker context says it is."""
    engine = HostEngine.connect()
    engine.close()
    scheme, _, path = engine.address.partition("://")
    if scheme not in ("unix", "http+unix"):
        pytest.skip(f"the host engine is at {engine.address}, and this test is about its unix socket")
    return Path(path)


@pytest.fixture(scope="session")
def version_of(host: docker.DockerClient) -> Callable[[str], str]:
    """A callable that asks the dockerd of an image for its version; skips where there is no such image."""
    known: dict[str, str] = {}

    def version_of(image: str) -> str:
        if image not in known:
            if image not in tags_on(host):
                pytest.skip(f"the host engine has no image {image}")
            # Removing it would leave its anonymous volume: docker-py has no `v` there.
            no_volume = {"/var/lib/docker": ""}
            printed: bytes = host.containers.run(
                image, entrypoint=["dockerd", "--version"], remove=True, tmpfs=no_volume
            )
            # Docker version 26.1.5+dfsg1, build 411e817
            known[image] = printed.decode().split()[2].rstrip(",")
        return known[image]

    return version_of


@pytest.fixture(scope="session")
def daemon(image: str) -> Iterator[Daemon]:
    """A daemon for tests that only look; whoever changes it starts one of their own."""
    with Daemon.start(Settings(image=image)) as started:
        yield started


@pytest.fixture(scope="session")
def engine_settings(image: str, busybox: str) -> Settings:
    """For a daemon that is a host engine to others: it adopts their image, which takes many seconds to load."""
    return Settings(image=image, preload=(image, busybox))


@pytest.fixture(scope="session")
def beside(host: docker.DockerClient) -> Iterator[Sidecar]:
    """A docker:dind as pipelines have it beside an agent, whose daemons' image takes many seconds to load."""
    from .agents import sidecar  # which needs what is above

    with sidecar(host) as started:
        yield started


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary directory whose path leaves room for a unix socket's."""
    path = Path(tempfile.mkdtemp(prefix="d", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


class InnerRun:
    """An inner run of pytest with homes of its own, so that what it leaves can be told from all other runs' things."""

    def __init__(self, pytester: pytest.Pytester, host: docker.DockerClient, runtime_dir: Path) -> None:
        self.pytester = pytester
        self._host = host
        self._sockets = runtime_dir / "pytest-dind" / "daemons"
        self._leases = pytester.path / ".local" / "state" / "pytest-dind" / "leases"

    def run(self, *arguments: str | os.PathLike[str]) -> pytest.RunResult:
        """Run pytest as a user would, in a process of its own, and return what it printed."""
        return self.pytester.runpytest_subprocess(*arguments)

    @property
    def label(self) -> str:
        """The label that everything of this run carries, and nothing else on the host engine."""
        return f"{HOST}={(self._leases / 'id').read_text()}"

    @property
    def has_marked(self) -> bool:
        """Whether any run came as far as to mark what it makes."""
        return (self._leases / "id").exists()

    def containers(self) -> list[str]:
        """Names of this run's containers that are on the host engine now, running or not."""
        return [
            one.name or ""
            for one in self._host.containers.list(all=True, filters={"label": self.label}, ignore_removed=True)
        ]

    def left(self, *, none_started: bool = False) -> list[str]:
        """What of this run is on this machine now.

        :param none_started: It may be that no run came as far as to mark what it makes; else that is an error here.
        """
        names = [str(path) for path in (self._sockets.iterdir() if self._sockets.exists() else [])]
        if not self.has_marked:
            assert none_started, f"no run has made {self._leases / 'id'}, so what it left could not be found"
            return names
        found = {"label": self.label}
        names += [one["Names"][0] for one in self._host.api.containers(all=True, filters=found)]
        names += [one["Name"] for one in self._host.api.networks(filters=found)]
        volumes = [one["Name"] for one in self._host.api.volumes(filters=found)["Volumes"] or []]
        # A complete image store is to stay, for whoever needs the same images.
        complete = {one.volume for one in all_stores(HostEngine(self._host, ""))} if volumes else set()
        return names + [name for name in volumes if name not in complete]

    def wait_until_nothing_is_left(self, *, none_started: bool = False, after: str = "") -> None:
        """Wait until nothing of this run is on this machine; fail with what still is, and after what."""
        wait_until(
            lambda: not self.left(none_started=none_started),
            lambda: f"still there: {self.left(none_started=none_started)} {after}",
        )


@pytest.fixture
def inner(
    pytester: pytest.Pytester, host: docker.DockerClient, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InnerRun]:
    """Inner runs of pytest; whatever the test does, nothing of them may be left."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_tmp))
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    # An inner run is not a worker of ours.
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
        monkeypatch.delenv(name)
    run = InnerRun(pytester, host, short_tmp)
    yield run
    run.wait_until_nothing_is_left(none_started=True)


@pytest.fixture
def watched(inner: InnerRun) -> Iterator[Watched]:
    """What the host engine says of the inner run's daemons."""
    from .watching import Watched  # which needs what is above

    watching = Watched(inner)
    yield watching
    watching.close()


def usage_error(result: pytest.RunResult, *texts: str) -> None:
    """The run ended with exit 4 and one message that says all of `texts`, and no traceback."""
    output = f"{result.stdout}\n{result.stderr}"
    assert result.ret == pytest.ExitCode.USAGE_ERROR, output
    # A daemon's log, shown in a message, has lines that begin with our name, too.
    found = re.split(r"(?<=\S )(?=pytest-dind: )", output)
    assert len(found) == 2, output
    message = " ".join(found[1].split())
    for text in texts:
        assert " ".join(text.split()) in message, output
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output


# -- what daemons of this very process have on this machine


def remains(host: docker.DockerClient) -> set[str]:
    """What is there now: containers, networks and volumes on the host engine, and socket directories."""
    owner = Owner.of_process()
    ours = {"label": f"{LEASE}={owner.lease.label}"}
    api: Any = host.api
    names = [one["Names"][0].lstrip("/") for one in api.containers(all=True, filters=ours)]
    names += [one["Name"] for one in api.networks(filters=ours)]
    # Image stores and builders are to stay.
    names += [one["Name"] for one in api.volumes(filters=ours)["Volumes"] or [] if ROLE not in one["Labels"]]
    return {*names, *map(str, sockets_dir().glob(f"{host_id()}-{owner.lease.slot}-{owner.lease.token}-*"))}


@contextmanager
def nothing_new_remains(host: docker.DockerClient) -> Iterator[None]:
    """Fail when the block leaves anything that was not there before."""
    before = remains(host)
    yield
    wait_until(lambda: remains(host) <= before, lambda: f"still there: {remains(host) - before}")


@pytest.fixture
def nothing_is_left(host: docker.DockerClient) -> Iterator[None]:
    """Fail when the test leaves anything of a daemon of this process."""
    with nothing_new_remains(host):
        yield


# -- patience


def fetch(address: tuple[str, int]) -> str:
    """Fetch the page at an address, as soon as somebody serves there."""
    answers: list[str] = []

    def answered() -> bool:
        try:
            with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/", timeout=5) as answer:
                answers.append(answer.read().decode())
        except OSError:  # not yet
            return False
        return True

    wait_until(answered, lambda: f"nobody answers at {address}")
    return answers[0]


def wait_until(condition: Callable[[], object], otherwise: Callable[[], str], patience: float = PATIENCE) -> None:
    """Wait until a condition holds; fail with what `otherwise` says when it does not come to."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patience:g} s: {otherwise()}")
        time.sleep(0.02)
