"""The floor: containerd and dockerd on the machine itself, started as boot.sh starts them, with no container around."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest_dind
from pytest_dind.transport import LOOK_EVERY, UnixSocket

from .measure import seconds_until

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
    --data-root="$2/data" --exec-root="$2/exec" --pidfile="$2/docker.pid" >>log 2>&1 &
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
    with _bare_dockerd() as begin_and_socket:
        begin, socket = begin_and_socket
        return seconds_until(lambda: _answers(socket), LOOK_EVERY, begin)


@contextmanager
def _bare_dockerd() -> Iterator[tuple[float, UnixSocket]]:
    with tempfile.TemporaryDirectory(prefix="dind-floor-") as name:
        directory = Path(name)
        (directory / "containerd.toml").write_text(_containerd_config(directory), encoding="utf-8")
        begin = time.monotonic()
        with subprocess.Popen(
            [*_UNSHARE, "sh", "-c", _SCRIPT, "sh", str(TREE), name], stdin=subprocess.PIPE, text=True
        ) as process:
            try:
                yield begin, UnixSocket(directory)
            except TimeoutError as error:
                raise TimeoutError((directory / "log").read_text(errors="replace")[-2000:]) from error
            # Leaving `with` closes its input and waits until the last of its processes is gone.
            assert process.poll() is None


def _containerd_config(directory: Path) -> str:
    """Return the configuration that boot.sh writes, with the paths of this place."""
    boot = Path(pytest_dind.__file__).with_name("boot.sh").read_text(encoding="utf-8")
    found = re.search(r"<<TOML\n(.*?)\nTOML", boot, re.DOTALL)
    assert found, "boot.sh writes containerd's configuration in another way now"
    return found[1].replace("/var/lib/docker", f"{directory}/data").replace("$state", str(directory))


def _answers(socket: UnixSocket) -> bool:
    try:
        socket.ping(timeout=60)
    except OSError:  # no socket yet
        return False
    return True
