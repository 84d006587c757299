"""A tool's own image under test: built once, whatever the number of workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

IMAGE = os.environ.get("PYTEST_DIND_TEST_IMAGE", "busybox:latest")


@pytest.mark.parametrize("number", range(2))
def test_the_image_is_there_from_the_start(dind_client: docker.DockerClient, number: int) -> None:
    assert dind_client.containers.run("greeter:test", remove=True) == b"hello\n"


def test_a_test_builds_a_variant(dind_client: docker.DockerClient, dind_build: Callable[..., str]) -> None:
    image = dind_build(Path(__file__).parent / "app", buildargs={"BASE": IMAGE, "GREETING": "good morning"})
    assert dind_client.containers.run(image, remove=True) == b"good morning\n"
