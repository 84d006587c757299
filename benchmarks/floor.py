"""The floor: containerd and dockerd on the machine itself, started as boot.sh starts them, with no container around."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest_dind
from pytest_dind.transport import LOOK_EVERY, UnixSocket

from .measure import seconds_until
from .reached import Reached

if TYPE_CHECKING:
    from pytest_dind.host import HostEngine

#: The tree that the inner image was imported from (.ci/images): the same binaries.
TREE = Path(os.environ.get("PYTEST_DIND_CACHE", "/var/cache/pytest-dind")) / "trixie"

# Networks, mounts and processes of its own: nothing that it does reaches the machine, and when the shell, which is the
# first process, ends, the kernel ends the others and undoes the mounts. The shell ends with its input.
_UNSHARE = ("unshare", "--net", "--mount", "--propagation=private", "--pid", "--fork", "--mount-proc")
_SCRIPT = """
set -e
mount --bind "$1/usr" /usr
mount -t tmpfs none /run
cd "$2"
ip link set lo up
containerd --config "$2/containerd.toml" --log-level warn >log 2>&1 &
dockerd --containerd="$2/containerd.sock" --host="unix://$2/docker.sock" \
    --data-root="$3" --exec-root="$2/exec" --pidfile="$2/docker.pid" >>log 2>&1 &
read -r end || :
"""


def why_not() -> str | None:
    """Say why this machine cannot be measured so; None if it can."""
    if os.geteuid() != 0:
        return "only root can start dockerd on the machine itself"
    if not (TREE / "usr").is_dir():
        return f"the inner image's binaries are not in {TREE}"
    return None


def start() -> float:
    """Start dockerd on the machine itself; return the seconds until it answers."""
    begin = time.monotonic()
    with running():
        return time.monotonic() - begin


@contextmanager
def holding(engine: HostEngine, image: str) -> Iterator[None]:
    """Have a data root with an image, in which one `running` after the other starts."""
    root = _root_of(image)
    root.mkdir()
    try:
        with running(image) as daemon:
            daemon.load(engine, image)
        yield
    finally:
        shutil.rmtree(root)


@contextmanager
def running(image: str | None = None) -> Iterator[Reached]:
    """Have dockerd on the machine itself, which answers.

    :param image: What `holding` was given; else it has a data root that is empty.
    """
    with tempfile.TemporaryDirectory(prefix="dind-floor-") as name:
        directory = Path(name)
        root = _root_of(image) if image else directory / "data"
        (directory / "containerd.toml").write_text(_containerd_config(directory, root), encoding="utf-8")
        with subprocess.Popen(
            [*_UNSHARE, "sh", "-c", _SCRIPT, "sh", str(TREE), name, str(root)], stdin=subprocess.PIPE, text=True
        ) as process:
            socket = UnixSocket(directory)
            try:
                seconds_until(lambda: _answers(socket), LOOK_EVERY, time.monotonic())
            except TimeoutError as error:
                raise TimeoutError((directory / "log").read_text(errors="replace")[-2000:]) from error
            yield Reached("", f"unix://{directory / 'docker.sock'}")
            # Leaving `with` closes its input and waits until the last of its processes is gone.
            assert process.poll() is None


def _root_of(image: str) -> Path:
    return Path(tempfile.gettempdir()) / f"dind-floor-{image.replace('/', '-').replace(':', '-')}"


def _containerd_config(directory: Path, root: Path) -> str:
    """Return the configuration that boot.sh writes, with the paths of this place."""
    boot = Path(pytest_dind.__file__).with_name("boot.sh").read_text(encoding="utf-8")
    found = re.search(r"<<TOML\n(.*?)\nTOML", boot, re.DOTALL)
    assert found, "boot.sh writes containerd's configuration in another way now"
    return found[1].replace("/var/lib/docker", str(root)).replace("$state", str(directory))


def _answers(socket: UnixSocket) -> bool:
    try:
        socket.ping(timeout=60)
    except OSError:  # no socket yet
        return False
    return True
