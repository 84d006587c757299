"""A clean-up job, tested for real and in parallel: every worker has a Docker of its own to clean up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import docker
import pytest
from prune_old import prune_old

IMAGE = os.environ.get("PYTEST_DIND_TEST_IMAGE", "busybox:latest")

pytestmark = [pytest.mark.dind(preload=[IMAGE]), pytest.mark.usefixtures("dind_clean")]

TOMORROW = datetime.now(timezone.utc) + timedelta(days=1)


@pytest.fixture
def client(dind_client: docker.DockerClient) -> Iterator[docker.DockerClient]:
    """This worker's Docker with one container that has ended and one that runs: the same names in every worker."""
    dind_client.containers.run(IMAGE, "true", name="done")
    dind_client.containers.run(IMAGE, "sleep 600", name="busy", detach=True)
    return dind_client


def names(client: docker.DockerClient) -> set[str]:
    return {container.name for container in client.containers.list(all=True)}


def test_an_old_container_is_removed_and_a_running_one_is_not(client: docker.DockerClient) -> None:
    assert prune_old(client, older_than=3600, now=TOMORROW) == ["done"]
    assert names(client) == {"busy"}


def test_a_young_container_is_left_alone(client: docker.DockerClient) -> None:
    assert prune_old(client, older_than=3600) == []
    assert names(client) == {"done", "busy"}


def test_an_image_without_a_name_is_removed(client: docker.DockerClient) -> None:
    image = client.containers.get("done").commit()
    assert prune_old(client, older_than=3600) == [image.short_id]


def test_in_an_empty_docker_there_is_nothing_to_do(dind_fresh_client: docker.DockerClient) -> None:
    assert prune_old(dind_fresh_client, older_than=0) == []
