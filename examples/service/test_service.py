"""A web server in a container of the daemon, reached from the test."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from pytest_dind import Daemon

IMAGE = os.environ.get("PYTEST_DIND_TEST_IMAGE", "busybox:latest")

pytestmark = pytest.mark.dind(preload=[IMAGE])


@pytest.fixture
def url(dind_daemon: Daemon) -> Iterator[str]:
    """The address of a web server that runs as long as the test; port 8080 is taken in no other worker's Docker."""
    command = ["sh", "-c", "mkdir /www && echo it works >/www/index.html && httpd -f -p 80 -h /www"]
    server = dind_daemon.client.containers.run(IMAGE, command, ports={"80/tcp": 8080}, detach=True)
    ip, port = dind_daemon.address(server, 80)
    yield f"http://{ip}:{port}"
    server.remove(force=True)


def get(url: str, patience: float = 30.0) -> str:
    """Return what the server answers, once it does: its container runs before it listens."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def test_the_server_answers(url: str) -> None:
    assert get(url) == "it works\n"


def test_what_it_has_not_got_is_an_error(url: str) -> None:
    get(url)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(f"{url}/nothing")
