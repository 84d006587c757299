"""What the session's hooks do to a test when they fail themselves."""

from __future__ import annotations

import secrets

import docker
import pytest

from .conftest import InnerRun, tags_on

pytestmark = pytest.mark.once

BREAKS = """
    import docker

    def test_1(dind_daemon):
        host = docker.from_env()
        host.api.remove_image({image!r}, noprune=True)
        host.api.kill(dind_daemon.name)
        host.close()

    def test_2(dind_client):
        pass

    def test_3(dind_client):
        pass

    def test_4():
        host = docker.from_env()
        host.images.get({there!r}).tag({image!r})
        host.close()

    def test_5(dind_client):
        assert dind_client.ping()
"""


def test_a_session_daemon_that_cannot_be_started_anew_is_one_error_of_each_test_that_wants_it(
    inner: InnerRun, host: docker.DockerClient, image: str
) -> None:
    # Nobody listens there: a pull fails at once.
    name = f"127.0.0.1:1/pytest-dind-test/{secrets.token_hex(4)}:1"
    host.images.get(image).tag(name)
    inner.pytester.makepyfile(BREAKS.format(image=name, there=image))
    try:
        found = inner.run("--dind", "-p", "no:xdist", f"--dind-image={name}")
    finally:
        if name in tags_on(host):
            host.api.remove_image(name, noprune=True)
    found.assert_outcomes(passed=3, errors=2)
    for test in ("test_2", "test_3"):
        found.stdout.re_match_lines(
            [rf"_* ERROR at setup of {test} _*$", "E .*ImageNotFoundError: .*refused"], consecutive=False
        )
    found.stdout.fnmatch_lines(["dind: * was replaced: *::test_1 broke it (its container has ended)"])
    assert "During handling" not in found.stdout.str()
    assert "KeyError" not in found.stdout.str()
