"""Bind mounts mean what they say: paths of the test are the same paths in its daemon, and no others are there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .conftest import InnerRun

pytestmark = pytest.mark.once

#: Reads through a bind mount what the test wrote, and lets the container write what the test reads.
BOTH_WAYS = """
    import subprocess
    import pytest

    IMAGE = {busybox!r}
    SCRIPT = "cat /data/in && echo from the container >/data/out && mkdir /data/deeper && echo x >/data/deeper/out"

    def both_ways(client, path):
        (path / "in").write_text("from the test")
        there = {{str(path): {{"bind": "/data"}}}}
        output = client.containers.run(IMAGE, ["sh", "-c", SCRIPT], volumes=there, remove=True)
        assert output == b"from the test"
        assert (path / "out").read_text() == "from the container\\n"
        assert (path / "deeper" / "out").read_text() == "x\\n"

    @pytest.mark.parametrize("n", range(2))
    def test_session(dind_client, tmp_path, n):
        both_ways(dind_client, tmp_path)

    def test_what_tests_share(dind_client, tmp_path_factory):
        both_ways(dind_client, tmp_path_factory.mktemp("shared"))
        # Above the worker's own, where xdist's documentation has tests put what workers share.
        above = tmp_path_factory.getbasetemp().parent if {workers} else tmp_path_factory.getbasetemp()
        (above / "all").mkdir(exist_ok=True)
        (above / "all" / "in").write_text("shared")
        there = {{str(above / "all"): {{"bind": "/x"}}}}
        assert dind_client.containers.run(IMAGE, "cat /x/in", volumes=there) == b"shared"

    @pytest.mark.dind(preload=[IMAGE])
    def test_fresh(dind_fresh_client, tmp_path):
        both_ways(dind_fresh_client, tmp_path)

    def test_factory(dind_factory, tmp_path):
        both_ways(dind_factory().client, tmp_path)
"""


@pytest.mark.parametrize("mode", ["-p no:xdist", "-n 2 --basetemp"])
def test_a_directory_of_the_test_is_the_same_in_an_inner_container_both_ways(
    inner: InnerRun, busybox: str, mode: str
) -> None:
    inner.pytester.makepyfile(BOTH_WAYS.format(busybox=busybox, workers="-n" in mode))
    arguments = mode.removesuffix(" --basetemp").split()
    if mode.endswith("--basetemp"):
        base = inner.pytester.mkdir("with spaces, 'quotes' & ümläute, 日本")
        arguments.append(f"--basetemp={base / 'base temp'}")
    result = inner.run("--dind", f"--dind-preload={busybox}", *arguments)
    result.assert_outcomes(passed=5)
    assert inner.left() == []


def test_the_users_base_temp_is_found_where_it_was_put_by_the_environment(
    inner: InnerRun, busybox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = inner.pytester.mkdir("temp root")
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(root))
    inner.pytester.makepyfile(BOTH_WAYS.format(busybox=busybox, workers=False))
    arguments = ("--dind", f"--dind-preload={busybox}", "-p", "no:xdist", "-k", "test_session")
    # Not inner.run(): pytester names a base temp of its own, which would win.
    inner.pytester.run(sys.executable, "-m", "pytest", *arguments).assert_outcomes(passed=2, deselected=3)
    assert list(root.glob("pytest-of-*"))


def test_paths_are_added_with_dind_mount_on_the_command_line_or_in_the_ini_file(
    inner: InnerRun, busybox: str, short_tmp: Path
) -> None:
    # Not below base temp, which is mounted anyway.
    for name in ("first", "sec ond"):
        (short_tmp / name).mkdir()
        (short_tmp / name / "in").write_text(name)
    inner.pytester.makepyfile(
        f"""
        import pathlib

        def test_it(dind_daemon, dind_client):
            for path in dind_daemon.settings.mount:
                output = dind_client.containers.run(
                    {busybox!r}, ["sh", "-c", "cat /m/in; echo out >/m/out"], volumes={{str(path): {{"bind": "/m"}}}}
                )
                assert output.decode() == path.name
                assert (path / "out").read_text() == "out\\n"
                assert dind_daemon.exec(["cat", str(path / "in")]) == (0, path.name)
            names = [path.name for path in dind_daemon.settings.mount]
            pathlib.Path("mounted").write_text(",".join(names))
        """
    )
    common = ("--dind", f"--dind-preload={busybox}", "-p", "no:xdist")
    given = inner.run(*common, f"--dind-mount={short_tmp / 'first'}", f"--dind-mount={short_tmp / 'sec ond'}")
    given.assert_outcomes(passed=1)
    assert (inner.pytester.path / "mounted").read_text() == "first,sec ond"
    inner.pytester.makeini(f"[pytest]\ndind_mount =\n    {short_tmp / 'sec ond'}")
    inner.run(*common).assert_outcomes(passed=1)
    assert (inner.pytester.path / "mounted").read_text() == "sec ond"


def test_a_marker_adds_paths_for_its_fresh_daemon_alone(inner: InnerRun, short_tmp: Path) -> None:
    (short_tmp / "mine").mkdir()
    inner.pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.dind(mounts=[{str(short_tmp / "mine")!r}])
        def test_it(dind_fresh_daemon, dind_daemon):
            assert dind_fresh_daemon.exec(["test", "-d", {str(short_tmp / "mine")!r}])[0] == 0
            assert dind_daemon.exec(["test", "-d", {str(short_tmp / "mine")!r}])[0] == 1
        """
    )
    inner.run("--dind", "-p", "no:xdist").assert_outcomes(passed=1)


def test_nothing_else_of_this_machine_is_mounted(inner: InnerRun, busybox: str, short_tmp: Path) -> None:
    home = inner.pytester.path  # pytester's HOME
    (home / "secret").write_text("of the user")
    (short_tmp / "secret").write_text("of the user")
    base = inner.pytester.mkdir("base")
    inner.pytester.makepyfile(
        f"""
        import docker

        def test_it(dind_daemon, tmp_path_factory):
            found = docker.from_env().api.inspect_container(dind_daemon.name)
            mounts = {{one["Destination"]: one["Source"] for one in found["Mounts"] if one["Type"] == "bind"}}
            sockets = {str(short_tmp)!r} + "/pytest-dind/daemons"
            base = str(tmp_path_factory.getbasetemp())
            assert mounts == {{sockets: sockets, base: base}}
            assert found["HostConfig"]["Binds"] is None
            for secret in ({str(home / "secret")!r}, {str(short_tmp / "secret")!r}):
                assert dind_daemon.exec(["test", "-e", secret])[0] == 1
        """
    )
    result = inner.run("--dind", f"--basetemp={base / 'temp'}", "-p", "no:xdist")
    result.assert_outcomes(passed=1)


def test_the_official_images_entrypoint_does_not_hide_base_temp_below_tmp(
    inner: InnerRun, busybox: str, short_tmp: Path
) -> None:
    # It mounts a file system of its own over /tmp.
    official = os.environ.get("PYTEST_DIND_OFFICIAL_IMAGE", "pytest-dind/official:26.1.5")
    inner.pytester.makepyfile(BOTH_WAYS.format(busybox=busybox, workers=False))
    result = inner.run(
        "--dind", f"--dind-image={official}", f"--dind-preload={busybox}", "-p", "no:xdist",
        f"--basetemp={short_tmp / 'base'}", "-k", "session or fresh",
    )  # fmt: skip
    result.assert_outcomes(passed=3, deselected=2)
    result.stdout.fnmatch_lines([f"dind: *; image {official}; *"])
