"""`pytest-dind doctor` finds what is well, and what is not, on real engines; it and `shell` leave nothing behind."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from pytest_dind import Daemon, Settings, trial
from pytest_dind.cli import main
from pytest_dind.doctor import examine
from pytest_dind.finding import Finding, heading, verdict
from pytest_dind.host import HostEngine
from pytest_dind.labels import Ownership
from pytest_dind.locks import Lease, host_id

from .conftest import OFFICIAL, InnerRun, tags_on, wait_until
from .test_not_root import User, docker_gid, finish, packages, user

__all__ = ["docker_gid", "packages", "user"]  # fixtures

pytestmark = pytest.mark.once

#: In their order, where none fails and no caveat applies.
CHECKS = [
    "host engine",
    "place",
    "transport",
    "image",
    "daemon",
    "address",
    "storage driver",
    "inner container",
    "cgroups",
    "names inside",
    "published port",
    "base temp",
    "disk",
    "inotify",
    "leftovers",
]

Said = subprocess.CompletedProcess[str]


def dind(*arguments: str, **environment: str) -> Said:
    """Run `pytest-dind` as a user would; there is never a traceback."""
    said = subprocess.run(
        [sys.executable, "-m", "pytest_dind.cli", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in said.stdout + said.stderr, said.stdout + said.stderr
    return said


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`pytest-dind` while it runs; in the end it does not."""
    argv = [sys.executable, "-m", "pytest_dind.cli", *arguments]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def row(said: Said, check: str) -> str:
    """The row of a check, with the one of its cure; each is one line."""
    found = re.search(rf"^(?:ok|warning|failed|not tried) +{check} .*\n(?: +cure: .*\n)?", said.stdout, re.MULTILINE)
    assert found, said.stdout + said.stderr
    return " ".join(found[0].split())


@pytest.fixture
def temp(inner: InnerRun, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go; with that of `inner`, all that the command could leave is known."""
    path = inner.pytester.mkdir("temp")
    monkeypatch.setenv("TMPDIR", str(path))
    return path


@pytest.fixture
def network(host: docker.DockerClient) -> Iterator[str]:
    """A network of the host engine that has names."""
    made = host.networks.create(f"pytest-dind-test-{secrets.token_hex(4)}")
    yield str(made.name)
    made.remove()


# -- all is well


def test_all_checks_are_made_and_shown_as_json(inner: InnerRun, temp: Path, image: str) -> None:
    said = dind("doctor", "--json", PYTEST_DIND_IMAGE=image)
    found: list[dict[str, Any]] = json.loads(said.stdout)
    assert said.returncode == 0, said.stdout
    assert [one["check"] for one in found][: len(CHECKS)] == CHECKS
    assert [one for one in found if set(one) != {"check", "finding", "ok", "state", "cure", "facts"}] == []
    facts = {one["check"]: one["facts"] for one in found}
    assert facts["image"]["image"] == image
    assert 0 < facts["daemon"]["seconds"] < 60
    assert facts["cgroups"]["limit"] == str(trial.MEMORY)
    assert re.fullmatch(r"[\d.]+:\d+", facts["published port"]["address"])
    assert 0 < facts["disk"]["free_bytes"] < facts["disk"]["bytes"]
    assert facts["inotify"]["max_user_instances"] > 0
    states = {one["check"]: one["state"] for one in found}
    assert {states[check] for check in CHECKS[:12]} == {"ok"}, said.stdout
    assert list(temp.iterdir()) == []
    inner.wait_until_nothing_is_left()


def test_an_official_image_on_a_network_over_tls_is_as_well(
    inner: InnerRun, temp: Path, network: str, host: docker.DockerClient
) -> None:
    if OFFICIAL not in tags_on(host):
        pytest.skip(f"the host engine has no image {OFFICIAL}")
    said = dind("doctor", f"--image={OFFICIAL}", "--transport=tls", f"--network={network}")
    assert said.returncode == 0, said.stdout
    assert said.stdout.startswith(heading())
    assert row(said, "transport").startswith("ok transport tls (")
    assert re.match(r"ok address Docker \S+ answers at tcp://", row(said, "address"))
    # The name of the daemon's own container resolves on that network, and so it must inside.
    assert re.search(
        r"containers find each other; names of the outside: pytest-dind-script-", row(said, "names inside")
    )
    assert re.match(r"ok published port reached at [\d.]+:\d+", row(said, "published port"))
    assert row(said, "base temp").startswith(f"ok base temp an inner container sees a directory in {temp} as we do")
    assert said.stdout.splitlines()[-1].startswith("no check failed")
    inner.wait_until_nothing_is_left()


def test_a_user_who_is_not_root_gets_the_same_and_one_who_may_not_use_the_engine_is_told_what_to_do(user: User) -> None:
    argv = ("/usr/bin/python3", "-m", "pytest_dind.cli", "doctor")
    allowed = finish(user, user.start(*argv))
    assert re.search(r"\nok +base temp +an inner container sees a directory", allowed), allowed
    assert "\nno check failed" in allowed
    assert list((user.home / "tmp").iterdir()) == []
    assert user.foreign() == []
    user.docker_gid = user.gid
    process = user.start(*argv)
    refused = finish(user, process)
    assert process.returncode == 1
    assert re.search(r"\nfailed +host engine +no Docker engine answers at unix:///\S+ \(from DOCKER_HOST\): ", refused)
    assert re.search(r"Permission denied\n +cure: Give this user the group of the socket", refused), refused
    assert refused.endswith("\n\n1 of 1 checks failed\n")
    assert len(refused.splitlines()) == 5, refused


# -- what is not


def test_without_an_engine_that_is_all_there_is_to_say() -> None:
    said = dind("doctor", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert said.returncode == 1
    assert said.stderr == ""
    assert row(said, "host engine") == (
        "failed host engine no Docker engine answers at unix:///nowhere/docker.sock (from DOCKER_HOST): "
        "[Errno 2] No such file or directory "
        "cure: Start Docker there, or set DOCKER_HOST to an engine that runs; 'docker info' must work."
    )
    assert len(said.stdout.splitlines()) == 5


def test_an_image_without_a_daemon_is_named_and_what_needs_none_is_checked_all_the_same(
    inner: InnerRun, temp: Path, busybox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    lease = Lease.take()
    lease.release()
    engine = HostEngine.connect()
    labels = Ownership("a-run", "gw0", host_id(), lease.label).labels()
    volume = engine.api.create_volume(f"pytest-dind-test-{secrets.token_hex(4)}", labels=labels)["Name"]
    try:
        said = dind("doctor", PYTEST_DIND_IMAGE=busybox, KUBERNETES_SERVICE_HOST="10.0.0.1")
        engine.api.inspect_volume(volume)
    finally:
        engine.api.remove_volume(volume)
        engine.close()
    assert said.returncode == 1
    assert re.fullmatch(
        rf"failed daemon it ended after [\d.]+ s, before it answered \(image {busybox}\)\. "
        r"The image contains no containerd\. cure: Name an image that contains it, such as --dind-image=docker.*",
        row(said, "daemon"),
    )
    assert row(said, "leftovers") == (
        "warning leftovers dead runs have left 1 volume cure: The next run removes it, and so does: pytest-dind prune"
    )
    assert "Here: no limit is given with --dind-memory and --dind-cpus." in row(said, "kubernetes")
    assert "cure: Limit the daemons themselves" in row(said, "kubernetes")
    assert re.search(r"\n\n1 of \d+ checks failed\n$", said.stdout)
    assert list(temp.iterdir()) == []


def test_an_image_that_is_nowhere_is_named_with_the_reason() -> None:
    # Nobody listens there, so that no registry is asked.
    said = dind("doctor", "--image=127.0.0.1:1/no/such:image")
    assert said.returncode == 1
    assert re.fullmatch(
        r"failed image 127\.0\.0\.1:1/no/such:image is not on the host engine, and pulling it failed: .*refused.* "
        r"cure: Mind the spelling; pull or build it on the host engine, or name another, with --image, .*",
        row(said, "image"),
    )
    assert " daemon " not in said.stdout


def test_a_full_disk_is_said_with_the_cure(inner: InnerRun, temp: Path, engine_settings: Settings, image: str) -> None:
    with Daemon.start(engine_settings) as engine:
        volumes = "/var/lib/docker/volumes"
        full = f"mount -t tmpfs -o size=1m tmpfs {volumes} && ! dd if=/dev/zero of={volumes}/all 2>/dev/null"
        assert engine.exec(["sh", "-c", full]) == (0, "")
        said = dind("doctor", f"--image={image}", DOCKER_HOST=engine.host)
        assert engine.client.containers.list(all=True) == []
    assert said.returncode == 1
    assert row(said, "transport") == "ok transport unix (the host engine is on this machine)"
    assert re.fullmatch(
        r"failed daemon .*The file system of the data root is full, in bytes or in inodes\. "
        r"cure: On the host: df -h and df -i .*",
        row(said, "daemon"),
    )
    assert list(temp.iterdir()) == []


def test_what_does_not_work_inside_is_found_each_by_its_own_check(
    image: str, network: str, nothing_is_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_SERVED", 0.5)
    arguments = ("storage-driver=vfs", "dns=127.0.0.53", "iptables=false", "userland-proxy=false")
    bad = Settings(image=image, network=network, daemon_arg=tuple(f"--{one}" for one in arguments))
    found = {one.check: one for one in examine(bad)}
    driver = found["storage driver"]
    assert driver.finding.startswith("vfs")
    assert "copies every layer in full" in driver.finding
    assert (driver.state, driver.cure) == (
        "warning",
        "Have the data on ext4 or xfs and use overlay2 (docker info shows the driver).",
    )
    assert found["names inside"].state == "failed"
    assert re.search(r"does not find pytest-dind-script-\S+ on the default network", found["names inside"].finding)
    assert "--dns=ADDRESS" in found["names inside"].cure
    assert found["published port"].state == "failed"
    assert found["published port"].finding.startswith("not reached from here: ")
    assert [one.check for one in found.values() if not one.ok] == ["names inside", "published port"]


# -- it ends early


def began(inner: InnerRun) -> bool:
    """Whether the command has a container on the host engine."""
    try:
        return bool(inner.containers())
    except FileNotFoundError:  # its first lease is not taken yet
        return False


@pytest.mark.parametrize(("number", "when"), [("SIGINT", "starts"), ("SIGTERM", "starts"), ("SIGINT", "serves")])
def test_interrupted_it_leaves_nothing(inner: InnerRun, temp: Path, image: str, number: str, when: str) -> None:
    last = "image" if when == "starts" else "storage driver"
    with started("doctor", f"--image={image}") as process:
        assert process.stdout
        assert next(line for line in process.stdout if f" {last} " in line).startswith("ok ")
        if when == "starts":
            wait_until(lambda: began(inner), lambda: "it has no container")
        process.send_signal(signal.Signals[number])
        rest, errors = process.communicate()
    assert process.returncode == 130, rest + errors
    assert errors == "pytest-dind: interrupted\n"
    assert "checks failed" not in rest
    assert "no check failed" not in rest
    assert list(temp.iterdir()) == []
    inner.wait_until_nothing_is_left()


def test_a_reader_who_has_enough_sees_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with started("doctor") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 128 + signal.SIGPIPE


# -- the command line


def test_help_explains_what_is_checked_and_how_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, texts in {
        ("doctor", "--help"): (
            "throw-away daemon",
            "not tried",
            "Exit code: 0 when no check failed",
            "PYTEST_DIND_IMAGE",
        ),
        ("shell", "--help"): ("your shell, or a command", "Exit code: the command's"),
    }.items():
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        shown = capsys.readouterr().out
        assert ended.value.code == 0
        assert [text for text in texts if text not in shown] == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("doctor", "--transport=tcp"), "invalid choice: 'tcp'"),
        (("doctor", "--network=host"), "--network: 'host' would share a network stack"),
        (("shell", "--image=-x"), "--image: '-x' is not the name of an image"),
        (("doctor", "--no-such"), "unrecognized arguments: --no-such"),
    ],
)
def test_a_wrong_command_line_is_refused(
    arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_a_row_is_wrapped_to_a_terminal_below_its_finding() -> None:
    found = Finding("disk", "it is full " * 12, "failed", "Make room.")
    assert len(found.rows().splitlines()) == 2
    lines = found.rows(80).splitlines()
    assert max(map(len, lines)) <= 80
    assert {line[: len("failed     disk              ")].strip() for line in lines[1:]} == {""}
    assert lines[-1].strip() == "cure: Make room."
    assert verdict([found, Finding("x", "")]) == "1 of 2 checks failed"
    assert verdict([Finding("x", "", "warning"), Finding("y", "", "not tried")]) == (
        "no check failed, 1 with a warning, 1 not tried"
    )


# -- a shell


def test_a_shell_has_a_daemon_of_its_own_that_goes_with_it(inner: InnerRun, temp: Path, image: str) -> None:
    code = "import docker; print(docker.from_env().info()['Containers']); raise SystemExit(7)"
    said = dind("shell", f"--image={image}", "--", sys.executable, "-c", code)
    assert (said.returncode, said.stdout, said.stderr) == (7, "0\n", "")
    inner.wait_until_nothing_is_left()


def test_a_shell_that_is_ended_ends_its_command_and_daemon(inner: InnerRun, temp: Path, image: str) -> None:
    with started("shell", f"--image={image}", "--", "sh", "-c", "echo on; exec sleep 99") as process:
        assert process.stdout
        assert process.stdout.readline() == "on\n"
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    inner.wait_until_nothing_is_left()


def test_a_command_that_is_not_there_is_said(inner: InnerRun, temp: Path, image: str) -> None:
    said = dind("shell", f"--image={image}", "--", "no-such-command")
    assert said.returncode == 127
    assert said.stderr == "pytest-dind: no-such-command cannot be run: No such file or directory\n"
    inner.wait_until_nothing_is_left()
