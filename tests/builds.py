"""Builds that tests watch from outside: each says over the network what it has come to."""

from __future__ import annotations

import http.server
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from pytest_dind import Settings, buildcache
from pytest_dind.host import HostEngine
from pytest_dind.owner import Owner

from .servers import Handler


class Witness(http.server.ThreadingHTTPServer):
    """Hears of every step of a build that has been run, and can hold a build up there."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), _OfWitness)
        self._address = address
        #: How often each step was run.
        self.seen: Counter[str] = Counter()
        #: Called at each step, before the build goes on.
        self.at: Callable[[str], object] = lambda _: None

    @classmethod
    @contextmanager
    def opened(cls, address: str) -> Iterator[Witness]:
        with cls(address) as witness:
            threading.Thread(target=witness.serve_forever, daemon=True).start()
            yield witness
            witness.shutdown()

    def run(self, step: str) -> str:
        """What a Dockerfile runs to say that it has come to a step."""
        return f"wget -q -O /dev/null http://{self._address}:{self.server_port}/{step}"


class _OfWitness(Handler):
    server: Witness

    def do_GET(self) -> None:  # noqa: N802 (http.server's name)
        step = self.path.strip("/")
        self.server.seen[step] += 1
        self.server.at(step)
        self.answer(200, b"go on", "text/plain")


@dataclass
class Workplace:
    """Where a module's tests build: an engine, an owner, and places of their own for builders and what they make."""

    engine: HostEngine
    owner: Owner
    image: str

    def settings(self, **changes: object) -> Settings:
        return Settings(image=self.image, **changes)  # type: ignore[arg-type]


@contextmanager
def workplace(image: str, directory: Path) -> Iterator[Workplace]:
    """Have places of one's own, and nothing left in the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(directory / "state"))
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        engine, owner = HostEngine.connect(), Owner.claim("a-run", "worker", str(directory))
        try:
            yield Workplace(engine, owner, image)
        finally:
            for name in buildcache.own(engine):
                engine.api.remove_volume(name)
            owner.release()
            engine.close()


@contextmanager
def witness_near(host: docker.DockerClient) -> Iterator[Witness]:
    """A witness on this machine's address in the host engine's network, where builds reach it, and nobody outside."""
    (found, *_) = host.networks.get("bridge").attrs["IPAM"]["Config"]
    with Witness.opened(found["Gateway"]) as witness:
        yield witness


def write(directory: Path, dockerfile: str, **files: str) -> Path:
    """Write a directory to be built."""
    directory.mkdir(exist_ok=True)
    (directory / "Dockerfile").write_text(dockerfile)
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory
