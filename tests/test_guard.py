"""The guard's own process; what it removes is shown in test_teardown."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dind import Daemon, Settings
from pytest_dind.guard import Guard, way_to

from .conftest import wait_until
from .processes import is_running

pytestmark = pytest.mark.once

NOWHERE = {"socket": "/nowhere.sock"}


@pytest.fixture
def guard() -> Iterator[Guard]:
    started = Guard()
    yield started
    started.close()


def test_it_holds_no_stream_and_no_directory_of_its_owner(guard: Guard) -> None:
    process = Path("/proc") / str(guard.pid)
    wait_until(lambda: b"guard.py" in (process / "cmdline").read_bytes(), lambda: "it has not begun")
    assert [str((process / "fd" / number).readlink()) for number in "12"] == ["/dev/null"] * 2
    assert str((process / "cwd").readlink()) == "/"
    assert os.getsid(guard.pid) != os.getsid(0)


def test_it_ends_when_it_is_closed_and_leaves_what_its_owner_has_finished(guard: Guard, tmp_path: Path) -> None:
    with guard.watching(NOWHERE, "container", str(tmp_path)) as creating:
        creating()
    guard.close()
    assert not is_running(guard.pid)
    assert tmp_path.is_dir()


def test_a_directory_that_its_owner_had_begun_is_removed_at_once(guard: Guard, tmp_path: Path) -> None:
    (tmp_path / "daemon" / "config").mkdir(parents=True)
    guard._tell("begin", NOWHERE, "container", str(tmp_path / "daemon"))
    guard.close()
    assert not (tmp_path / "daemon").exists()


def test_an_engine_behind_tcp_and_tls_is_reached_with_the_certificates_of_its_client(image: str, busybox: str) -> None:
    with Daemon.start(Settings(image=image, transport="tls")) as daemon:
        daemon.load(busybox)
        for name in ("left", "finished"):
            daemon.client.containers.create(busybox, ["true"], name=name)
        way = way_to(daemon.host, daemon.client.api)
        assert way is not None
        guard = Guard()
        with guard.watching(way, "finished", "/nowhere") as creating:
            creating()
        guard._tell("create", way, "left", "/nowhere")
        begin = time.monotonic()
        guard.close()
        assert time.monotonic() - begin < 10, "it knows that there is nothing left to wait for"
        assert [one.name for one in daemon.client.containers.list(all=True)] == ["finished"]
