"""A Docker daemon as its users see it: started, filled and stopped. How it comes and goes is in life.py."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from . import route
from .build import Build
from .container import DATA_ROOT, BaseTemp, Storage
from .endpoint import Endpoint
from .errors import DaemonStateError
from .host import HostEngine
from .life import Life
from .owner import Owner
from .settings import Settings
from .stock import Stock, warn_of_loading
from .store import Store


class Daemon(Endpoint):
    """A Docker daemon of its own, in a privileged container; a context manager that stops it."""

    #: The settings it was started with.
    settings: Settings
    #: Whether it was left running on purpose.
    kept: bool
    #: Whether a test that used it has failed.
    blamed: bool

    def __init__(self, settings: Settings, engine: HostEngine, owner: Owner, base_temp: BaseTemp | None) -> None:
        super().__init__(engine, Life.planned(engine, owner, settings))
        self.settings = dataclasses.replace(settings, image=engine.image_named(settings.image))
        self.kept = self.blamed = False
        self._base_temp = base_temp
        self._pid = os.getpid()
        self._nested: list[Daemon] = []
        self._closes_engine = False
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
        try:
            daemon = cls(settings or Settings(), found, owner or Owner.of_process(), base_temp)
            daemon._closes_engine = engine is None
            daemon._begin()
        except BaseException:
            if engine is None:
                found.close()
            raise
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
        self._lead_here()
        self._stock.furnish(self.settings, self.client)

    def restart(self) -> None:
        """Start a new, empty daemon in the place of this one, which may be broken: same address, same `client`.

        :raises DaemonStartError: it did not come up.
        :raises DaemonStateError: this is a forked child, and the daemon is its parent's.
        """
        if os.getpid() != self._pid:
            raise DaemonStateError(f"{self.name} can be started anew by process {self._pid} only, which has started it")
        self._end()
        self._begin()
        if self.checkup.watches:
            self.watch()

    def break_off(self) -> None:
        """Remove its container, so that nobody waits for an answer of it any more; `stop` or `restart` do the rest."""
        self._life.remove_container()

    def watch(self) -> None:
        """Have the daemon checked up against what it is now; nobody waits for it."""
        self.checkup.watch(next(self.settings.told("data-root"), DATA_ROOT))

    def stop(self, *, hand_back: bool = True) -> None:
        """Remove the daemon and everything in it; no error when that has been done already.

        :param hand_back:
            Give a user that is not root the files that containers left in base temp. Wrong while others use it.
        """
        if self.kept or os.getpid() != self._pid:
            return  # In a forked child the daemon is the parent's, and our copies of its streams are closed.
        if not hand_back:
            self._life.own(None)
        try:
            self._end()
        finally:
            if self._closes_engine:
                self.engine.close()

    def _end(self) -> None:
        with ExitStack() as stack:  # The last first, and whatever goes wrong with one, the others too.
            for inner in self._nested:
                stack.callback(inner.forget)
            self._nested = []
            stack.callback(self._life.end)
            if self._client is not None:
                stack.callback(self._client.close)

    def forget(self) -> None:
        """Let go of it without asking the daemon that it is in, which is gone with all that was in it, or hangs."""
        for inner in self._nested:
            inner.forget()
        self._nested = []
        if self._client is not None:
            self._client.close()
        self._life.forget()

    def settle(self, base_temp: BaseTemp) -> None:
        """Say where base temp is, which was not known at the start; starts anew if the daemon does not see it."""
        early, self._base_temp = self._base_temp, base_temp
        if self._life.sees(base_temp, early):
            self._life.own(base_temp.own)
        else:
            self.restart()

    @property
    def is_to_stay(self) -> bool:
        """Whether its settings want it left running when it has done its work."""
        return self.settings.keep == "always" or (self.settings.keep == "failed" and self.blamed)

    def keep(self) -> None:
        """Leave the daemon running when this process ends, until its container is removed by hand."""
        if not self.ended:
            self._life.abandon()
            self.kept = True

    def __enter__(self) -> Daemon:  # noqa: PYI034 (typing.Self comes with Python 3.11)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    # -- what it is, beside what any endpoint is

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

    # -- what it does

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

    @property
    def nested(self) -> Mapping[str, Daemon]:
        """Those that `nest` has started and that have not been stopped, by name."""
        return {inner.name: inner for inner in self._nested if not inner.stopped}

    def nest(self, settings: Settings | None = None) -> Daemon:
        """Start a daemon inside this daemon, which must have the image; it ends with this one at the latest.

        :param settings: The same as this one's where nothing is said, but for the host engine's networks and runtimes.
        :raises DaemonStateError: nobody here could reach it.
        """
        if self._life.route.kind == "tls" and not self._life.route.addresses_reached:
            raise DaemonStateError(
                f"a daemon inside {self.name} cannot be reached from here: it would be at that one's address, {self.ip}"
            )
        settings = settings or dataclasses.replace(self.settings, network=None, runtime=None)
        engine = HostEngine(self.client, self.host)
        outer = self._life.route
        route.lead(engine, route.inside(outer, self.ip if outer.kind == "tls" else "127.0.0.1"))
        inner = Daemon(settings, engine, self._life.owner, self._base_temp)
        inner._stock.adopts = False  # A store inside would cost more than it saves, and goes with this daemon.
        inner._begin()
        self._nested.append(inner)
        return inner
