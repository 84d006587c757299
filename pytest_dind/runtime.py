"""What one worker owns: its session daemon, fresh ones, the lease. It knows no pytest."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from . import images, store
from .ahead import Ahead
from .container import BaseTemp
from .daemon import Daemon
from .disk import Kept, tidy
from .environment import Patched
from .errors import ImageNotFoundError
from .host import HostEngine
from .owner import Owner
from .route import around
from .settings import Settings
from .surroundings import Surroundings


class Runtime:
    """The daemons of one worker, from the first to the last."""

    def __init__(self, run: str, worker: str, project: str, base_temp: BaseTemp | None) -> None:
        self.run = run
        self.project = project
        self.worker = worker
        self.base_temp = base_temp
        #: What happened, for the report: one dict each, that survives JSON.
        self.news: list[dict[str, Any]] = []
        self.session: Daemon | None = None
        self.daemons: list[Daemon] = []
        #: What it was asked for with; None while there is none.
        self.session_settings: Settings | None = None
        self._wanted: tuple[str | Path, ...] = ()
        self._expected: tuple[str | Path, ...] = ()
        self._missing: dict[str | Path, ImageNotFoundError] = {}
        self.has_started = False
        self._environ: Patched | None = None
        #: All that were started, until nothing is left of them.
        self._there: set[Daemon] = set()
        self.ahead = Ahead(
            new=self._new,
            new_session=self._new_with_expected,
            end=self._end,
            there=self._there,
            look_around=self._look_around,
        )

    @cached_property
    def engine(self) -> HostEngine:
        """The host engine; looked up before `os.environ` names a daemon of ours."""
        return HostEngine.connect()

    @cached_property
    def owner(self) -> Owner:
        """This process as an owner; its lease is held from the first daemon on."""
        return Owner.claim(self.run, self.worker, self.project)

    # -- the session daemon

    def session_daemon(self, settings: Settings) -> Daemon:
        """Return the daemon for all tests of this worker; started when first asked for, and for other settings anew."""
        if self.session is not None and (self._environ is not None or settings == self.session_settings):
            return self.session
        if self.session is not None:
            self.stop(self.session, behind=True)
        self.session = self._hold(self.ahead.session(settings))
        self.session.watch()
        self.session_settings = settings
        wanted, self._wanted = self._wanted, ()
        self.want(wanted)
        return self.session

    def prepare(self, settings: Settings, sharers: int) -> None:
        """Begin to start the session daemon, as its next user is sure to come; see `Ahead.prepare`."""
        if settings != self.session_settings and self._environ is None:
            self.ahead.prepare(settings, sharers)

    def _new_with_expected(self, settings: Settings) -> Daemon:
        at_hand = (image for image in self._expected if images.is_at_hand(image, self.engine, settings.pull))
        preload = tuple(dict.fromkeys((*settings.preload, *at_hand)))
        if preload != settings.preload:
            try:
                return self._new(dataclasses.replace(settings, preload=preload))
            except ImageNotFoundError:  # It is there, but cannot be had: an error of the tests that want it.
                pass
        return self._new(settings)

    @property
    def environ_entered(self) -> bool:
        """Whether the session daemon is the Docker of this whole process."""
        return self._environ is not None

    def enter_environ(self, settings: Settings) -> None:
        """Make the session daemon the Docker of this whole process."""
        self._environ = Patched(self.session_daemon(settings).env)

    def settle(self, base_temp: BaseTemp) -> None:
        """Say where base temp is, once that is known; a daemon that cannot see it is started anew."""
        self.base_temp = base_temp
        for daemon in self.daemons:
            daemon.settle(base_temp)

    def have(self, settings: Settings) -> None:
        """Have in the session daemon what was not known yet when it was started."""
        assert self.session is not None
        known = self.session.settings
        more = [image for image in settings.preload if image not in known.preload]
        self.want(more)
        self.require(more)
        for build in settings.builds:
            if build not in known.builds:
                self.session.have_built(build)
        self.session.settings = dataclasses.replace(known, builds=settings.builds)

    def expect(self, wanted: Iterable[str | Path]) -> None:
        """Hear which images tests will want in the session daemon: it starts with those that can surely be had."""
        self._expected = tuple(dict.fromkeys(wanted))

    def want(self, wanted: Iterable[str | Path]) -> None:
        """Have images in the session daemon: now, or from its start; `require` says which it could not get."""
        for image in wanted:
            if self.session is not None:
                try:
                    self.session.load(image)  # Two questions, if it is there; an earlier test may have removed it.
                except ImageNotFoundError as error:
                    self._missing[image] = error
                    continue
            if image not in self._wanted:
                self._wanted += (image,)

    def require(self, wanted: Iterable[str | Path]) -> None:
        """Fail for wanted images that the session daemon could not get.

        :raises ImageNotFoundError: one is nowhere.
        """
        for image in wanted:
            if image in self._missing:
                raise self._missing.pop(image)

    def mend(self) -> None:
        """Replace the session daemon, which a test has broken, with a new one that has the images that tests wanted."""
        daemon = self.session
        if daemon is None:
            return
        known = daemon.settings
        daemon.settings = dataclasses.replace(known, preload=tuple(dict.fromkeys((*known.preload, *self._wanted))))
        daemon.blamed = False
        try:
            daemon.restart()
        except ImageNotFoundError:  # What a test wanted once is not there any more: that test's error, if it comes.
            daemon.settings = dataclasses.replace(known, preload=(self.session_settings or known).preload)
            daemon.restart()
        if self._environ is not None:
            self._environ.undo()
            self._environ = Patched(daemon.env)
        self.news.append({"started": daemon.name, "seconds": daemon.start_seconds})

    # -- all daemons

    def start(self, settings: Settings) -> Daemon:
        """Start a daemon that lives until `stop`, at the longest until `close`."""
        return self._hold(self._new(settings))

    def start_fresh(self, settings: Settings) -> Daemon:
        """Return a daemon that nobody has used, which may have been started before; `stop_fresh` is its undo."""
        return self._hold(self.ahead.fresh(settings))

    def stop_fresh(self, daemon: Daemon) -> None:
        """Stop a daemon behind the back of the tests that follow, or keep it as its settings say."""
        try:
            self._keep_or_forget(daemon)
        finally:
            self.ahead.end_fresh(daemon)

    def _look_around(self) -> Surroundings:
        _ = self.owner
        return around(self.engine)

    def _new(self, settings: Settings) -> Daemon:
        daemon = Daemon.start(settings, engine=self.engine, owner=self.owner, base_temp=self.base_temp)
        self._there.add(daemon)
        return daemon

    def _hold(self, daemon: Daemon) -> Daemon:
        self.daemons.append(daemon)
        if daemon.store is not None:
            self.news.append({"store": daemon.store.key})
        self.news.append({"started": daemon.name, "seconds": daemon.start_seconds})
        self.has_started = True
        return daemon

    def stop(self, daemon: Daemon, *, behind: bool = False) -> None:
        """Stop a daemon, or keep it as its settings say; now, or `behind` the back of the tests that follow."""
        try:
            self._keep_or_forget(daemon)
        finally:
            (self.ahead.end if behind else self._end)(daemon)

    def _keep_or_forget(self, daemon: Daemon) -> None:
        # Those that their users have stopped themselves need no more.
        self.daemons = [one for one in self.daemons if one is not daemon and (one is self.session or not one.stopped)]
        for one in tuple(self._there):
            if one.stopped and one is not self.session:
                self._there.discard(one)
        if daemon is self.session:
            self.session = self.session_settings = None
        if daemon.is_to_stay:
            daemon.keep()
        if daemon.kept:
            self.news.append({"kept": daemon.name, "export": daemon.export})

    def _end(self, daemon: Daemon) -> None:
        # Others may have containers that still write to base temp as users of their own.
        others = any(one is not daemon and not one.stopped for one in list(self._there))
        try:
            daemon.stop(hand_back=not others)
        finally:
            self._there.discard(daemon)

    def stop_all(self) -> None:
        """Stop what is left and give the lease up; `os.environ` is as it was before."""
        with ExitStack() as stack:  # Whatever goes wrong with one of them, the others are stopped too.
            stack.callback(store.let_go)
            stack.callback(self._release)
            stack.callback(self._end_the_rest)
            for daemon in self.daemons:
                stack.callback(self.stop, daemon)
            stack.callback(self.ahead.close)
            if self._environ is not None:
                self._environ.undo()
                self._environ = None

    def _end_the_rest(self) -> None:
        """End what somebody was interrupted in taking."""
        for daemon in self._there.difference(self.daemons):
            self._end(daemon)

    def _release(self) -> None:
        if "owner" in self.__dict__:
            self.__dict__.pop("owner").release()

    def tidy(self, keep_days: float, used: Collection[str]) -> Kept:
        """Remove what outlives runs and is not used any more; `used` are the keys of the stores that this run used."""
        try:
            return tidy(self.engine, keep_days, self.project, used)
        except OSError as error:  # docker-py's errors are OSErrors; what tests found is not to be lost for this
            return Kept(failed=str(error))

    def close(self) -> None:
        """Close the connections to the host engine."""
        if "engine" in self.__dict__:
            self.__dict__.pop("engine").close()
