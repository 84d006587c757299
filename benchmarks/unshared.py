"""The floor: containerd and dockerd on the machine itself, started as boot.sh starts them, with no container around."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest_dind
from pytest_dind.transport import LOOK_EVERY, UnixSocket

from .measure import seconds_until
from .reached import Reached

#: The variable with the directory in which the image's files are, and all data.
PLACE = "PYTEST_DIND_BENCHMARK_FLOOR"
#: Seconds.
_LONGEST_END = 30

# Networks, mounts and processes of its own: nothing that it does reaches the machine, and when the shell, which is the
# first process, ends, the kernel ends the others and undoes the mounts.
_UNSHARE = ("--net", "--mount", "--propagation=private", "--pid", "--fork", "--mount-proc", "--kill-child")
_ENTER = """
set -e
tree=$1 state=$2 data=$3
mount --bind "$tree" "$tree"
mount --rbind /dev "$tree/dev"
mount --rbind /sys "$tree/sys"
mount -t proc proc "$tree/proc"
for directory in etc/docker run tmp; do mount -t tmpfs none "$tree/$directory"; done
mkdir "$tree/run/floor"
mount --bind "$state" "$tree/run/floor"
mount --bind "$data" "$tree/var/lib/docker"
mount -o remount,bind,ro "$tree"
exec chroot "$tree" sh -c "$4" sh "$5"
"""
# It ends with its input. Whichever of the two daemons ends before says so in a file.
_START = """
export PATH="$1"
cd /run/floor
ip link set lo up
run() { "$@" >>log 2>&1; echo "$1 ended with exit code $?" >>ended; }
run containerd --config containerd.toml --log-level warn &
run dockerd --containerd=/run/floor/containerd.sock --host=unix:///run/floor/docker.sock --data-root=/var/lib/docker \
    --exec-root=/run/floor/exec --pidfile=/run/floor/docker.pid &
read -r word || exit
kill -TERM "$(cat docker.pid)"
until [ -s ended ]; do sleep 0.1; done
"""


def start() -> float:
    """Start dockerd on the machine itself; return the seconds until it answers."""
    begin = time.monotonic()
    with running():
        return time.monotonic() - begin


@contextmanager
def running(image: str | None = None, *, cleanly: bool = False) -> Iterator[Reached]:
    """Have dockerd on the machine itself, which answers, while a `floor.Floor` is there.

    :param image: What `Floor.hold` was given; else it has a data root that is empty.
    :param cleanly: Whether it is asked to end, and not killed.
    :raises RuntimeError: it has ended instead; with what it says.
    """
    place = Path(os.environ[PLACE])
    with (
        tempfile.TemporaryDirectory(prefix="dind-floor-") as name,
        _root_with(place, image) if image else _empty_root(place) as data,
    ):
        state = Path(name)
        (state / "containerd.toml").write_text(_containerd_config(), encoding="utf-8")
        with _started(_command(place, state, data), state) as stdin:
            yield Reached("", f"unix://{state / 'docker.sock'}")
            if cleanly:
                stdin.write("end\n")


@contextmanager
def _started(command: list[str], state: Path) -> Iterator[IO[str]]:
    """Have it answer, and yield its input."""
    with (
        (state / "log").open("w") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdin is not None
        try:
            _wait(process, state)
            yield process.stdin
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Close its input, and wait until the last of its processes is gone."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_LONGEST_END)
    except subprocess.TimeoutExpired:
        process.kill()


def _command(place: Path, state: Path, data: Path) -> list[str]:
    path = (place / "path").read_text(encoding="utf-8")
    words = [str(place / "tree"), str(state), str(data), _START, path]
    return ["unshare", *_UNSHARE, "sh", "-c", _ENTER, "sh", *words]


def _wait(process: subprocess.Popen[str], state: Path) -> None:
    """Wait until it answers."""
    socket, ended = UnixSocket(state), state / "ended"

    def is_decided() -> bool:
        return process.poll() is not None or ended.exists() or _answers(socket)

    try:
        seconds_until(is_decided, LOOK_EVERY, time.monotonic())
    except TimeoutError as error:
        raise RuntimeError(f"{error}: {_said(state)}") from error
    if process.poll() is not None or ended.exists():
        raise RuntimeError(_said(state))


def _said(state: Path) -> str:
    texts = (path.read_text(errors="replace").strip() for path in (state / "log", state / "ended") if path.exists())
    return "\n".join(texts)[-2000:]


def roots_of(place: Path, image: str) -> Path:
    """Return the directory of the data roots with an image."""
    return place / "roots" / re.sub(r"\W", "-", image)


@contextmanager
def _root_with(place: Path, image: str) -> Iterator[Path]:
    """Have the first data root with an image that nobody uses."""
    for root in sorted(path for path in roots_of(place, image).iterdir() if path.name.isdigit()):
        with root.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield root
            return
    raise RuntimeError(f"every data root with {image} is in use")


@contextmanager
def _empty_root(place: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="data-", dir=place) as name:
        yield Path(name)


def _containerd_config() -> str:
    """Return the configuration that boot.sh writes, with the paths of this place."""
    boot = Path(pytest_dind.__file__).with_name("boot.sh").read_text(encoding="utf-8")
    found = re.search(r"<<TOML\n(.*?)\nTOML", boot, re.DOTALL)
    assert found, "boot.sh writes containerd's configuration in another way now"
    return found[1].replace("$state", "/run/floor")


def _answers(socket: UnixSocket) -> bool:
    try:
        socket.ping(timeout=60)
    except OSError:  # no socket yet
        return False
    return True
