"""A daemon that works for us on a volume that lives on: it fills an image store, or builds images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from . import inside
from .container import Storage
from .host import HostEngine
from .life import Life
from .owner import Owner
from .settings import Settings

if TYPE_CHECKING:
    import docker

Result = TypeVar("Result")

#: Seconds that its client waits for an answer; a load or a build is silent for long.
CLIENT_TIMEOUT = 600


@dataclass
class Workshop:
    """The daemon while it works; `client` is of it."""

    life: Life
    client: docker.DockerClient

    @property
    def driver(self) -> str:
        """Its storage driver: overlay2, or overlayfs with the containerd store, or another."""
        info: Any = self.client.info()
        return str(info["Driver"])

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self.life.lifeline.log() if self.life.lifeline else ""

    def exec(self, argv: list[str], environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command beside dockerd; return its exit code and output."""
        return inside.run(self.life.engine.api, self.life.name, argv, environment)

    def put(self, archive: bytes | BinaryIO) -> None:
        """Unpack a tar file, which may be an open one, at the root of its container."""
        self.life.engine.put(self.life.name, archive)

    def shut(self, word: str) -> int:
        """End it in order, so that others can go on with the volume; return the bytes that are there.

        :param word: `close`, or `seal DRIVER` for an image store; see boot.sh.
        :raises DaemonStateError: it did not end so.
        """
        return self.life.shut(word)


def do(job: Callable[[Workshop], Result], volume: str, settings: Settings, engine: HostEngine, owner: Owner) -> Result:
    """Have a job done by a daemon whose data is the named volume; nothing of the daemon but that is left in the end.

    The job runs on a thread of its own. When the calling thread is interrupted, the daemon goes under it, and its next
    request fails. Hold a lock of the volume's meanwhile: two daemons on the same data destroy it.

    :returns: What the job does.
    :raises DaemonStartError: it does not come up, with this data.
    :raises EngineRefusedError: the host engine does not run its container.
    """
    life = Life.planned(engine, owner, settings)
    results: list[Result] = []

    def work() -> None:
        with _client_of(life) as client:
            results.append(job(Workshop(life, client)))

    life.begin(settings, None, then=work, storage=Storage(data=volume))
    life.end()
    return results[0]


@contextmanager
def _client_of(life: Life) -> Iterator[docker.DockerClient]:
    client = life.transport.connect(life.api_version, CLIENT_TIMEOUT)
    try:
        yield client
    finally:
        client.close()
