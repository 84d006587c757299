"""How many daemons there is memory for: on the machine, within a container's limit, and beside what was promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_dind import Settings, memory

from .conftest import InnerRun
from .watching import Watched

MB = 1024**2


def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, stat: str) -> None:
    """Have the files of a control group say so, and the machine have more than that."""
    names = []
    for name, text in (("limit", limit), ("used", used), ("stat", stat)):
        (tmp_path / name).write_text(text)
        names.append(str(tmp_path / name))
    monkeypatch.setattr(memory, "_CGROUPS", (tuple(names),))


@pytest.mark.parametrize(
    ("files", "left"),
    [
        (("800\n", "300\n", "anon 5\ninactive_file 100\nactive_file 7\n"), 600),
        (("800\n", "700\n", "cache 9\ninactive_file 20\nrss 1\ntotal_inactive_file 500\n"), 600),
        (("800\n", "900\n", ""), 0),
    ],
    ids=["v2", "v1: what groups below remember of files, too", "nothing"],
)
def test_a_limit_counts_less_what_is_used_and_cannot_be_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, str, str], left: int
) -> None:
    cgroup(tmp_path, monkeypatch, *files)
    assert memory.available() == left
    machine = memory.available(limited=False)
    assert machine is not None
    assert machine > 800


@pytest.mark.parametrize(("limit", "used"), [("max\n", "300\n"), ("", ""), ("9223372036854771712\n", "300\n")])
def test_where_there_is_no_limit_the_machine_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str
) -> None:
    cgroup(tmp_path, monkeypatch, limit, used, "")
    left = memory.available()
    assert left is not None
    assert 800 < left < 2**50


def test_there_is_room_for_as_many_as_fit_one_after_the_other_beside_what_was_promised() -> None:
    large, small = Settings(memory=400 * MB), Settings()
    assert memory.needed(small) == memory.IDLE
    assert memory.room_for([large], 399 * MB) == 0
    assert memory.room_for([small, large, large], 256 * MB + 700 * MB) == 2
    assert memory.room_for([small, large, large], 256 * MB + 700 * MB, promised=301 * MB) == 1
    assert memory.room_for([small], 900 * MB, promised=1000 * MB) == 0
    assert memory.room_for([small, large], None) == 2, "nobody says how much there is"
    assert (memory.growth(small), memory.growth(large)) == (0, 400 * MB - memory.IDLE)


@pytest.mark.once
def test_workers_share_the_memory_and_count_what_their_daemons_may_still_take(
    inner: InnerRun, watched: Watched
) -> None:
    left = memory.available()
    assert left is not None
    inner.pytester.makepyfile("""
        import time
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_fresh(number, dind_fresh_client):
            time.sleep(0.5)
    """)
    # Each worker has room for one, and would have for two if it were alone.
    result = inner.run("--dind", "-n2", "--dind-lookahead=3", f"--dind-memory={left * 2 // 5}")
    result.assert_outcomes(passed=6)
    assert watched.started == 6
    assert watched.most <= 2, "the one in use, and one that is ending"


@pytest.mark.once
def test_what_the_session_daemon_may_take_is_not_there_for_fresh_ones(inner: InnerRun, watched: Watched) -> None:
    left = memory.available()
    assert left is not None
    inner.pytester.makeconftest("""
        from pytest_dind import Daemon

        stop, there = Daemon.stop, []
        start = Daemon.start

        def stop_and_count(self, **how):
            stop(self, **how)
            there.remove(self)

        def start_and_count(*args, **how):
            there.append(start(*args, **how))
            return there[-1]

        Daemon.stop, Daemon.start = stop_and_count, start_and_count

        def pytest_runtest_call(item):
            import time
            time.sleep(1)
            assert len(there) <= 2, "the session daemon and this test's own"
    """)
    inner.pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_both(number, dind_client, dind_fresh_client):
            pass
    """)
    result = inner.run("--dind", "-p", "no:xdist", f"--dind-memory={left * 2 // 5}")
    result.assert_outcomes(passed=3)
    assert watched.started == 4


@pytest.mark.once
def test_the_header_does_not_name_memory_as_the_reason_for_what_the_user_asked_for(inner: InnerRun) -> None:
    inner.pytester.makepyfile("def test_it(): ...")
    left = memory.available()
    assert left is not None
    # There is room for one worker, with a daemon that is used and one that stands by.
    result = inner.run("--dind", "-n", "auto", "--maxprocesses=1", f"--dind-memory={left * 2 // 5}")
    result.stdout.fnmatch_lines(["created: 1/1 worker"])
    assert "by memory" not in str(result.stdout)
