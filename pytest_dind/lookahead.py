"""Fresh daemons that are started before they are asked for, and ended behind the back of whoever used them."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from .background import Beginning, Ender, Starter
from .daemon import Daemon
from .settings import Settings

_living: weakref.WeakSet[Lookahead] = weakref.WeakSet()


class Lookahead:
    """At most so many daemons ahead, besides the one that is used."""

    def __init__(self, make: Callable[[Settings], Daemon], ender: Ender) -> None:
        self._make = make
        self._ender = ender
        self._starter = Starter("dind lookahead")
        #: How many there may be on the host engine at a time.
        self._most = 1
        self.forget_in_child()
        _living.add(self)

    def forget_in_child(self) -> None:
        """Begin with nothing: what there is has another process as its owner."""
        self._spares: list[Beginning] = []
        #: What the tests after the one that runs will want.
        self._following: Sequence[Settings] = ()
        self._room = threading.Condition()  # for all that more than one thread changes
        #: How many have a place on the host engine: from before they are started until nothing is left of them.
        self._alive = 0
        #: How many of these are on their way out.
        self._leaving = 0
        #: How many places are asked for by tests, which wait.
        self._urgent = 0

    @property
    def being_started(self) -> Iterator[Settings]:
        """What is not there yet, and so takes no memory yet."""
        return (one.settings for one in self._spares if not one.future.done())

    def expect(
        self,
        own: Settings | None,
        following: Sequence[Settings],
        ahead: int,
        room: Callable[[Sequence[Settings]], int],
    ) -> None:
        """Have daemons started for what comes next, in this order; those that nobody wants any more are ended.

        :param own: Of the test that runs, if it has not taken its own yet.
        :param following: Of the tests after it.
        :param ahead: How many may stand by, besides the one that is used.
        :param room: Tells how many of those that lack there is room for; each other is started in its turn.
        """
        with self._room:
            self._most = ahead + 1
        self._following = following[:ahead]
        lacking = self._keep_only([*([own] if own is not None else []), *self._following])
        for settings in lacking[: room(lacking) if lacking else 0]:
            self._spares.append(self._starter.begin(self._make_in_its_place, settings))

    def take(self, settings: Settings) -> Daemon:
        """Return a daemon with these settings that nobody has used: a spare one, or one that is started now.

        :raises DindError: it did not come up.
        """
        spare = next((one for one in self._spares if one.settings == settings), None)
        with self._room:
            if spare is not None and not spare.has_place and not spare.future.done():
                self._drop(spare)  # It would wait for a place as this thread does, which has the first claim.
                spare = None
        if spare is None:
            self._keep_only(self._following)  # What was started for this test is for nobody now.
        else:
            daemon = self._taken(spare)
            if not daemon.ended:
                return daemon
            self.give_back(daemon)  # It has ended while it stood by, for whatever reason.
        self._make_room()
        return self._made(settings)

    def _taken(self, spare: Beginning) -> Daemon:
        try:
            return spare.take(self.give_back)
        finally:
            if spare.future.done():  # Else this was interrupted, and it is still to be ended.
                self._spares.remove(spare)

    def give_back(self, daemon: Daemon) -> None:
        """End a daemon behind the back of whoever goes on; the ender says what went wrong."""
        with self._room:
            self._leaving += 1
        self._ender.end(daemon, partial(self._leave, was_leaving=True))

    def close(self) -> None:
        """Drop all that stand by, and begin no more; the ender waits until nothing is left of them."""
        self._keep_only(())
        self._starter.close()

    def _keep_only(self, wanted: Sequence[Settings]) -> Sequence[Settings]:
        """Drop the spares that are not wanted; return for what there is none."""
        left = list(self._spares)
        lacking = []
        for settings in wanted:
            spare = next((one for one in left if one.settings == settings), None)
            if spare is None:
                lacking.append(settings)
            else:
                left.remove(spare)
        for spare in left:
            self._drop(spare)
        return lacking

    def _drop(self, spare: Beginning) -> None:
        """End a spare one, as soon as it is there."""
        with self._room:
            self._spares.remove(spare)
            spare.is_unwanted = True
            self._leaving += spare.has_place
            self._room.notify_all()
        self._ender.end_unwanted(spare, partial(self._leave, was_leaving=True))

    def _make_room(self) -> None:
        """Take a place for a test that waits: unless one is leaving anyway, what stands by for another test goes."""
        with self._room:
            self._urgent += 1
            try:
                while self._alive >= self._most:
                    placed = [one for one in self._spares if one.has_place]
                    if placed and self._alive - self._leaving >= self._most:
                        self._drop(placed[-1])
                    elif self._leaving:
                        self._room.wait()
                    else:  # All are used, however that came about: nobody waits for ever.
                        break
                self._alive += 1
            finally:
                self._urgent -= 1
                self._room.notify_all()

    # -- on the other threads

    def _make_in_its_place(self, spare: Beginning) -> Daemon:
        with self._room:
            self._room.wait_for(lambda: spare.is_unwanted or (self._alive < self._most and not self._urgent))
            spare.require_wanted()
            self._alive += 1
            spare.has_place = True
        return self._made(spare.settings, spare)

    def _made(self, settings: Settings, spare: Beginning | None = None) -> Daemon:
        try:
            return self._make(settings)
        except BaseException:
            with self._room:
                self._leave(was_leaving=spare is not None and spare.is_unwanted)
                if spare is not None:
                    spare.has_place = False
            raise

    def _leave(self, *, was_leaving: bool) -> None:
        with self._room:
            self._alive -= 1
            self._leaving -= was_leaving
            self._room.notify_all()


def _forget_in_child() -> None:
    for one in list(_living):
        one.forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
