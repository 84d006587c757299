"""What nobody dares on an engine that others use: prune all of it. The daemon is this test's alone."""

from __future__ import annotations

import os

import docker
import pytest

IMAGE = os.environ.get("PYTEST_DIND_TEST_IMAGE", "busybox:latest")


@pytest.mark.dind(preload=[IMAGE])
def test_prune_leaves_what_runs_and_its_image(dind_fresh_client: docker.DockerClient) -> None:
    dind_fresh_client.containers.run(IMAGE, "true", name="done")
    dind_fresh_client.containers.run(IMAGE, "sleep 60", name="busy", detach=True)
    dind_fresh_client.containers.prune()
    dind_fresh_client.images.prune(filters={"dangling": False})
    assert [container.name for container in dind_fresh_client.containers.list(all=True)] == ["busy"]
    assert [tag for image in dind_fresh_client.images.list() for tag in image.tags] == [IMAGE]
