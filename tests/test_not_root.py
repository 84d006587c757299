"""A user who is not root, but in the group of the engine's socket, gets the same, and can delete all that is left.

What containers write into base temp belongs to root or to whoever they run as; in the end it must be the user's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import docker
import pytest

import pytest_dind
from pytest_dind.labels import HOST

from .conftest import wait_until

pytestmark = pytest.mark.once

#: The machine's own Python: the one that runs these tests may lie where only root can go.
PYTHON = "/usr/bin/python3"
#: What pytest-dind needs there.
NEEDED = ("pytest", "pluggy", "iniconfig", "packaging", "pygments", "docker", "requests", "urllib3", "idna", "certifi",
          "charset-normalizer", "filelock", "platformdirs", "pytest-xdist", "execnet", "typing-extensions", "tomli",
          "exceptiongroup", "pytest-dind")  # fmt: skip

SUITE = """
    import os
    import time
    from pathlib import Path

    import pytest

    BUSYBOX = os.environ["PYTEST_DIND_TEST_IMAGE"]
    WRITE = '''umask 077 && mkdir -p /data/$0/deep/er && touch /data/$0/file /data/$0/deep/er/file &&
        ln -s /nowhere /data/$0/link && chmod 0 /data/$0/deep/er/file && chmod 0500 /data/$0/deep'''


    def write(client, path, user):
        path.chmod(0o777)
        command = ["sh", "-c", WRITE, user]
        client.containers.run(BUSYBOX, command, user=user, volumes=[f"{path}:/data"], remove=True)
        assert (path / user).lstat().st_uid == int(user)


    @pytest.mark.parametrize("user", ["0", "999"])
    def test_session(dind_client, tmp_path, user):
        write(dind_client, tmp_path, user)


    @pytest.mark.parametrize("user", ["0", "999"])
    def test_fresh(dind_fresh_client, tmp_path, user):
        write(dind_fresh_client, tmp_path, user)
        # One that still writes at the end.
        command = ["sh", "-c", "while :; do mkdir /data/$(date +%s%N) 2>/dev/null; sleep 0.01; done"]
        dind_fresh_client.containers.run(BUSYBOX, command, volumes=[f"{tmp_path}:/data"], detach=True)


    def test_env(dind_env, dind_daemon, tmp_path):
        assert Path(dind_env["DOCKER_CONFIG"]).lstat().st_uid == os.getuid()
        (tmp_path / "given").write_text("hello")
        dind_daemon.put(tmp_path / "given", "/given")
        assert dind_daemon.exec(["cat", "/given"]) == (0, "hello")


    @pytest.mark.skipif("HANG" not in os.environ, reason="is to be killed")
    def test_hang(dind_client, dind_fresh_client, tmp_path):
        write(dind_client, tmp_path, "0")
        write(dind_fresh_client, tmp_path, "999")
        Path(os.environ["HANG"]).touch()
        time.sleep(1000)
"""


@dataclass
class User:
    """A user made for one test, with a home that holds all that it writes."""

    name: str
    uid: int
    gid: int
    docker_gid: int
    home: Path
    #: What a process of the user's has in its environment beside what is its own.
    environment: dict[str, str]

    def start(self, *argv: str, **environment: str) -> subprocess.Popen[str]:
        """Start a process of this user; its output goes to a file."""
        with self.output.open("w") as file:
            return subprocess.Popen(
                argv,
                user=self.uid,
                group=self.gid,
                extra_groups=[self.docker_gid],
                umask=0o022,
                cwd=self.home,
                env={
                    "HOME": str(self.home),
                    "USER": self.name,
                    "PATH": "/usr/local/bin:/usr/bin:/bin",
                    "TMPDIR": str(self.home / "tmp"),
                    "XDG_RUNTIME_DIR": str(self.home / "run"),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    **self.environment,
                    **environment,
                },
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )

    @property
    def output(self) -> Path:
        return self.home.parent / "output"

    def pytest(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        preload = f"--dind-preload={self.environment['PYTEST_DIND_TEST_IMAGE']}"
        argv = (PYTHON, "-m", "pytest", "--dind", preload, "-p", "no:cacheprovider", *arguments)
        return self.start(*argv, **environment)

    def foreign(self) -> list[str]:
        """What there is in the user's home that is not the user's own."""
        return [str(path) for path in [self.home, *self.home.rglob("*")] if path.lstat().st_uid != self.uid]

    def containers(self, host: docker.DockerClient) -> list[str]:
        """What this user's runs have on the host engine now."""
        identity = self.home / ".local/state/pytest-dind/leases/id"
        ours = {"label": f"{HOST}={identity.read_text()}"}
        api: Any = host.api
        found = [one["Names"][0] for one in api.containers(all=True, filters=ours)]
        return found + [one["Name"] for one in api.volumes(filters=ours)["Volumes"] or []]


@pytest.fixture(scope="module")
def docker_gid(host_socket: Path) -> int:
    """The group that may use the engine's socket: root's, on an engine that was started where no group `docker` is."""
    if os.geteuid() != 0:
        pytest.skip("only root can make another user")
    for tool in ("useradd", "userdel"):
        if shutil.which(tool) is None:
            pytest.skip(f"this machine has no {tool}")
    found = host_socket.stat()
    if not found.st_mode & stat.S_IWGRP:
        pytest.skip(f"no group may use {host_socket}, whose mode is {stat.filemode(found.st_mode)}")
    return found.st_gid


@pytest.fixture(scope="module")
def packages() -> Iterator[Path]:
    """A copy of what pytest-dind needs, where everybody can read it."""
    if not Path(PYTHON).exists():
        pytest.skip(f"this machine has no {PYTHON}")
    folder = Path(tempfile.mkdtemp(prefix="dind-packages-", dir="/tmp"))
    for name in NEEDED:
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        _copy(found, folder)
    shutil.copytree(Path(pytest_dind.__file__).parent, folder / "pytest_dind", dirs_exist_ok=True)
    folder.chmod(0o755)
    tried = subprocess.run(
        [PYTHON, "-c", "import pytest, docker, xdist, filelock, platformdirs"],
        env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tried.returncode != 0:
        pytest.skip(f"{PYTHON} cannot use the packages of this Python: {tried.stderr.strip().splitlines()[-1]}")
    yield folder
    shutil.rmtree(folder)


def _copy(found: Distribution, folder: Path) -> None:
    """Copy a distribution's modules and metadata, but not its scripts."""
    root = Path(str(found.locate_file("")))
    for name in {file.parts[0] for file in found.files or [] if ".." not in file.parts and file.suffix != ".pth"}:
        source = root / name
        if source.is_dir() and name != "__pycache__":
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        elif source.suffix == ".py":
            shutil.copy(source, folder)


@pytest.fixture
def user(docker_gid: int, host_socket: Path, packages: Path, image: str, busybox: str) -> Iterator[User]:
    name = f"dind-{secrets.token_hex(4)}"
    place = Path(tempfile.mkdtemp(prefix="d", dir="/tmp"))
    place.chmod(0o755)
    home = place / "home"
    subprocess.run(["useradd", "--no-create-home", "--home-dir", home, "--user-group", name], check=True)
    try:
        uid, gid = (int(subprocess.check_output(["id", option, name])) for option in ("-u", "-g"))
        for path in (home, home / "tmp", home / "run"):
            path.mkdir(mode=0o700)
            os.chown(path, uid, gid)
        suite = home / "test_suite.py"
        suite.write_text(textwrap.dedent(SUITE))
        os.chown(suite, uid, gid)
        environment = {
            "PYTEST_DIND_IMAGE": image,
            "PYTEST_DIND_TEST_IMAGE": busybox,
            "PYTHONPATH": str(packages),
            "DOCKER_HOST": f"unix://{host_socket}",
        }
        yield User(name, uid, gid, docker_gid, home, environment)
    finally:
        subprocess.run(["userdel", name], check=True)
        shutil.rmtree(place)


def finish(user: User, process: subprocess.Popen[str]) -> str:
    """Wait for the end of a process; return what it printed."""
    try:
        process.wait(240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return user.output.read_text()


def nothing_is_left_but_what_the_user_can_delete(user: User, host: docker.DockerClient) -> None:
    wait_until(lambda: not user.containers(host), lambda: f"still there: {user.containers(host)}")
    assert user.foreign() == []
    assert list((user.home / "run" / "pytest-dind" / "daemons").iterdir()) == []
    assert list((user.home / "tmp").rglob("deep")) != [], "what the tests wrote is still to be seen"
    removal = user.start("/bin/sh", "-c", "chmod -R u+rwx . && rm -rf .[!.]* *")
    assert finish(user, removal) == ""
    assert list(user.home.iterdir()) == []


def test_a_user_who_is_not_root_runs_all_kinds_of_daemons_and_can_delete_what_is_left(
    user: User, host: docker.DockerClient
) -> None:
    output = finish(user, user.pytest("-p", "no:xdist"))
    assert "5 passed, 1 skipped" in output, output
    assert "warning" not in output, output
    nothing_is_left_but_what_the_user_can_delete(user, host)


def test_so_it_is_with_two_workers(user: User, host: docker.DockerClient) -> None:
    output = finish(user, user.pytest("-n", "2"))
    assert "5 passed, 1 skipped" in output, output
    assert "warning" not in output, output
    nothing_is_left_but_what_the_user_can_delete(user, host)


def test_so_it_is_when_pytest_and_its_workers_are_killed(user: User, host: docker.DockerClient) -> None:
    marker = user.home / "hangs"
    process = user.pytest("-n", "2", "-k", "hang", HANG=str(marker))
    wait_until(lambda: marker.exists() or process.poll() is not None, user.output.read_text)
    assert process.poll() is None, user.output.read_text()
    assert user.foreign() != [], "there is something to give back"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    nothing_is_left_but_what_the_user_can_delete(user, host)


def test_a_user_who_may_not_use_the_engine_is_told_how_to_be_allowed(user: User) -> None:
    user.docker_gid = user.gid
    output = finish(user, user.pytest("-p", "no:xdist"))
    assert "no Docker engine answers at unix:///" in output, output
    assert "Permission denied" in output
    assert "add your user to the group 'docker'" in output
