"""Where sockets and leases lie: in directories of the user's own that nobody else can prepare, enter or replace."""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_dind import Daemon, Settings, results, store
from pytest_dind.errors import DindError
from pytest_dind.locks import Lease, held, host_id
from pytest_dind.places import (
    SOCKET_PATH_LIMIT,
    builds_dir,
    leases_dir,
    locks_dir,
    private,
    sockets_dir,
    tunnels_dir,
)

from .conftest import InnerRun, said_to

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
        place = private(short_tmp / "home" / "state" / "above" / "place")
    finally:
        os.umask(before)
    assert [mode(part) for part in (place, *place.parents[:3])] == [0o700] * 4


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


@only_root
def test_a_place_on_the_way_to_which_another_user_has_a_link_is_refused(short_tmp: Path) -> None:
    (short_tmp / "ours").mkdir()
    (short_tmp / "way").symlink_to(short_tmp / "ours")
    assert private(short_tmp / "way" / "above" / "place").is_dir(), "a link of ours may lead there"
    os.chown(short_tmp / "way", STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(DindError, match=f"way belongs to user {STRANGER}, not to root or 0"):
        private(short_tmp / "way" / "above" / "place")


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


def test_a_place_whose_parent_its_group_can_write_is_refused(short_tmp: Path) -> None:
    (short_tmp / "above").mkdir()
    (short_tmp / "above").chmod(0o770)
    with pytest.raises(DindError, match="above can be written by its group"):
        private(short_tmp / "above" / "place")


# -- what another user prepares in /tmp for one who has no home and no runtime directory, as in many CI containers

#: Of each place, how it is asked for, what the message calls it, and what it says to set.
PLACES: list[tuple[Callable[[], object], str, str]] = [
    (sockets_dir, "sockets of daemons", "XDG_RUNTIME_DIR"),
    (tunnels_dir, "tunnels to engines", "XDG_RUNTIME_DIR"),
    (leases_dir, "leases", "XDG_STATE_HOME"),
    (locks_dir, "locks", "XDG_STATE_HOME"),
    (builds_dir, "builds", "XDG_CACHE_HOME"),
]
#: A user of no machine.
VICTIM = 54321


@only_root
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[1])
def test_what_another_user_prepared_in_tmp_is_refused_with_the_path_the_finding_and_what_to_do(
    short_tmp: Path, place: tuple[Callable[[], object], str, str]
) -> None:
    ask, called, variable = place
    ours = Path(f"/tmp/pytest-dind-{VICTIM}")
    short_tmp.chmod(0o755)
    try:
        leaf = Path(said_to(VICTIM, ask))  # With nothing prepared it works.
        assert leaf.parent == ours
        # Somebody else's directory, with all doors open.
        os.chown(ours, STRANGER, STRANGER)
        ours.chmod(0o777)
        said = [said_to(VICTIM, ask)]
        # A link to a place of the victim's own, and one below its own directory; then its own, but open to all.
        ours.rename(short_tmp / "moved")
        os.chown(short_tmp / "moved", VICTIM, VICTIM)
        (short_tmp / "moved").chmod(0o700)
        ours.symlink_to(short_tmp / "moved")
        said.append(said_to(VICTIM, ask))
        ours.unlink()
        (short_tmp / "moved").rename(ours)
        leaf.rename(short_tmp / "leaf")
        leaf.symlink_to(short_tmp / "leaf")
        said.append(said_to(VICTIM, ask))
        leaf.unlink()
        (short_tmp / "leaf").rename(leaf)
        leaf.chmod(0o777)
        said.append(said_to(VICTIM, ask))
    finally:
        if ours.is_symlink():
            ours.unlink()
        shutil.rmtree(ours, ignore_errors=True)
    findings = [
        f"{ours} belongs to user {STRANGER}, not to root or {VICTIM}",
        f"{ours} is not a directory of ours but a link or a file",
        f"{leaf} is not a directory of ours but a link or a file",
        f"{leaf} is open to others (mode 0777, not 0700)",
    ]
    for one, finding in zip(said, findings, strict=True):
        assert one.startswith(f"DindError: no private directory for the {called}: "), one
        assert f"{finding}. Remove what is in the way, or set {variable} to a directory of your own." in one


# -- files in places of ours

FILES: list[tuple[str, Callable[[], object]]] = [
    ("leases/0.lock", Lease.take),
    ("leases/id", host_id),
    (f"locks/fill-{hashlib.sha256(b'a').hexdigest()[:2]}.lock", lambda: held("fill-a", "", 0, "").__enter__()),
    ("locks/use-ab.lock", lambda: store.hold("ab")),
    ("builds/ab.json", lambda: results.find("ab")),
    ("builds/ab.tar", lambda: results.find("ab")),
]


@pytest.mark.parametrize(("name", "use"), FILES, ids=[name for name, _ in FILES])
def test_a_file_that_is_not_ours_is_refused_and_what_it_leads_to_stays_as_it_is(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch, name: str, use: Callable[[], object]
) -> None:
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(short_tmp))
    path = private(short_tmp / "pytest-dind" / name.partition("/")[0]) / name.partition("/")[2]
    (short_tmp / "victim").write_text("of somebody")
    path.symlink_to(short_tmp / "victim")
    refused(use, f"{path} is a link, to {short_tmp}/victim")
    assert (short_tmp / "victim").read_text() == "of somebody"
    path.unlink()
    os.mkfifo(path, 0o600)
    refused(use, f"{path} is no regular file (prw-------)")
    path.unlink()
    path.touch()
    path.chmod(0o666)
    refused(use, f"{path} can be written by others (mode 0666, not 0600)")
    if os.geteuid() == 0:
        os.chown(path, STRANGER, STRANGER)
        refused(use, f"{path} belongs to user {STRANGER}, not to 0")


def refused(use: Callable[[], object], finding: str) -> None:
    with pytest.raises(DindError) as caught:
        use()
    assert str(caught.value) == f"{finding}: pytest-dind has not put it there and does not use it. Remove it."


@pytest.mark.parametrize("name", ["0.lock", "id"])
def test_a_run_that_comes_upon_such_a_file_says_so_and_starts_nothing(inner: InnerRun, name: str) -> None:
    leases = private(inner.pytester.path / ".local" / "state" / "pytest-dind" / "leases")
    (leases / name).symlink_to("/etc/passwd")
    inner.pytester.makepyfile("def test_it(dind_daemon): pass")
    result = inner.run("--dind", "-p", "no:xdist")
    assert result.ret != 0
    output = f"{result.stdout}{result.stderr}"
    assert f"{leases}/{name} is a link, to /etc/passwd: pytest-dind has not put it there and does not use it." in output
    assert "INTERNALERROR" not in output
    (leases / name).unlink()


# -- what is handed out


@only_root
def test_no_other_user_can_dial_a_daemon_or_read_what_lies_beside_its_socket(daemon: Daemon) -> None:
    path = Path(daemon.host.removeprefix("unix://"))
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert (mode(path.parent), mode(path.parent.parent), mode(Path(daemon.env["DOCKER_CONFIG"]))) == (0o700,) * 3
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))  # as this user

    def dial() -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))

    assert said_to(STRANGER, dial).startswith("PermissionError")
    assert said_to(STRANGER, lambda: [*path.parent.iterdir()]).startswith("PermissionError")


def test_a_log_is_not_written_through_a_link_that_waits_for_it(image: str, short_tmp: Path) -> None:
    with Daemon.start(Settings(image=image, log_dir=short_tmp / "logs")) as daemon:
        log = short_tmp / "logs" / f"{daemon.name}.log"
        assert log.stat().st_size > 0
        log.unlink()
        (short_tmp / "victim").touch()
        log.symlink_to(short_tmp / "victim")
        daemon.restart()
        assert daemon.alive
    assert (short_tmp / "victim").stat().st_size == 0


@only_root
def test_a_base_temp_that_another_user_prepared_is_not_mounted_into_a_daemon(
    inner: InnerRun, image: str, short_tmp: Path
) -> None:
    theirs = short_tmp / f"pytest-of-{getpass.getuser()}"
    (short_tmp / "somewhere").mkdir()
    theirs.symlink_to(short_tmp / "somewhere")
    os.chown(theirs, STRANGER, STRANGER, follow_symlinks=False)
    inner.pytester.makepyfile("def test_it(dind_daemon): pass")
    # Not `inner.run`, which gives a base temp.
    command = [sys.executable, "-m", "pytest", "--dind", "--dind-environ", f"--dind-image={image}", "-p", "no:xdist"]
    environment = {**os.environ, "PYTEST_DEBUG_TEMPROOT": str(short_tmp)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    finding = f"{theirs}, where pytest's base temp directory is to be, belongs to user {STRANGER}, not to 0"
    assert f"pytest-dind: {finding}. Remove it, or give another place with --basetemp." in ended.stderr
    assert [*(short_tmp / "somewhere").iterdir()] == []


# -- which of several


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
    with pytest.raises(
        DindError, match=r"no private directory for .* but a link or a file\. .* set XDG_RUNTIME_DIR"
    ) as caught:
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
