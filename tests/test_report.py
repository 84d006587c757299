"""What a failed test's report says of its daemon, and what the run says of all of them."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from pytest_dind import Daemon, Settings, report

from .conftest import InnerRun

pytestmark = pytest.mark.once

NO_XDIST = ("-p", "no:xdist")


def sections(result: pytest.RunResult, test: str) -> dict[str, str]:
    """The captured sections of one failed test as the terminal shows them: title without the daemon's name → text."""
    output = str(result.stdout)
    part = re.split(rf"^_+ (?:ERROR at \w+ of )?{re.escape(test)} _+$", output, flags=re.MULTILINE)[1]
    part = re.split(r"^_+ .* _+$|^=+ .* =+$|^dind: ", part, flags=re.MULTILINE)[0]
    found = re.split(r"^-+ (Captured .*?) (?:setup|call|teardown) -+$", part, flags=re.MULTILINE)[1:]
    titles = [re.sub(r"pytest-dind-\w+-\w+-\d+", "DAEMON", title) for title in found[::2]]
    assert len(set(titles)) == len(titles), titles
    return dict(zip(titles, found[1::2], strict=True))


LOG = "Captured log of DAEMON"
TABLE = "Captured log: docker ps -a in DAEMON"


def container(name: str) -> str:
    """The title of an inner container's section."""
    return f"Captured log of container {name} in DAEMON"


SUITE = """
    import time
    import pytest

    IMAGE = {busybox!r}

    def run(client, name, command="echo logged by $0; sleep 1000"):
        container = client.containers.run(IMAGE, ["sh", "-c", command, name], name=name, detach=True)
        deadline = time.monotonic() + 60
        while f"logged by {{name}}" not in container.logs().decode():
            assert time.monotonic() < deadline

    def leave_a_trace(daemon, text):
        # Where dockerd writes its log.
        daemon.exec(["sh", "-c", f"echo {{text}} >/proc/1/fd/2"])

    def test_passes(dind_daemon, dind_client):
        leave_a_trace(dind_daemon, "before-it")
        run(dind_client, "first")

    def test_call(dind_daemon, dind_client):
        leave_a_trace(dind_daemon, "during-it")
        run(dind_client, "second", "echo logged by $0; exit 3")
        dind_client.containers.get("second").wait()
        assert False

    def test_none():
        assert False

    @pytest.fixture
    def broken_setup(dind_client):
        run(dind_client, "in-setup")
        raise RuntimeError("setup")

    def test_setup(broken_setup): pass

    @pytest.fixture
    def broken_teardown(dind_client):
        yield
        run(dind_client, "in-teardown")
        raise RuntimeError("teardown")

    def test_teardown(broken_teardown): pass

    @pytest.mark.dind(preload=[IMAGE])
    def test_fresh(dind_fresh_client):
        run(dind_fresh_client, "fresh")
        assert False

    def test_none_again():
        assert False
"""


def test_a_failure_shows_the_daemons_log_since_the_test_began_and_its_containers(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makepyfile(SUITE.format(busybox=busybox))
    result = inner.run(
        "--dind", f"--dind-preload={busybox}", *NO_XDIST, "--junitxml=all.xml", "-o", "junit_logging=all"
    )
    result.assert_outcomes(passed=2, failed=4, errors=2)

    call = sections(result, "test_call")
    assert list(call) == [LOG, TABLE, container("second"), container("first")]
    assert "during-it" in call[LOG]
    assert "before-it" not in call[LOG]
    assert "API listen on" not in call[LOG]  # from the daemon's start
    first, second = (next(line for line in call[TABLE].splitlines() if name in line) for name in ("first", "second"))
    assert re.fullmatch(rf"[0-9a-f]{{12}}  {busybox}  sh -c .*  Up .*  first", first)
    assert "Exited (3)" in second
    assert call[container("second")].strip() == "logged by second"

    # Before the test, the session's daemon was there or not: the log of what it did in the setup is shown all the same.
    assert container("in-setup") in sections(result, "test_setup")
    assert "logged by in-teardown" in sections(result, "test_teardown")[container("in-teardown")]
    fresh = sections(result, "test_fresh")
    assert list(fresh) == [LOG, TABLE, container("fresh")]
    assert "API listen on" in fresh[LOG]
    assert sections(result, "test_none") == sections(result, "test_none_again") == {}

    written = {case.get("name"): case for case in ET.parse(inner.pytester.path / "all.xml").iter("testcase")}
    text = {name: "".join(case.itertext()) for name, case in written.items()}
    assert "during-it" in text["test_call"]
    assert "logged by second" in text["test_call"]
    assert "logged by in-teardown" in text["test_teardown"]
    for name in ("test_none", "test_none_again", "test_passes"):
        assert "logged by" not in text[name]


def test_the_first_test_that_fails_shows_the_daemons_start_also_with_xdist_and_is_quiet_if_asked(
    inner: InnerRun,
) -> None:
    inner.pytester.makepyfile("def test_it(dind_client): assert False")
    result = inner.run("--dind", "-n1", "--junitxml=all.xml", "-o", "junit_logging=all")
    result.assert_outcomes(failed=1)
    assert 'msg="Starting up"' in sections(result, "test_it")[LOG]
    assert "Starting up" in (inner.pytester.path / "all.xml").read_text()
    quiet = inner.run("--dind", *NO_XDIST, "--show-capture=no", "-q")
    assert sections(quiet, "test_it") == {}
    assert "Captured" not in str(quiet.stdout)
    # Under -q there is neither the header line nor the summary line.
    assert "dind: " not in str(quiet.stdout)
    assert "host engine" not in str(quiet.stdout)


def test_the_log_directory_has_the_log_of_every_daemon_also_of_one_that_took_anothers_place(inner: InnerRun) -> None:
    inner.pytester.makepyfile("""
        def test_breaks(dind_daemon):
            print("name:", dind_daemon.name)
            dind_daemon.exec(["sh", "-c", "echo of-the-first >/proc/1/fd/2; kill $(pidof dockerd)"])

        def test_again(dind_daemon):
            dind_daemon.exec(["sh", "-c", "echo of-the-second >/proc/1/fd/2"])

        def test_fresh(dind_fresh_daemon):
            print("name:", dind_fresh_daemon.name)
    """)
    result = inner.run("--dind", "-p", "no:xdist", "-rP", "--dind-log-dir=reports/logs")
    result.assert_outcomes(passed=3)
    session, fresh = re.findall(r"^name: (\S+)$", str(result.stdout), re.MULTILINE)
    logs = {path.name: path.read_text() for path in (inner.pytester.path / "reports" / "logs").iterdir()}
    assert sorted(logs) == sorted([f"{session}.log", f"{fresh}.log"])
    parts = logs[f"{session}.log"].split("of-the-first")
    assert len(parts) == 2
    assert all("API listen on" in part for part in [*parts, logs[f"{fresh}.log"]])
    assert "of-the-second" in parts[1]


def test_what_a_report_shows_is_bounded(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makepyfile(
        f"""
        IMAGE = {busybox!r}

        def test_it(dind_client):
            for number in range(14):
                dind_client.containers.create(IMAGE, name=f"made{{number:02}}")
            command = ["sh", "-c", "for i in $(seq 5000); do echo line $i; done; head -c 9999 /dev/zero | tr '\\\\0' x"]
            dind_client.containers.run(IMAGE, command, name="prints")
            assert False
        """
    )
    result = inner.run("--dind", f"--dind-preload={busybox}", *NO_XDIST)
    result.assert_outcomes(failed=1)
    found = sections(result, "test_it")
    assert all(f"made{number:02}" in found[TABLE] for number in range(14))
    logs = [title for title in found if title.startswith("Captured log of container ")]
    # The newest ones.
    assert logs == [container(name) for name in ("prints", *(f"made{number:02}" for number in range(13, 4, -1)))]
    lines = found[container("prints")].strip().splitlines()
    assert len(lines) <= 51
    assert "line 5000" in lines
    assert "line 4000" not in lines
    assert 1000 < max(map(len, lines)) <= 2000
    assert len(found[LOG].splitlines()) <= 202


def test_a_dead_daemon_neither_hangs_nor_hides_the_report(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makepyfile(
        f"""
        import time
        import pytest

        def test_it(dind_daemon, dind_client):
            dind_client.containers.create({busybox!r}, name="inside")
            dind_daemon.exec(["pkill", "-KILL", "-x", "dockerd"])
            deadline = time.monotonic() + 60
            while not dind_daemon.ended:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert False, "of the test"

        def test_after(dind_client):
            assert dind_client.containers.list(all=True) == []
            assert False
        """
    )
    result = inner.run("--dind", f"--dind-preload={busybox}", *NO_XDIST)
    result.assert_outcomes(failed=2)
    killed = sections(result, "test_it")
    assert list(killed) == [LOG, TABLE]
    assert "pytest-dind: dockerd ended with exit code " in killed[LOG]
    assert "(the daemon does not answer" in killed[TABLE]
    assert "AssertionError: of the test" in str(result.stdout)
    # The next test is told that it has a new one, and so is the reader of the summary.
    test = "test_a_dead_daemon_neither_hangs_nor_hides_the_report.py::test_it"
    after = sections(result, "test_after")
    assert list(after) == ["Captured log of pytest-dind", LOG, TABLE]
    why = "its container has ended: dockerd ended with exit code 137"
    assert re.fullmatch(
        rf"{test} broke the session daemon \S+: {why}; this is a new one in its place\n"
        r"What was in the old one is gone\n"
        r"The old one's log ended:\n(    .*\n)+    pytest-dind: dockerd ended with exit code 137",
        after["Captured log of pytest-dind"].strip(),
    )
    result.stdout.fnmatch_lines(
        ["dind: 2 daemons started *", f"dind: the session daemon * was replaced: {test} broke it ({why})"]
    )


def test_a_daemon_that_hangs_does_not_hang_the_report(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "ANSWER_TIMEOUT", 1)
    with Daemon.start(Settings(image=image)) as daemon:
        daemon.exec(["pkill", "-STOP", "-x", "dockerd"])
        log, table = report.sections(daemon, 0)
        assert log[0] == f"log of {daemon.name}"
        assert "API listen on" in log[1]
        assert table[1].startswith("(the daemon does not answer: ")


def test_the_factorys_daemons_are_not_in_reports_of_tests_that_do_not_use_them(inner: InnerRun) -> None:
    inner.pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def other(dind_factory):
            return dind_factory()

        def test_uses(other): assert False
        def test_none(): assert False
        """
    )
    result = inner.run("--dind", *NO_XDIST)
    result.assert_outcomes(failed=2)
    assert list(sections(result, "test_uses")) == [LOG, TABLE]
    assert sections(result, "test_none") == {}


def test_header_and_summary_say_where_from_what_and_how_many(inner: InnerRun, image: str) -> None:
    inner.pytester.makepyfile(
        """
        def test_session(dind_client): pass
        def test_fresh(dind_fresh_client): pass
        """
    )
    for mode in (NO_XDIST, ("-n2",)):
        result = inner.run("--dind", *mode)
        result.assert_outcomes(passed=2)
        (header, summary) = (line for line in result.outlines if line.startswith("dind: "))
        assert re.fullmatch(
            rf"dind: host engine Docker \S+ at \S+ \(\w+, cgroup v[12]\); image {re.escape(image)}; "
            r"transport unix \(the host engine is on this machine\)",
            header,
        )
        count, times = r"(\d) daemons started", r"\(median \d+\.\d\d s, max \d+\.\d\d s\)"
        found = re.fullmatch(rf"dind: {count} {times}; all removed with their volumes", summary)
        assert found is not None, summary
        assert found[1] == "2"


def test_a_run_that_starts_no_daemon_has_a_header_and_no_summary(inner: InnerRun) -> None:
    inner.pytester.makepyfile("def test_it(): pass")
    result = inner.run("--dind", *NO_XDIST)
    result.assert_outcomes(passed=1)
    assert [line.partition(" Docker ")[0] for line in result.outlines if "dind: " in line] == ["dind: host engine"]
