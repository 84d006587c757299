"""The docker command line in subprocesses, exactly as a user would call it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

IMAGE = os.environ.get("PYTEST_DIND_TEST_IMAGE", "busybox:latest")

pytestmark = [
    pytest.mark.dind(preload=[IMAGE]),
    pytest.mark.usefixtures("dind_environ"),
    pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker command on this machine"),
]


def run(*command: str) -> str:
    """Run a command that must succeed; it finds its Docker in os.environ, which dind_environ has set."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_run_and_list() -> None:
    run("docker", "run", "--name", "greeter", IMAGE, "echo", "hello")
    assert run("docker", "logs", "greeter") == "hello\n"
    run("docker", "rm", "greeter")
    assert "greeter" not in run("docker", "ps", "--all")


def test_a_directory_of_the_test_is_seen_inside(tmp_path: Path) -> None:
    (tmp_path / "question").write_text("6 * 7\n")
    run(
        "docker",
        "run",
        "--rm",
        "-v",
        f"{tmp_path}:/data",
        IMAGE,
        "sh",
        "-c",
        "echo $(($(cat /data/question))) >/data/answer",
    )
    assert (tmp_path / "answer").read_text() == "42\n"


def test_logging_in_and_contexts_do_not_touch_the_user(dind_env: dict[str, str]) -> None:
    run("docker", "context", "create", "another", "--docker", "host=tcp://192.0.2.1:2376")
    assert Path(dind_env["DOCKER_CONFIG"], "contexts").is_dir()
    run("docker", "context", "rm", "another")
