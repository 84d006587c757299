"""One daemon's life: started, used, started anew at the same address, stopped."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
import warnings
from types import TracebackType
from typing import TYPE_CHECKING

from . import images, inside, unbroken
from .container import BaseTemp, boot_archive, describe
from .diagnosis import diagnose
from .environment import variables, without_misleading
from .errors import DaemonStartError, DaemonStateError, DindWarning, EngineRefusedError
from .host import HostEngine
from .lifeline import Lifeline
from .owner import Owner
from .settings import Settings
from .transport import UnixSocket

if TYPE_CHECKING:
    from pathlib import Path

    import docker
    from docker.models.containers import Container

_numbers = itertools.count(1)


def _count_anew_in_child() -> None:
    """A forked child goes on with its parent's owner, and must not give its daemons the names of its parent's."""
    global _numbers  # noqa: PLW0603
    _numbers = itertools.count(os.getpid() * 1000)


os.register_at_fork(after_in_child=_count_anew_in_child)

#: Seconds that `client` waits for an answer; a build or a load is silent for long.
CLIENT_TIMEOUT = 600
#: Seconds after which a daemon that does not answer counts as broken; a busy one takes some.
ALIVE_TIMEOUT = 10
#: Seconds in which a container that was let go should have ended and removed itself; then it is killed.
END_TIMEOUT = 10
#: Seconds in which the host engine should have removed a killed container and its volume.
REMOVAL_TIMEOUT = 60


class Daemon:
    """A Docker daemon of its own, in a privileged container; a context manager that stops it."""

    #: Name of its container on the host engine.
    name: str
    #: The settings it was started with.
    settings: Settings
    #: Seconds from nothing to the first answer.
    start_seconds: float

    def __init__(self, settings: Settings, engine: HostEngine, owner: Owner, base_temp: BaseTemp | None) -> None:
        self.settings = dataclasses.replace(settings, image=engine.image_named(settings.image))
        self.engine = engine
        self.start_seconds = 0.0
        self.kept = False
        self._owner = owner
        self._base_temp = base_temp
        self._number = next(_numbers)
        self.name = f"pytest-dind-{owner.worker}-{owner.lease.token}-{self._number}"
        self._pid = os.getpid()
        self._client: docker.DockerClient | None = None
        self._env: dict[str, str] = {}
        self._cancelled = threading.Event()
        self._lifeline: Lifeline | None = None
        self._created = self._running = False
        self._api_version = ""
        self._mounted = (0, 0)
        self._transport = UnixSocket.named(owner.directory_name(self._number))

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
        daemon = cls(settings or Settings(), engine or HostEngine.connect(), owner or Owner.of_process(), base_temp)
        daemon._start()
        return daemon

    def restart(self) -> None:
        """Start a new, empty daemon in the place of this one, which may be broken: same address, same `client`.

        :raises DaemonStartError: it did not come up.
        """
        self._release()
        self._start()

    def stop(self, *, hand_back: bool = True) -> None:
        """Remove the daemon and everything in it; no error when that has been done already.

        :param hand_back:
            Give a user that is not root the files that containers left in base temp. Wrong while others use it.
        """
        if self.kept or os.getpid() != self._pid:
            return  # In a forked child the daemon is the parent's, and our copies of its streams are closed.
        if not hand_back:
            self.own(None)
        self._release()

    def settle(self, base_temp: BaseTemp) -> None:
        """Say where base temp is, which was not known at the start; starts anew if the daemon does not see it."""
        early, self._base_temp = self._base_temp, base_temp
        if early is not None and early.identity() == self._mounted and base_temp.mount.is_relative_to(early.mount):
            self.own(base_temp.own)
        else:
            self.restart()

    def own(self, directory: Path | None) -> None:
        """Name the directory whose files a user that is not root gets back in the end; none for None."""
        if self._lifeline is not None:
            self._lifeline.say(f"own {directory or ''}")

    def keep(self) -> None:
        """Leave the daemon running when this process ends, until its container is removed by hand."""
        if self._lifeline is None or self._lifeline.ended:
            return
        self._lifeline.say("keep")
        # Its owner will be dead and it must not be swept: the name says so, since labels cannot be changed.
        kept = f"{self.name}-kept"
        self.engine.api.rename(self.name, kept)
        self.name = kept
        self.kept = True
        self._lifeline.close()

    def __enter__(self) -> Daemon:  # noqa: PYI034 (typing.Self comes with Python 3.11)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    # -- what it is

    @property
    def host(self) -> str:
        """Its DOCKER_HOST."""
        return self._transport.host

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

        return docker.DockerClient(base_url=self.host, version=self._api_version, timeout=timeout)

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
        return variables(self.host, self._transport.config, ip)

    @property
    def stopped(self) -> bool:
        """Whether it was stopped, by `stop()` and not by a test that broke it."""
        return self._lifeline is None

    @property
    def ended(self) -> bool:
        """Whether its container has ended, for whatever reason."""
        return self._lifeline is None or self._lifeline.ended

    @property
    def alive(self) -> bool:
        """Whether it serves, asked for real: it answers within 10 seconds."""
        if self.ended:
            return False
        try:
            self._transport.ping(ALIVE_TIMEOUT)
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
        return self._lifeline.position() if self._lifeline else 0

    def logs(self, since: int = 0) -> str:
        """Return the daemon's own log, all of it or from a `log_position()` on; the last 4 MiB are kept."""
        return self._lifeline.log(since) if self._lifeline else ""

    def load(self, image: str) -> str:
        """Bring an image into the daemon: streamed from the host engine, or pulled inside where that has not got it.

        :returns: Its id inside.
        :raises ImageNotFoundError: it is nowhere.
        """
        return images.bring(image, self.engine, self.client)

    def put(self, source: Path | str, target: str) -> None:
        """Copy a file or directory of this machine into the daemon's container, as `target`."""
        inside.put(self.engine.api, self.name, source, target)

    def exec(self, argv: list[str]) -> tuple[int, str]:
        """Run a command in the daemon's container, beside dockerd; return its exit code and output."""
        return inside.run(self.engine.api, self.name, argv)

    def nest(self, settings: Settings | None = None) -> Daemon:
        """Start a daemon inside this daemon, which must have the image; stop it before this one."""
        return Daemon.start(
            settings or self.settings, engine=HostEngine(self.client, self.host), owner=self._owner,
            base_temp=self._base_temp,
        )  # fmt: skip

    # -- how it starts and ends

    def _start(self) -> None:
        self._cancelled.clear()
        unbroken.do(self._boot, undo=self._release, hurry=self._cancel, name=f"{self.name} start")

    def _cancel(self) -> None:
        self._cancelled.set()
        if self._lifeline is not None:
            self._lifeline.let_go()

    def _step(self) -> None:
        if self._cancelled.is_set():
            raise DaemonStartError(self.name, "it was interrupted")

    def _boot(self) -> None:
        with self._owner.watching(self.engine.address, self.name, str(self._transport.directory)):
            self._transport.make()
            self._mounted = self._base_temp.identity() if self._base_temp else (0, 0)
            container = describe(self.settings, self._transport, self._owner.ownership, self._base_temp)
            begin = time.monotonic()
            self._created = True  # Before, since an answer may be lost; undone in _release.
            try:
                identity = self.engine.create(self.name, container)
            except EngineRefusedError:
                self._created = False  # The name may be another's.
                raise
            deadline = time.monotonic() + self.settings.start_timeout
            self.engine.put(identity, boot_archive())
            self._lifeline = Lifeline(self.engine.attach(identity), self.name)
            self.own(self._base_temp.own if self._base_temp else None)
            self._step()
            self._running = True
            self.engine.start(identity, self.name)
        self._step()
        api_version = self._transport.wait_ready(self._lifeline, deadline)
        self._step()
        if api_version is None:
            raise self._start_error(time.monotonic() - begin)
        self._api_version = api_version
        self.start_seconds = time.monotonic() - begin
        if self._env:
            self._env.update(self._variables())
        for image in self.settings.preload:
            self._step()
            self.load(image)

    def _start_error(self, seconds: float) -> DaemonStartError:
        """Say why it is not ready: it ended, or it is too late."""
        assert self._lifeline is not None
        if self._lifeline.wait_ended(0):
            reason = f"it ended after {seconds:.2f} s, before it answered (image {self.settings.image})"
        else:
            reason = (
                f"it did not answer within {self.settings.start_timeout:g} s on {self.host} "
                f"(image {self.settings.image}); if this machine is that slow, give it longer: --dind-start-timeout"
            )
        log = self._lifeline.log()
        known = diagnose(log)
        return DaemonStartError(self.name, reason, log, known.cause if known else "", known.cure if known else "")

    def _release(self) -> None:
        """Undo what `_boot` did, as far as it came."""
        try:
            if self._client is not None:
                self._client.close()
            if self._created:
                self._remove_container()
        finally:
            self._created = self._running = False
            if self._lifeline is not None:
                self._lifeline.close()
                self._lifeline = None
            self._transport.remove()

    def _remove_container(self) -> None:
        """See that the container and its volume are gone, and warn of what will not go."""
        try:
            if self._lifeline is not None and self._running:
                self._lifeline.let_go()
                if self._lifeline.wait_ended(END_TIMEOUT) and self.engine.wait_removed(self.name, END_TIMEOUT):
                    return
            self.engine.remove(self.name)
            if self.engine.wait_removed(self.name, REMOVAL_TIMEOUT):
                return
            reason = f"it is still there after {REMOVAL_TIMEOUT} s"
        except OSError as error:  # docker-py's errors are requests' errors, and those are OSErrors
            reason = str(error)
        message = f"{self.name} is left on the host engine: {reason}. Remove it: docker rm -fv {self.name}"
        warnings.warn(message, DindWarning, stacklevel=2)
