"""The attached stream: its log, its end, and that nothing of it stays in this process."""

from __future__ import annotations

import dataclasses
import gc
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_dind import Daemon, Settings, lifeline
from pytest_dind.errors import DaemonStartError
from pytest_dind.host import HostEngine
from pytest_dind.lifeline import Lifeline

from .conftest import wait_until

pytestmark = pytest.mark.once


def frame(data: bytes, stream: int = 1) -> bytes:
    """A piece of output as the engine sends it."""
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


class Line:
    """A lifeline whose other end, the engine's, the test holds."""

    def __init__(self) -> None:
        self.engine, ours = socket.socketpair()
        self.lifeline = Lifeline(ours, "test")

    def shows(self, text: str, since: int = 0) -> None:
        """Wait until the log is a text."""
        wait_until(lambda: self.lifeline.log(since) == text, lambda: repr(self.lifeline.log(since)), patience=20)


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.lifeline.close()
    made.engine.close()


def test_lines_of_both_streams_come_in_their_order(line: Line) -> None:
    line.engine.sendall(frame(b"one\n") + frame(b"two\nthree\n", stream=2) + frame(b"four\n"))
    line.shows("one\ntwo\nthree\nfour\n")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 64])
def test_frames_may_come_in_pieces_of_any_size(line: Line, size: int) -> None:
    data = frame(b"one\ntw") + frame(b"o\n", stream=2) + frame("grüße\n".encode()) + frame(b"x" * 300 + b"\n")
    for begin in range(0, len(data), size):
        line.engine.sendall(data[begin : begin + size])
    line.shows("one\ntwo\ngrüße\n" + "x" * 300 + "\n")


def test_a_line_may_be_split_over_frames_even_within_a_character(line: Line) -> None:
    before, after = "ü\n".encode()[:1], "ü\n".encode()[1:]
    line.engine.sendall(frame(b"a" + before))
    line.engine.sendall(frame(after))
    line.shows("aü\n")


def test_what_is_not_yet_a_whole_line_is_shown_too_and_counts_once_it_is(line: Line) -> None:
    line.engine.sendall(frame(b"whole\npart"))
    line.shows("whole\npart\n")
    assert line.lifeline.position() == 1
    line.engine.sendall(frame(b"ly\nnext\n"))
    line.shows("whole\npartly\nnext\n")
    line.shows("partly\nnext\n", since=1)
    assert line.lifeline.position() == 3


def test_bytes_that_are_no_text_do_not_end_the_log(line: Line) -> None:
    line.engine.sendall(frame(b"\xff\xfe\0\n") + frame(b"after\n"))
    line.shows("\ufffd\ufffd\0\nafter\n")


def test_an_empty_frame_does_not_end_the_log(line: Line) -> None:
    line.engine.sendall(frame(b"before\n") + frame(b"") + frame(b"after\n"))
    line.shows("before\nafter\n")


def test_the_oldest_lines_go_when_there_are_too_many_and_positions_stay_right(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifeline, "MOST_LOG", 200)
    positions: dict[int, int] = {}
    for number in range(60):
        positions[number] = line.lifeline.position()
        line.engine.sendall(frame(f"{number:09}\n".encode()))
        wait_until(lambda: line.lifeline.position() == positions[number] + 1, line.lifeline.log)  # noqa: B023
    assert positions[59] == 59
    numbers = [int(one) for one in line.lifeline.log().split()]
    assert numbers == [*range(numbers[0], 60)]
    assert len(numbers) == 20
    assert [int(one) for one in line.lifeline.log(positions[58]).split()] == [58, 59]
    assert [int(one) for one in line.lifeline.log(positions[0]).split()] == numbers  # what is left of it
    assert line.lifeline.log(line.lifeline.position()) == ""


def test_a_line_without_end_does_not_fill_the_memory(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "MOST_LINE", 1_000)
    monkeypatch.setattr(lifeline, "MOST_LOG", 10_000)
    for _ in range(100):
        line.engine.sendall(frame(b"x" * 1000))
    line.engine.sendall(frame(b"end"))
    wait_until(lambda: line.lifeline.log().endswith("end\n"), lambda: line.lifeline.log()[-100:])
    assert 8_000 < len(line.lifeline.log()) <= 11_000


def test_empty_lines_do_not_fill_the_memory(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "MOST_LOG", 1_000)
    line.engine.sendall(frame(b"\n" * 5_000))
    wait_until(lambda: line.lifeline.position() == 5_000, lambda: str(line.lifeline.position()))
    line.shows("\n" * 1_000)


def test_the_log_that_is_kept_is_bounded_with_real_amounts(line: Line) -> None:
    data = frame((b"x" * 99 + b"\n") * 1000)
    for _ in range(60):  # 6 MB
        line.engine.sendall(data)
    line.engine.sendall(frame(b"end\n"))
    wait_until(lambda: line.lifeline.position() == 60_001, lambda: str(line.lifeline.position()))
    log = line.lifeline.log()
    assert log.endswith("x\nend\n")
    assert 4_000_000 < len(log) < 4_400_000


def test_a_copy_has_the_whole_log_and_what_was_in_it_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lifeline, "MOST_LOG", 10)
    copy = tmp_path / "made" / "a.log"
    for text in ("first\n" * 10, "second\n" * 10):
        engine, ours = socket.socketpair()
        made = Lifeline(ours, "test", copy)
        engine.sendall(frame(text.encode()))
        engine.close()
        assert made.wait_ended(20)
        made.close()
    assert copy.read_text() == "first\n" * 10 + "second\n" * 10


@pytest.mark.parametrize("copy", ["/dev/full", "/proc/no/such/place"])
def test_a_copy_that_cannot_be_written_costs_nothing_of_the_log(copy: str) -> None:
    engine, ours = socket.socketpair()
    made = Lifeline(ours, "test", Path(copy))
    engine.sendall(frame(b"one\n") + frame(b"two\n"))
    engine.close()
    assert made.wait_ended(20)
    assert made.log() == "one\ntwo\n"
    made.close()


def test_the_end_of_the_stream_is_the_end_of_the_container_and_the_log_stays(line: Line) -> None:
    line.engine.sendall(frame(b"last words\n") + frame(b"unfinished"))
    assert not line.lifeline.wait_ended(0.01)
    line.engine.close()
    assert line.lifeline.wait_ended(20)
    assert line.lifeline.ended
    assert line.lifeline.log() == "last words\nunfinished\n"


def test_a_stream_that_breaks_off_within_a_frame_ends_in_peace(line: Line) -> None:
    line.engine.sendall(frame(b"whole\n") + frame(b"broken off\n")[:-4])
    line.engine.close()
    assert line.lifeline.wait_ended(20)
    assert line.lifeline.log() == "whole\n"


def test_words_reach_the_container_as_lines_and_letting_go_is_the_end_of_its_input(line: Line) -> None:
    line.lifeline.say("own /a ü")
    line.lifeline.let_go()
    line.engine.settimeout(20)
    received = b""
    while part := line.engine.recv(100):
        received += part
    assert received == "own /a ü\n".encode()
    line.engine.sendall(frame(b"still heard\n"))
    line.shows("still heard\n")


@pytest.mark.parametrize("other_end_first", [False, True])
def test_closing_ends_the_thread_and_may_be_done_again(line: Line, other_end_first: bool) -> None:
    reader = line.lifeline._reader
    if other_end_first:
        line.engine.close()
    for call in (line.lifeline.close, line.lifeline.close, line.lifeline.let_go, lambda: line.lifeline.say("word")):
        call()
    assert not reader.is_alive()
    assert line.lifeline.ended


def test_closing_while_others_wait_for_the_end_wakes_them(line: Line) -> None:
    woken: list[bool] = []
    waiting = threading.Thread(target=lambda: woken.append(line.lifeline.wait_ended(60)))
    waiting.start()
    line.lifeline.close()
    waiting.join(20)
    assert woken == [True]


def test_a_forked_child_has_closed_its_copy_and_the_parents_stream_works_on(line: Line) -> None:
    child = os.fork()
    if child == 0:
        try:
            line.lifeline._socket.getpeername()
        except OSError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    line.engine.sendall(frame(b"after the fork\n"))
    line.shows("after the fork\n")


def open_files() -> list[str]:
    """What this process's file descriptors are: kinds of sockets and pipes, and paths of files."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(path.readlink()).partition(":[")[0])
        except FileNotFoundError:  # the one that lists them
            pass
    return sorted(found)


def threads() -> list[str]:
    return sorted(one.name for one in threading.enumerate())


def stop_twice(daemon: Daemon) -> None:
    daemon.stop()
    daemon.stop()


def restart_and_stop(daemon: Daemon) -> None:
    daemon.restart()
    assert daemon.client.ping()
    daemon.stop()


def fail_to_restart(daemon: Daemon) -> None:
    daemon.settings = dataclasses.replace(daemon.settings, daemon_arg=("--no-such-argument",))
    with pytest.raises(DaemonStartError):
        daemon.restart()


@pytest.mark.parametrize(("end", "times"), [(stop_twice, 3), (restart_and_stop, 2), (fail_to_restart, 2)])
def test_daemons_that_are_stopped_leave_no_open_file_and_no_thread(
    daemon: Daemon, image: str, end: Callable[[Daemon], None], times: int
) -> None:
    assert daemon.alive  # It opened what this process holds once for all of them: the lease and the guard.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # What other tests have left open to the garbage collector may not go while we count.
    before = open_files(), threads()
    for _ in range(times):
        # docker-py keeps up to 25 connections open to use them again, so the engine has to be closed for the count.
        engine = HostEngine.connect()
        another = Daemon.start(Settings(image=image), engine=engine)
        assert another.client.ping()
        assert another.exec(["true"])[0] == 0
        end(another)
        engine.close()
        wait_until(lambda: (open_files(), threads()) == before, lambda: f"{open_files()} {threads()} and not {before}")
