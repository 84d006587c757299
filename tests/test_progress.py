"""What takes long is said: by one line on a terminal, by lines elsewhere, and once for all workers."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_dind import progress, relay
from pytest_dind.progress import Shown, stage
from pytest_dind.screen import Screen
from pytest_dind.voices import LOST, MOST_NAMES, Voices

from .conftest import InnerRun, wait_until
from .processes import Spawned

pytestmark = pytest.mark.once

#: How a line is shown below the one where the cursor is, which stays there.
PAINTED = re.compile(r"\x1b\[J\x1bD\x1b\[A\x1b7\r\x1b\[B(dind: [^\x1b]*)\x1b8")

#: Shown after a tenth of a second instead of two seconds; loaded as a plugin, before anything else.
QUICK = """
    from pytest_dind import progress

    progress.AFTER = 0.1
    progress.EVERY = 0.1
"""

SUITE = """
    import os
    import threading
    import time

    from pytest_dind.progress import stage


    def test_long():
        print("printed by the test")
        with stage("pulling busybox:latest") as pulling:
            pulling.say("12 of 40 MB")
            time.sleep(0.4)
        assert not [one for one in threading.enumerate() if "progress" in one.name]


    def test_short():
        with stage("a short one"):
            pass
"""


@pytest.fixture
def quick(inner: InnerRun) -> InnerRun:
    """Inner runs of SUITE; they need `-p quick`."""
    inner.pytester.makepyfile(quick=QUICK, test_suite=SUITE)
    return inner


# -- the core


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Shown | None]]:
    """What a listener is told, with stages shown at once."""
    monkeypatch.setattr(progress, "AFTER", 0.05)
    monkeypatch.setattr(progress, "EVERY", 0.02)
    told: list[Shown | None] = []
    undo = progress.listen(told.append)
    yield told
    undo()
    before = len(told)
    with stage("nobody listens any more"):
        time.sleep(0.1)
    assert len(told) == before


def telling_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "pytest-dind-progress"]


def text_of(shown: Shown | None) -> str:
    return "" if shown is None else f"{shown.text}: {shown.detail}"


def wait_for_text(heard: list[Shown | None], text: str) -> None:
    wait_until(lambda: heard and text_of(heard[-1]) == text, lambda: f"no {text!r} last in {heard}")


def test_the_innermost_stage_is_told_with_what_it_says_and_nothing_after_its_end(heard: list[Shown | None]) -> None:
    with stage("filling the image store") as outer:
        outer.say("1 of 2")
        wait_for_text(heard, "filling the image store: 1 of 2")
        with stage("pulling busybox:latest") as inner:
            inner.say("12 of 40 MB")
            wait_for_text(heard, "pulling busybox:latest: 12 of 40 MB")
        wait_for_text(heard, "filling the image store: 1 of 2")
        last = heard[-1]
        assert last is not None
        assert last.seconds >= 0.1
    assert heard[-1] is None
    assert telling_threads() == []


def test_a_short_stage_is_not_told_and_one_that_fails_is_taken_away(heard: list[Shown | None]) -> None:
    with stage("short"):
        assert telling_threads() == ["pytest-dind-progress"]
    assert heard == []

    def fail() -> None:
        with stage("long"):
            wait_for_text(heard, "long: ")
            raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match=r"^no space$"):
        fail()
    assert heard[-1] is None
    assert telling_threads() == []


def test_stages_of_several_threads_each_come_to_their_end(heard: list[Shown | None]) -> None:
    ends = [threading.Event() for _ in range(4)]

    def work(number: int) -> None:
        with stage(f"number {number}"):
            ends[number].wait()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for number, thread in enumerate(threads):
        thread.start()
        wait_for_text(heard, f"number {number}: ")
    for number in (1, 3, 0):
        ends[number].set()
        threads[number].join()
    wait_for_text(heard, "number 2: ")
    ends[2].set()
    threads[2].join()
    assert heard[-1] is None
    assert telling_threads() == []


def test_without_a_listener_no_thread_is_started() -> None:
    with stage("a plain script's"):
        assert telling_threads() == []


def test_a_listener_that_fails_fails_nobody_and_is_told_no_more(heard: list[Shown | None]) -> None:
    calls = []

    def fail(shown: Shown | None) -> None:
        calls.append(shown)
        raise OSError("the terminal has gone")

    undo = progress.listen(fail)
    with stage("long"):
        wait_until(lambda: len(heard) > 2, lambda: f"only {heard}")
    undo()
    assert len(calls) == 1


def test_a_forked_child_tells_nothing_and_waits_for_no_thread_of_its_parent(heard: list[Shown | None]) -> None:
    reading, writing = os.pipe()
    with stage("forks"):
        wait_for_text(heard, "forks: ")
        progress._board._lock.acquire()  # as another thread may at this moment
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            before = len(heard)
            with stage("in the child"):
                time.sleep(0.1)
            os.write(writing, b"silent" if len(heard) == before else b"told")
            os._exit(0)
        progress._board._lock.release()
        os.close(writing)
        assert os.read(reading, 10) == b"silent"
        os.close(reading)
        os.waitpid(child, 0)
        wait_for_text(heard, "forks: ")
    assert heard[-1] is None


# -- what several workers are at, as one


def voices_at(now: list[float]) -> Voices:
    return Voices(lambda: now[0])


def test_the_same_text_of_several_workers_is_said_once_and_each_text_again_later() -> None:
    voices = voices_at([0.0])
    assert voices.hear("gw0", Shown(1, "waiting for gw3", "", 2.0)) == "dind [gw0]: waiting for gw3"
    assert voices.hear("gw1", Shown(1, "waiting for gw3", "", 2.1)) is None
    assert voices.hear("gw3", Shown(1, "building app", "step 2", 2.1)) == "dind [gw3]: building app: step 2"
    assert voices.hear("gw3", Shown(1, "building app", "step 3", 2.6)) is None
    # An inner stage comes between, and the outer one is shown again.
    assert voices.hear("gw3", Shown(2, "pulling base", "", 2.0)) == "dind [gw3]: pulling base"
    assert voices.hear("gw3", Shown(1, "building app", "step 3", 9.0)) is None
    for name in ("gw0", "gw1", "gw3"):
        assert voices.hear(name, None) is None
    assert voices.line() is None
    assert voices.hear("gw1", Shown(2, "waiting for gw3", "", 2.0)) == "dind [gw1]: waiting for gw3"


def test_the_live_line_names_what_takes_longest_and_counts_the_rest() -> None:
    voices = voices_at([0.0])
    voices.hear("", Shown(1, "removing leftovers", "", 2.0))
    assert voices.line() == "dind: removing leftovers (2 s)"
    voices.hear("gw1", Shown(1, "waiting for gw3", "", 3.0))
    voices.hear("gw0", Shown(1, "waiting for gw3", "", 4.2))
    assert voices.line() == "dind [gw0, gw1]: waiting for gw3 (4 s), and 1 more"
    for number in range(2, MOST_NAMES + 1):
        voices.hear(f"gw{number}", Shown(1, "waiting for gw3", "", 1.0))
    assert voices.line() == f"dind [gw0 and {MOST_NAMES} more]: waiting for gw3 (4 s), and 1 more"


def test_a_worker_that_was_killed_is_soon_not_spoken_of() -> None:
    now = [0.0]
    voices = voices_at(now)
    voices.hear("gw0", Shown(1, "building app", "", 2.0))
    now[0] = LOST
    assert voices.line() is None
    assert voices.hear("gw1", Shown(1, "building app", "", 2.0)) == "dind [gw1]: building app"


# -- from a worker to the controller


@pytest.fixture
def receiver() -> Iterator[tuple[bytes, list[tuple[str, Shown | None]]]]:
    """An address and what is heard there."""
    heard: list[tuple[str, Shown | None]] = []
    address = relay.address_of(f"test {time.monotonic()}", os.getpid())
    receiver = relay.Receiver(address, lambda name, shown: heard.append((name, shown)), lambda: None)
    receiver.start()
    yield address, heard
    receiver.close()
    assert not receiver.is_alive()
    relay.send(address, "gw0", None)  # nobody listens: no error


def test_the_controller_hears_what_its_workers_are_at(receiver: Any) -> None:
    address, heard = receiver
    relay.send(address, "gw3", Shown(7, "x" * 10_000, "1 of 2", 2.5))
    relay.send(address, "gw3", None)
    wait_until(lambda: len(heard) == 2, lambda: f"only {heard}")
    assert heard == [("gw3", Shown(7, "x" * relay.MOST_TEXT, "1 of 2", 2.5)), ("gw3", None)]


def test_two_runs_with_the_same_testrunuid_are_not_confused() -> None:
    assert relay.address_of("run", 1) != relay.address_of("run", 2) != relay.address_of("other run", 2)


def test_nobody_else_is_heard(receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address, heard = receiver
    shown = Shown(1, "printed by a stranger", "", 2.0)
    user = os.geteuid()
    asked = threading.Event()

    def another_user() -> int:
        asked.set()
        return user + 1

    with monkeypatch.context() as patch:
        # The kernel says who sent it: for this moment that is another user than this process takes itself for.
        patch.setattr(os, "geteuid", another_user)
        relay.send(address, "gw0", shown)
        wait_until(asked.is_set, lambda: "nobody asked who that was")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for garbage in (b"", b"\xff", b"[]", b'["gw0", [1]]', b"[1, 2]"):
            sender.sendto(garbage, address)
    relay.send(address, "gw1", shown)
    wait_until(lambda: heard, lambda: "nothing was heard")
    assert heard == [("gw1", shown)]


# -- a screen that two write to


class Typewriter:
    """Writes as pytest's TerminalWriter does."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.width_of_current_line = 0
        self.write: Callable[..., None] = self._write

    def _write(self, text: str, *, flush: bool = False) -> None:
        assert flush, "what is not flushed comes out somewhere else"
        self.width_of_current_line += len(text)
        os.write(self.descriptor, text.encode())


def test_a_live_line_is_erased_before_another_writes_and_not_shown_while_hushed() -> None:
    ours, theirs = pty.openpty()
    set_size(theirs, columns=30)
    writer = Typewriter(theirs)
    written = writer.write
    screen = Screen(os.dup(theirs), writer, live=True)
    screen.paint("dind: pulling busybox:latest\x1b[31m and more")
    writer.write("..")
    screen.hush(hushed=True)
    screen.paint("dind: hushed")
    screen.hush(hushed=False)
    screen.paint("dind: again")
    screen.close()
    assert writer.write == written
    os.close(theirs)
    painted = PAINTED.sub(r"<\1>", read_all(ours))
    assert painted == "<dind: pulling busybox:latest >\x1b[J..<dind: again>\x1b[J"


# -- pytest, with and without xdist


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        pytest.param([], 1, id="captured"),
        pytest.param(["-s", "-q"], 1, id="not-captured"),
        pytest.param(["-qq"], 0, id="quiet"),
        pytest.param(["-p", "no:terminal"], 0, id="no-terminal"),
    ],
)
def test_a_long_stage_is_one_line_in_a_log_and_a_short_one_none(
    quick: InnerRun, arguments: list[str], lines: int
) -> None:
    result = quick.run("--dind", "-p", "quick", "-p", "no:xdist", *arguments)
    assert result.ret == 0, result.stdout.str()
    assert result.stdout.lines.count("dind: pulling busybox:latest: 12 of 40 MB") == lines
    assert "a short one" not in result.stdout.str()
    assert ("printed by the test" in result.stdout.str()) == ("-s" in arguments)
    assert result.stderr.str() == ""


def test_workers_lines_come_while_they_run_and_once_for_the_same_text(quick: InnerRun) -> None:
    directory = quick.pytester.path
    quick.pytester.makepyfile(
        test_suite="""
        import os, pathlib, time
        import pytest
        from pytest_dind.progress import stage

        HERE = pathlib.Path(__file__).parent
        ME = os.environ["PYTEST_XDIST_WORKER"]

        def wait(name):
            while not (HERE / name).exists():
                time.sleep(0.02)

        @pytest.mark.parametrize("n", range(2))
        def test_wait(n):
            with stage("waiting for the lock") as waiting:
                (HERE / f"{ME}.waits").touch()
                wait("gw0.waits")
                wait("gw1.waits")
                wait("go")
            with stage(f"loading number {ME}"):
                wait("end")
        """
    )
    with Spawned(directory, "-p", "quick", "-n", "2", "--dist", "load") as run:

        def wait_for_line(pattern: str) -> None:
            wait_until(
                lambda: re.search(pattern, run.output, re.MULTILINE), lambda: f"no {pattern!r} in:\n{run.output}"
            )

        wait_for_line(r"^dind \[gw[01]\]: waiting for the lock$")
        wait_until(lambda: all((directory / f"gw{n}.waits").exists() for n in (0, 1)), lambda: run.output)
        time.sleep(0.5)  # The other worker has had the time to say the same.
        (directory / "go").touch()
        wait_for_line(r"^dind \[gw0\]: loading number gw0$")
        wait_for_line(r"^dind \[gw1\]: loading number gw1$")
        (directory / "end").touch()
        assert run.wait() == 0, run.output
        assert run.output.count("waiting for the lock") == 1, run.output


@pytest.mark.parametrize(
    ("arguments", "said_on_stderr", "said_in_the_log"),
    [
        pytest.param(["--dind-environ", "-n", "0"], ["dind: loading big:1"], [], id="alone"),
        pytest.param(["--dind-environ", "-n", "1"], [], ["dind [gw0]: loading big:1"], id="worker"),
        pytest.param(["-n", "0", "-qq"], [], [], id="quiet"),
    ],
)
def test_stages_before_there_is_a_reporter_are_said_too(
    quick: InnerRun, arguments: list[str], said_on_stderr: list[str], said_in_the_log: list[str]
) -> None:
    quick.pytester.makepyfile(
        early="""
        import time
        from pytest_dind.progress import stage
        from pytest_dind.workers import is_worker_process

        def pytest_load_initial_conftests(early_config):
            if is_worker_process() or not early_config.known_args_namespace.numprocesses:
                print("printed early")
                with stage("loading big:1"):
                    time.sleep(0.4)
        """
    )
    result = quick.run("--dind", "-p", "quick", "-p", "early", "-k", "short", *arguments)
    assert result.ret == 0, result.stdout.str()
    assert result.stderr.lines == said_on_stderr
    assert [line for line in result.stdout.lines if "big:1" in line] == said_in_the_log


@pytest.mark.parametrize("capture", ["fd", "no"])
def test_on_a_terminal_a_line_lives_below_and_leaves_nothing(quick: InnerRun, capture: str) -> None:
    ours, theirs = pty.openpty()
    set_size(ours, columns=80)
    arguments = ["--dind", "-p", "quick", "-p", "no:xdist", "-p", "no:cacheprovider", "-v", f"--capture={capture}"]
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=quick.pytester.path,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        output = read_all(ours)
    assert process.returncode == 0, output
    if capture == "no":
        # The test writes as well, where it will: no line that lives could be kept out of its way.
        assert "\r\ndind: pulling busybox:latest: 12 of 40 MB\r\n" in output
        assert "\x1b7" not in output
        return
    lines = PAINTED.findall(output)
    assert len(lines) > 1, "it is shown again and again"
    assert set(lines) == {"dind: pulling busybox:latest: 12 of 40 MB (0 s)"}
    rest = PAINTED.sub("", output)
    assert re.search(r"test_suite\.py::test_long \x1b\[J(\x1b\[J)*PASSED +\[ 50%\]\r\n", rest), rest
    assert "pulling" not in rest
    assert "printed by the test" not in rest


def set_size(terminal: int, columns: int) -> None:
    """As termios.tcsetwinsize does, which comes with Python 3.11."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def read_all(terminal: int) -> str:
    """Read a terminal until nobody has it open any more, which is an error there and not an end of file."""
    read = b""
    try:
        while more := os.read(terminal, 65536):
            read += more
    except OSError:
        pass
    finally:
        os.close(terminal)
    return read.decode()
