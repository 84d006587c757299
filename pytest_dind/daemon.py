"""A Docker daemon as its users see it: what it is and what it can do. How it comes and goes is in life.py."""

from __future__ import annotations

import dataclasses
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import inside
from .build import Build
from .container import BaseTemp, Storage
from .environment import variables, without_misleading
from .errors import DaemonStateError
from .host import HostEngine
from .life import Life
from .owner import Owner
from .settings import Settings
from .stock import Stock, warn_of_loading
from .store import Store

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container

#: Seconds that `client` waits for an answer; a build or a load is silent for long.
CLIENT_TIMEOUT = 600
#: Seconds after which a daemon that does not answer counts as broken; a busy one takes some.
ALIVE_TIMEOUT = 10


class Daemon:
    """A Docker daemon of its own, in a privileged container; a context manager that stops it."""

    #: The settings it was started with.
    settings: Settings
    #: The host engine that it runs on.
    engine: HostEngine
    #: Whether it was left running on purpose.
    kept: bool

    def __init__(self, settings: Settings, engine: HostEngine, owner: Owner, base_temp: BaseTemp | None) -> None:
        self.settings = dataclasses.replace(settings, image=engine.image_named(settings.image))
        self.engine = engine
        self.kept = False
        self._base_temp = base_temp
        self._pid = os.getpid()
        self._client: docker.DockerClient | None = None
        self._env: dict[str, str] = {}
        self._nested: list[Daemon] = []
        self._closes_engine = False
        self._life = Life.planned(engine, owner)
        self._stock = Stock(self._life)

    @classmethod
    def start(
        cls,
        settings: Settings | None = None,
        *,
        engine: HostEngine | None = None,
        owner: Owner | None = None,
        base_temp: BaseTemp | None = None,
    ) -> Daemon:
        """Start a daemon and return it when it serves and has its images.

        :param settings: How it is to be; the defaults where nothing is said.
        :param engine: The host engine; the one that the docker CLI uses where nothing is said.
        :raises DaemonStartError: it did not come up; nothing of it is left.
        :raises EngineRefusedError: the host engine does not run its container.
        :raises ImageNotFoundError: its image, or one to preload, is nowhere.
        :raises HostEngineError: no host engine answers.
        """
        found = engine or HostEngine.connect()
        daemon = cls(settings or Settings(), found, owner or Owner.of_process(), base_temp)
        daemon._closes_engine = engine is None
        daemon._begin()
        return daemon

    def _begin(self) -> None:
        try:
            self._stock.begin(self.settings, self._start)
        except BaseException:
            self._end()
            raise
        warn_of_loading(self.loaded_because)

    def _start(self, storage: Storage) -> None:
        self._life.begin(self.settings, self._base_temp, then=self._furnish, storage=storage)

    def _furnish(self) -> None:
        if self._env:
            self._env.update(self._variables())
        self._stock.furnish(self.settings, self.client)

    def restart(self) -> None:
        """Start a new, empty daemon in the place of this one, which may be broken: same address, same `client`.

        :raises DaemonStartError: it did not come up.
        """
        self._end()
        self._begin()

    def stop(self, *, hand_back: bool = True) -> None:
        """Remove the daemon and everything in it; no error when that has been done already.

        :param hand_back:
            Give a user that is not root the files that containers left in base temp. Wrong while others use it.
        """
        if self.kept or os.getpid() != self._pid:
            return  # In a forked child the daemon is the parent's, and our copies of its streams are closed.
        if not hand_back:
            self._life.own(None)
        self._end()

    def _end(self) -> None:
        with ExitStack() as stack:  # The last first, and whatever goes wrong with one, the others too.
            if self._closes_engine:
                stack.callback(self.engine.close)
            stack.callback(self._life.end)
            if self._client is not None:
                stack.callback(self._client.close)
            for inner in self._nested:
                stack.callback(inner.stop)
            self._nested = []

    def settle(self, base_temp: BaseTemp) -> None:
        """Say where base temp is, which was not known at the start; starts anew if the daemon does not see it."""
        early, self._base_temp = self._base_temp, base_temp
        if self._life.sees(base_temp, early):
            self._life.own(base_temp.own)
        else:
            self.restart()

    def keep(self) -> None:
        """Leave the daemon running when this process ends, until its container is removed by hand."""
        if not self.ended:
            self._life.abandon()
            self.kept = True

    def __enter__(self) -> Daemon:  # noqa: PYI034 (typing.Self comes with Python 3.11)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    # -- what it is

    @property
    def name(self) -> str:
        """Name of its container on the host engine."""
        return self._life.name

    @property
    def start_seconds(self) -> float:
        """Seconds that it took from nothing to its first answer."""
        return self._life.seconds

    @property
    def host(self) -> str:
        """Its DOCKER_HOST."""
        return self._life.transport.host

    @property
    def client(self) -> docker.DockerClient:
        """A client of the daemon; the same one every time, closed when the daemon is stopped."""
        if self._client is None:
            self._client = self.connect(CLIENT_TIMEOUT)
        return self._client

    def connect(self, timeout: int) -> docker.DockerClient:
        """Return a new client of the daemon, for whoever wants one of their own; close it.

        :param timeout: Seconds that an answer may take.
        """
        import docker  # noqa: PLC0415

        return docker.DockerClient(base_url=self.host, version=self._life.api_version, timeout=timeout)

    @property
    def version(self) -> str:
        """Its version, such as 28.5.2."""
        return str(self.client.version()["Version"])

    @property
    def ip(self) -> str:
        """Its address on the host engine's network, at which published ports of its containers are reached.

        :raises DaemonStateError: it is gone, or on no network.
        """
        container = self.engine.container(self.name) or {}
        networks = container.get("NetworkSettings", {}).get("Networks", {})
        for network in networks.values():
            if network["IPAddress"]:
                return str(network["IPAddress"])
        raise DaemonStateError(f"{self.name} has no address: it has ended, or --dind-network gave it none")

    @property
    def env(self) -> dict[str, str]:
        """The environment for subprocesses that are to use this daemon: this process's, less what would mislead them.

        The same dict every time, kept right when the daemon is started anew.
        """
        if not self._env:
            self._env.update(without_misleading(os.environ) | self._variables())
        return self._env

    def _variables(self) -> dict[str, str]:
        try:
            ip = self.ip
        except DaemonStateError:  # --dind-network=none
            ip = None
        return variables(self.host, self._life.transport.config, ip)

    @property
    def store(self) -> Store | None:
        """The image store that it adopts; None if it is to have no images, or lost it."""
        return self._stock.store

    @property
    def loaded_because(self) -> str:
        """Why its images were loaded one by one, at a price, and not adopted from a store; empty if they were not."""
        return self._stock.loaded_because

    @property
    def stopped(self) -> bool:
        """Whether it was stopped, by `stop()` and not by a test that broke it."""
        return self._life.lifeline is None

    @property
    def ended(self) -> bool:
        """Whether its container has ended, for whatever reason."""
        return self._life.ended

    @property
    def alive(self) -> bool:
        """Whether it serves, asked for real: it answers within 10 seconds."""
        if self.ended:
            return False
        try:
            self._life.transport.ping(ALIVE_TIMEOUT)
        except OSError:  # nobody listens, or the daemon hangs
            return False
        return True

    # -- what it does

    def address(self, container: Container | str, port: int | str) -> tuple[str, int]:
        """Return where this process reaches a published port of a container in the daemon: IP address and port.

        :param port: The container's own port: 80, "80/tcp" or "53/udp".
        :raises DaemonStateError: the container is not there, or does not publish that port.
        """
        return self.ip, inside.published_port(self.client, container, port)

    def log_position(self) -> int:
        """Where its log is now, for `logs(since=…)`."""
        return self._life.lifeline.position() if self._life.lifeline else 0

    def logs(self, since: int = 0) -> str:
        """Return the daemon's own log, all of it or from a `log_position()` on; the last 4 MiB are kept."""
        return self._life.lifeline.log(since) if self._life.lifeline else ""

    def load(self, image: str | Path) -> str:
        """Bring an image into the daemon: streamed from the host engine, or pulled inside where that has not got it.

        :param image: Its name, or a tar file as `docker save` makes it.
        :returns: Its id inside; of several in a tar file, the first one's.
        :raises ImageNotFoundError: it is nowhere.
        """
        return self._stock.load(image, self.settings, self.client)

    def build(self, path: Path | str, **how: Any) -> str:
        """Have an image built, once for all processes that ask for the same, and in this daemon; return its id inside.

        :param path: The directory of the context.
        :param how: `tag`, `dockerfile`, `buildargs`, `target`, `secrets`; see `Build`.
        :raises SettingsError: what is said of it cannot be used.
        :raises ImageBuildError: it cannot be built: the step, and the last 40 lines of what it said.
        """
        return self.have_built(Build(path, **how))

    def have_built(self, build: Build) -> str:
        """Have what `build` makes, as an object that says all of it."""
        return self._stock.have_built(build, self.settings, self.client)

    def put(self, source: Path | str, target: str) -> None:
        """Copy a file or directory of this machine into the daemon's container, as the absolute path `target`.

        :raises DaemonStateError: it has ended, or `target` is no such path.
        """
        self._require_running()
        self.engine.put(self.name, inside.packed(source, target))

    def exec(self, argv: list[str]) -> tuple[int, str]:
        """Run a command in the daemon's container, beside dockerd; return its exit code and output.

        :raises DaemonStateError: it has ended.
        """
        self._require_running()
        return inside.run(self.engine.api, self.name, argv)

    def nest(self, settings: Settings | None = None) -> Daemon:
        """Start a daemon inside this daemon, which must have the image; it ends with this one at the latest.

        :param settings: The same as this one's where nothing is said, but for the host engine's networks and runtimes.
        """
        settings = settings or dataclasses.replace(self.settings, network=None, runtime=None)
        engine = HostEngine(self.client, self.host)
        inner = Daemon(settings, engine, self._life.owner, self._base_temp)
        inner._stock.adopts = False  # A store inside would cost more than it saves, and goes with this daemon.
        inner._begin()
        self._nested.append(inner)
        return inner

    def _require_running(self) -> None:
        if self.ended:
            raise DaemonStateError(
                f"{self.name} has ended; its next user gets it from restart(), or from the next test"
            )
