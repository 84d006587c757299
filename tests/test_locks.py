"""Leases: proof of life while the owner lives, and proof of death afterwards, however it died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pytest_dind import locks
from pytest_dind.errors import DindError, LockTimeoutError
from pytest_dind.locks import Lease, is_dead

from .conftest import said_to, wait_until
from .processes import is_running

pytestmark = pytest.mark.once

TAKE = """
import os, pathlib, sys, time
from pytest_dind.locks import Lease
lease = Lease.take(pathlib.Path(sys.argv[1]))
"""
SAY_AND_WAIT = "print(lease.label, flush=True); sys.stdin.read()"


class Holder:
    """Another process, that holds a lease until it is killed."""

    def __init__(self, directory: Path, then: str = SAY_AND_WAIT) -> None:
        command = [sys.executable, "-c", f"{TAKE}\n{then}", str(directory)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.label = self.process.stdout.readline().strip()

    def __enter__(self) -> Holder:  # noqa: PYI034 (typing.Self comes with Python 3.11)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def slots(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.lock"))


def test_a_lease_is_alive_while_it_is_held_and_dead_once_it_is_released(tmp_path: Path) -> None:
    lease = Lease.take(tmp_path)
    assert not is_dead(lease.label)
    lease.release()
    assert is_dead(lease.label)


def test_a_lease_of_another_process_is_alive_until_that_process_is_killed(tmp_path: Path) -> None:
    with Holder(tmp_path) as holder:
        assert not is_dead(holder.label)
        assert not is_dead(holder.label)  # that it has been tried changes nothing
        holder.kill()
        assert is_dead(holder.label)


def test_a_lease_of_a_killed_process_is_dead_though_a_forked_child_of_it_lives(tmp_path: Path) -> None:
    forks = "child = os.fork() or time.sleep(600); print(lease.label, child, flush=True); sys.stdin.read()"
    with Holder(tmp_path, forks) as holder:
        label, child = holder.label.rsplit(" ", 1)
        try:
            assert not is_dead(label)
            holder.process.kill()
            holder.process.wait()
            # The child closes its copy of the lock as soon as it gets to run.
            wait_until(lambda: is_dead(label), lambda: f"{label} is still held")
            assert is_running(int(child))
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_a_forked_child_that_ends_does_not_give_its_parents_lease_up(tmp_path: Path) -> None:
    forks = "child = os.fork() or os._exit(0); os.waitpid(child, 0); print(lease.label, flush=True); sys.stdin.read()"
    with Holder(tmp_path, forks) as holder:
        assert not is_dead(holder.label)


def test_owners_at_one_time_hold_different_slots_and_free_ones_are_used_again(tmp_path: Path) -> None:
    with Holder(tmp_path) as first, Holder(tmp_path) as second:
        assert [Path(one.label.partition("#")[0]).name for one in (first, second)] == ["0.lock", "1.lock"]
        third = Lease.take(tmp_path)
        first.kill()
        reused = Lease.take(tmp_path)
        assert (third.slot, reused.slot) == (2, 0)
        third.release()
        reused.release()


def test_there_are_never_more_files_than_there_were_owners_at_one_time(tmp_path: Path) -> None:
    for _ in range(20):
        one, other = Lease.take(tmp_path), Lease.take(tmp_path)
        one.release()
        other.release()
    assert slots(tmp_path) == ["0.lock", "1.lock"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.lock", "0.owner", "1.lock", "1.owner"]


def test_no_lock_file_is_deleted(tmp_path: Path) -> None:
    lease = Lease.take(tmp_path)
    before = lease.path.stat().st_ino
    lease.release()
    assert is_dead(lease.label)
    assert lease.path.stat().st_ino == before


def test_every_lease_has_a_token_of_its_own_and_trying_a_lease_keeps_it(tmp_path: Path) -> None:
    tokens = set()
    for _ in range(5):
        lease = Lease.take(tmp_path)
        assert not is_dead(lease.label)
        assert lease.path.with_suffix(".owner").read_text() == lease.token
        tokens.add(lease.token)
        lease.release()
        assert is_dead(lease.label)
    assert len(tokens) == 5


def test_a_slot_with_a_later_owner_proves_the_earlier_one_dead_and_not_the_later_one(tmp_path: Path) -> None:
    with Holder(tmp_path) as first:
        first.kill()
        with Holder(tmp_path) as second:
            assert first.label.partition("#")[0] == second.label.partition("#")[0]
            assert is_dead(first.label)
            assert not is_dead(second.label)


def test_a_held_lease_whose_token_is_not_written_yet_is_in_doubt(tmp_path: Path) -> None:
    lease = Lease.take(tmp_path)
    lease.path.with_suffix(".owner").unlink()
    assert not is_dead(f"{lease.path}#another")
    lease.release()


@pytest.mark.parametrize("label", ["", "#", "#token", "nowhere#token", "/nowhere/0.lock#token", "/#token", "\0#token"])
def test_a_label_that_names_no_lease_file_proves_nothing_and_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_dead(label)
    assert [*tmp_path.iterdir()] == []


def test_a_label_leads_to_no_file_but_a_lease(tmp_path: Path) -> None:
    # Whoever may use an engine that is shared can write labels, of somebody else's files, too.
    lease = Lease.take(tmp_path)
    lease.release()
    assert is_dead(f"{lease.path}#of-somebody")
    lease.path.rename(tmp_path / "precious")
    (tmp_path / "1.lock").symlink_to("precious")
    os.mkfifo(tmp_path / "2.lock")
    (tmp_path / "3.lock").mkdir()
    for name in ("precious", "1.lock", "2.lock", "3.lock"):
        assert not is_dead(f"{tmp_path / name}#of-somebody"), name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_lease_of_another_user_is_in_doubt(short_tmp: Path) -> None:
    short_tmp.chmod(0o755)  # Everybody may come as far as here.
    directory = short_tmp / "leases"
    directory.mkdir(mode=0o700)
    lease = Lease.take(directory)
    lease.release()
    assert is_dead(lease.label)
    assert said_to(12345, lambda: is_dead(lease.label)) == "False"  # the directory cannot be entered
    directory.chmod(0o755)
    assert said_to(12345, lambda: is_dead(lease.label)) == "False"  # the file cannot be opened


def test_more_owners_than_can_be_are_refused_with_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "MOST_LEASES", 2)
    held = [Lease.take(tmp_path), Lease.take(tmp_path)]
    with pytest.raises(DindError, match=r"all 2 leases in .* are held"):
        Lease.take(tmp_path)
    held[1].release()
    assert Lease.take(tmp_path).slot == 1


def test_threads_that_take_leases_at_once_get_different_ones(tmp_path: Path) -> None:
    leases: list[Lease] = []
    threads = [threading.Thread(target=lambda: leases.append(Lease.take(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lease.slot for lease in leases) == list(range(8))
    for lease in leases:
        lease.release()


def test_processes_that_take_leases_at_once_get_different_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"{TAKE}\n{SAY_AND_WAIT}", str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    labels = []
    for process in processes:
        assert process.stdout is not None
        labels.append(process.stdout.readline().strip())
    assert not any(map(is_dead, labels))
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert all(map(is_dead, labels))
    assert len(set(labels)) == len(slots(tmp_path)) == 6


def test_processes_that_ask_for_the_host_id_at_once_get_the_same(short_tmp: Path) -> None:
    ask = "import sys; sys.stdin.readline(); from pytest_dind.locks import host_id; print(host_id())"
    environment = {**os.environ, "HOME": str(short_tmp), "XDG_STATE_HOME": str(short_tmp / "state")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ask], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(8)
    ]
    for process in processes:  # they have all started by now, or soon, and wait for this
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = {process.communicate()[0].strip() for process in processes}
    [identity] = answers
    assert len(identity) == 12
    assert [path.name for path in (short_tmp / "state" / "pytest-dind" / "leases").iterdir()] == ["id"]


def test_who_waits_in_line_waits_for_each_holder_anew_and_says_who_held_it_for_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    # One holder that signs for several: between two that really take turns, the one under test might come in.
    code = """if 1:
        import json, os, sys, time
        from pytest_dind import locks
        with locks.held("test-a", "at the first turn", 60, "first"):
            (signature,) = locks.locks_dir().glob("test-*.owner")
            print("held", flush=True)
            for turn in ("second", "third", "last"):
                time.sleep(0.9)
                what = [turn, os.getpid(), f"at the {turn} turn", time.monotonic()]
                locks._write_whole(signature, json.dumps(what))
            sys.stdin.read()
    """
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        begin = time.monotonic()
        with pytest.raises(LockTimeoutError) as caught, locks.held("test-a", "waiting", 1.2, "us"):
            pass
        seconds = time.monotonic() - begin
        assert other.stdin is not None
        other.stdin.close()
    said = str(caught.value)
    assert "waited 1.2 s for a turn at waiting: " in said
    assert f"last (process {other.pid}) has been at the last turn for " in said
    assert seconds > 2.5, "it came after three others, each of whom took less than that"
