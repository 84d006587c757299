"""What all tests share: a real host engine, its images, and inner runs of pytest that can be told from all others."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from pytest_dind import Daemon, Settings
from pytest_dind.labels import HOST

pytest_plugins = ["pytester"]

#: A slow machine gets this long for what takes a fast one a tenth of a second.
PATIENCE = float(os.environ.get("PYTEST_DIND_TEST_PATIENCE", "60"))


@pytest.fixture(scope="session")
def image() -> str:
    """The image of the daemons under test."""
    return os.environ.get("PYTEST_DIND_IMAGE", "docker:dind")


@pytest.fixture(scope="session")
def busybox() -> str:
    """A small image with a shell, on the host engine."""
    return os.environ.get("PYTEST_DIND_TEST_IMAGE", "busybox:latest")


@pytest.fixture(scope="session")
def host() -> Iterator[docker.DockerClient]:
    """The host engine."""
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="session")
def daemon(image: str) -> Iterator[Daemon]:
    """A daemon for tests that only look; whoever changes it starts one of their own."""
    with Daemon.start(Settings(image=image)) as started:
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

    def containers(self) -> list[str]:
        """Names of this run's containers that are on the host engine now, running or not."""
        return [
            one.name or ""
            for one in self._host.containers.list(all=True, filters={"label": self.label}, ignore_removed=True)
        ]

    def left(self) -> list[str]:
        """What of this run is on this machine now."""
        if not (self._leases / "id").exists():
            return []  # It never came to a daemon.
        found = {"label": self.label}
        names = [one["Names"][0] for one in self._host.api.containers(all=True, filters=found)]
        names += [one["Name"] for one in self._host.api.networks(filters=found)]
        names += [one["Name"] for one in self._host.api.volumes(filters=found)["Volumes"] or []]
        return names + [str(path) for path in (self._sockets.iterdir() if self._sockets.exists() else [])]

    def wait_until_nothing_is_left(self) -> None:
        """Wait until nothing of this run is on this machine; fail with what still is."""
        wait_until(lambda: not self.left(), lambda: f"still there: {self.left()}")


@pytest.fixture
def inner(
    pytester: pytest.Pytester, host: docker.DockerClient, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InnerRun]:
    """Inner runs of pytest; whatever the test does, nothing of them may be left."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_tmp))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    # An inner run is not a worker of ours.
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
        monkeypatch.delenv(name)
    run = InnerRun(pytester, host, short_tmp)
    yield run
    run.wait_until_nothing_is_left()


def wait_until(condition: Callable[[], object], otherwise: Callable[[], str], patience: float = PATIENCE) -> None:
    """Wait until a condition holds; fail with what `otherwise` says when it does not come to."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patience:g} s: {otherwise()}")
        time.sleep(0.02)
