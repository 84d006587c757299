"""Where sockets and leases lie: in directories of the user's own that nobody else can prepare, enter or replace."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from pytest_dind import Daemon, Settings
from pytest_dind.errors import DindError
from pytest_dind.places import SOCKET_PATH_LIMIT, leases_dir, private, sockets_dir

pytestmark = pytest.mark.once

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
STRANGER = 12345


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_place_is_made_for_its_user_alone_with_what_is_above_it(short_tmp: Path) -> None:
    path = private(short_tmp / "above" / "place")
    assert path == short_tmp / "above" / "place"
    assert (mode(path), mode(path.parent)) == (0o700, 0o700)


def test_a_place_that_is_there_is_taken_again(short_tmp: Path) -> None:
    private(short_tmp / "above" / "place").joinpath("file").touch()
    assert [one.name for one in private(short_tmp / "above" / "place").iterdir()] == ["file"]


def test_a_place_is_private_whatever_the_umask_says(short_tmp: Path) -> None:
    before = os.umask(0)
    try:
        assert mode(private(short_tmp / "above" / "place")) == 0o700
    finally:
        os.umask(before)


@pytest.mark.parametrize("part", ["above", "above/place"])
def test_a_link_is_refused(short_tmp: Path, part: str) -> None:
    (short_tmp / "elsewhere" / "place").mkdir(parents=True, mode=0o700)
    (short_tmp / part).parent.mkdir(exist_ok=True)
    (short_tmp / part).symlink_to(short_tmp / "elsewhere")
    with pytest.raises(DindError, match="not a directory of ours but a link or a file"):
        private(short_tmp / "above" / "place")


@only_root
@pytest.mark.parametrize("part", ["above", "above/place"])
def test_another_users_directory_is_refused(short_tmp: Path, part: str) -> None:
    (short_tmp / "above" / "place").mkdir(parents=True, mode=0o700)
    os.chown(short_tmp / part, STRANGER, STRANGER)
    with pytest.raises(DindError, match=f"{part} belongs to user {STRANGER}, not to (root or )?0"):
        private(short_tmp / "above" / "place")


@pytest.mark.parametrize("bits", [0o755, 0o710, 0o707, 0o770])
def test_a_place_that_is_open_to_others_is_refused(short_tmp: Path, bits: int) -> None:
    (short_tmp / "above" / "place").mkdir(parents=True)
    (short_tmp / "above" / "place").chmod(bits)
    with pytest.raises(DindError, match=f"open to others \\(mode {bits:04o}, not 0700\\)"):
        private(short_tmp / "above" / "place")


@only_root
def test_a_place_below_another_users_directory_is_refused(short_tmp: Path) -> None:
    (short_tmp / "theirs").mkdir()
    os.chown(short_tmp / "theirs", STRANGER, STRANGER)
    with pytest.raises(DindError, match=f"theirs belongs to user {STRANGER}, not to root"):
        private(short_tmp / "theirs" / "above" / "place")


def test_a_place_below_a_directory_that_everybody_can_write_is_refused_unless_it_is_sticky(short_tmp: Path) -> None:
    (short_tmp / "open").mkdir()
    (short_tmp / "open").chmod(0o777)
    with pytest.raises(DindError, match="open can be written by everybody"):
        private(short_tmp / "open" / "above" / "place")
    (short_tmp / "open").chmod(0o1777)
    assert private(short_tmp / "open" / "above" / "place").is_dir()


def test_a_place_whose_parent_everybody_can_write_is_refused(short_tmp: Path) -> None:
    (short_tmp / "above").mkdir()
    (short_tmp / "above").chmod(0o777)
    with pytest.raises(DindError, match="above can be written by everybody"):
        private(short_tmp / "above" / "place")


def test_sockets_lie_in_the_runtime_directory(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_tmp))
    assert sockets_dir() == short_tmp / "pytest-dind" / "daemons"


def test_a_runtime_directory_that_is_too_long_for_a_socket_is_passed_over(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = short_tmp / ("long" * 20)
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    found = sockets_dir()
    assert runtime not in found.parents
    assert len(os.fsencode(found / "0123456789ab-4095-01234567-99999" / "docker.sock")) <= SOCKET_PATH_LIMIT


def test_the_length_of_a_path_is_counted_in_bytes(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = short_tmp / ("ü" * 20)  # 20 characters would fit
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert runtime not in sockets_dir().parents


@pytest.mark.parametrize("value", ["", "relative", "/nowhere/at/all"])
def test_a_runtime_directory_that_is_none_is_passed_over(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.chdir(short_tmp)
    monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    assert sockets_dir().is_absolute()
    assert [*short_tmp.iterdir()] == []


def test_a_runtime_directory_where_somebody_prepared_ours_is_passed_over(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (short_tmp / "pytest-dind" / "daemons").mkdir(parents=True, mode=0o777)
    (short_tmp / "pytest-dind" / "daemons").chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_tmp))
    assert short_tmp not in sockets_dir().parents


def test_leases_lie_in_the_state_directory_and_where_that_cannot_be_in_the_runtime_directory(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_tmp))
    monkeypatch.setenv("XDG_STATE_HOME", str(short_tmp / "state"))
    assert leases_dir() == short_tmp / "state" / "pytest-dind" / "leases"
    (short_tmp / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(short_tmp / "file"))
    assert leases_dir() == short_tmp / "pytest-dind" / "leases"


def test_where_no_place_can_be_had_the_message_says_why_of_each_and_what_to_set(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (short_tmp / "file").touch()
    monkeypatch.setattr("pytest_dind.places._runtime_candidates", lambda: iter([short_tmp / "file"]))
    with pytest.raises(DindError, match=r"no private directory .*File exists.* set XDG_RUNTIME_DIR and") as caught:
        sockets_dir()
    assert str(short_tmp / "file") in str(caught.value)


def test_a_daemon_works_in_a_directory_whose_name_has_spaces_and_other_alphabets(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="d ü'\"$ ", dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        with Daemon.start(Settings(image=image)) as daemon:
            assert daemon.host.startswith(f"unix://{runtime}/pytest-dind/daemons/")
            assert daemon.client.ping()
            assert daemon.alive
        assert [*Path(runtime, "pytest-dind", "daemons").iterdir()] == []
