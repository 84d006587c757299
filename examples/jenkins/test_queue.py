"""Two containers on a network of their own: on each worker's own Docker, names and networks never collide."""

from __future__ import annotations

import os

import docker
import pytest

IMAGE = os.environ.get("PYTEST_DIND_TEST_IMAGE", "busybox:latest")

pytestmark = [pytest.mark.dind(preload=[IMAGE]), pytest.mark.usefixtures("dind_clean")]


@pytest.mark.parametrize("job", ["first", "second"])
def test_a_job_gets_from_one_container_to_another(job: str, dind_client: docker.DockerClient) -> None:
    dind_client.networks.create("jobs")
    # Every parameter, every worker and every build calls them the same.
    dind_client.containers.run(
        IMAGE, ["nc", "-l", "-p", "5672", "-e", "echo", job], name="queue", network="jobs", detach=True
    )
    got = dind_client.containers.run(
        IMAGE, ["sh", "-c", "until nc -w 5 queue 5672; do sleep 0.1; done"], name="worker", network="jobs"
    )
    assert got.decode().strip() == job
