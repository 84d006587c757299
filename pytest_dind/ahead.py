"""What a worker starts before it is asked for, as far as there is memory: its session daemon, and fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from . import memory
from .background import Beginning, Ender, Starter
from .daemon import Daemon
from .errors import DindError
from .lookahead import Lookahead
from .settings import Settings
from .surroundings import Surroundings


def memory_beside(here: Surroundings) -> int | None:
    """Return the bytes of memory that daemons may take, beside all else; None where nobody says how much that is."""
    if not here.engine_is_local:
        return None  # of another machine
    # A container that the engine runs is beside the daemons: its limit is not theirs.
    return memory.available(limited=here.container is None)


class Ahead:
    """The daemons of one worker that come early, and those that go behind the back of whoever used them."""

    def __init__(
        self,
        *,
        new: Callable[[Settings], Daemon],
        new_session: Callable[[Settings], Daemon],
        end: Callable[[Daemon], None],
        there: Collection[Daemon],
        look_around: Callable[[], Surroundings],
    ) -> None:
        """Begin with none.

        :param there: Always all that were started, until nothing is left of them.
        :param look_around: Finds out what two threads must not at the same time, before they start daemons.
        """
        self._new_session = new_session
        self._there = there
        self._look_around = look_around
        #: The next session daemon, while it is started before anybody asks for it.
        self._early: Beginning | None = None
        #: What it was last begun with: if that fails, it is not begun again for nobody.
        self._last: Settings | None = None
        #: For it alone: it may have images to load, and fresh ones are not to wait for that.
        self._starter = Starter("dind session")
        self._ender = Ender(end)
        self._lookahead = Lookahead(new, self._ender)

    # -- the session daemon

    def prepare(self, settings: Settings, sharers: int) -> None:
        """Begin to start the session daemon, as its next user is sure to come; `session` waits for it.

        :param sharers: See `expect_fresh`.
        """
        if settings != self._last and self._room([settings], sharers):
            self._drop_early()
            self._last = settings
            self._early = self._starter.begin(lambda one: self._new_session(one.settings), settings)

    def session(self, settings: Settings) -> Daemon:
        """Return a session daemon: the one that was begun, or one that is started now.

        :raises DindError: it did not come up.
        """
        early = self._early
        if early is not None and early.settings == settings and not early.is_unwanted:
            daemon = self._taken(early)
            if not daemon.ended:
                return daemon
            self._ender.end(daemon)  # It has ended while it stood by, for whatever reason.
        self._drop_early()
        return self._new_session(settings)

    def _taken(self, early: Beginning) -> Daemon:
        try:
            daemon = early.take(self._ender.end)
        finally:
            if early.future.done():  # Else this was interrupted, and it is still to be ended.
                self._early = None
        self._last = None
        return daemon

    def _drop_early(self) -> None:
        early, self._early = self._early, None
        if early is not None:
            self._ender.end_unwanted(early)

    # -- fresh ones

    def expect_fresh(self, own: Settings | None, following: Sequence[Settings], ahead: int, sharers: int) -> None:
        """Hear what fresh daemons the next tests will want; see `Lookahead.expect`.

        :param sharers: How many processes share the memory, each with daemons of its own.
        """
        self._lookahead.expect(own, following, ahead, lambda lacking: self._room(lacking, sharers))

    def fresh(self, settings: Settings) -> Daemon:
        """Return a daemon that nobody has used, which may have been started before; `end_fresh` is its undo."""
        return self._lookahead.take(settings)

    def end_fresh(self, daemon: Daemon) -> None:
        """End it behind the back of the tests that follow."""
        self._lookahead.give_back(daemon)

    # -- all of them

    def _room(self, wanted: Sequence[Settings], sharers: int) -> int:
        """Return how many of these may be started now."""
        try:
            here = self._look_around()
        except (DindError, OSError):  # Whoever asks for a daemon hears why.
            return 0
        left = memory_beside(here)
        share = left // sharers if left is not None else None
        early = [self._early.settings] if self._early is not None and not self._early.future.done() else []
        promised = sum(map(memory.needed, (*self._lookahead.being_started, *early)))
        promised += sum(memory.growth(one.settings) for one in tuple(self._there) if not one.stopped)
        return memory.room_for(wanted, share, promised)

    def end(self, daemon: Daemon) -> None:
        """End a session daemon behind the back of the tests that follow."""
        self._ender.end(daemon)

    def close(self) -> None:
        """End what nobody has taken, and return when nothing is left; warns of what did not end as it should."""
        self._drop_early()
        try:
            self._lookahead.close()
        finally:
            try:
                self._starter.close()
            finally:
                self._ender.close()
