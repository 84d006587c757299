"""What a test has left in the session daemon, told from what came with something that outlasts the test."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager

import pytest

from . import notices
from .checkup import Checkup
from .cleaning import Cleaning
from .daemon import Daemon
from .errors import DindError
from .evidence import may_ask_for_it
from .inventory import Inventory
from .session import Session
from .upkeep import Upkeep

#: Seconds that a daemon may take to remove one thing; in one whose containerd stands still it would take for ever.
ANSWER_TIMEOUT = 60


class Hindsight:
    """A plugin of its own: cleans up after each test that asks for `dind_clean`, with `--dind-clean` after every one.

    A test's own is what came since the first of its fixtures of function scope was set up, until the last was torn
    down; but not what came while a fixture of a wider scope was set up meanwhile, or while `dind_build` was at it.
    """

    def __init__(self, session: Session, upkeep: Upkeep) -> None:
        self._session = session
        self._upkeep = upkeep
        self._cleans_always = session.settings[0].clean
        self._item: pytest.Item | None = None
        self._nextitem: pytest.Item | None = None
        #: Whether the test's own set-up has begun.
        self._has_begun = False
        #: What was there then, and in which daemon; None while there is none, or nobody wants it clean.
        self._before: Inventory | None = None
        self._daemon: Daemon | None = None
        #: What was there before the last test, which nobody has cleaned up after, to show what it left.
        self._shown: tuple[Inventory, Daemon, pytest.Item] | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        """See at the latest after the set-up what is there: a test may have no fixtures of its own."""
        self._item, self._has_begun = item, False
        self._nextitem = None  # Where no teardown comes to say otherwise, the run ends.
        self._before = self._daemon = None
        if self._shown is not None:  # It was not the last, or is run again.
            shown, self._shown = self._shown, None
            with notices.kept() as found:
                self._clean(*shown)
            self._session.news.note_left(found)
        yield
        self._begin()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
        """See what is there before the first fixture of function scope; what those of wider scopes bring is to stay."""
        if fixturedef.scope == "function":
            with notices.kept() as found:  # From 9 on pytest never gets over what is raised before a fixture.
                self._begin(asked=fixturedef.argname == "dind_clean")
            result = yield
            notices.repeat(found)
            return result
        self._checkup(Checkup.suspect)
        with self.lasting():
            result = yield
        self._checkup(Checkup.note_config)
        if fixturedef.argname == "dind_daemon" and self._has_begun:  # asked for by name, in the middle
            self._begin()
        return result

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[object]) -> None:
        """Hear of the end of a fixture of wider scope, which may have put back what it had changed."""
        if fixturedef.scope != "function":
            self._checkup(Checkup.note_config)

    def _checkup(self, say: Callable[[Checkup], None]) -> None:
        daemon = self._session.runtime.session
        if daemon is not None:
            say(daemon.checkup)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
        """Hear whether it is the last test; `_end` comes after the teardown of its own fixtures, if it has any."""
        # With -x pytest before 8.3 names a next one that will not come.
        self._nextitem = None if item.session.shouldfail or item.session.shouldstop else nextitem
        if not self._has_begun:
            self._end()
        return (yield)

    def _end(self) -> None:
        """Clean up: what fixtures of wider scopes do in their teardown comes after this, and is none of the test's."""
        item, before, daemon = self._item, self._before, self._daemon
        self._before = self._daemon = self._item = None
        nextitem = self._nextitem
        is_last = nextitem is None
        self._checkup(Checkup.suspect)
        try:
            if item is not None and before is not None and daemon is not None:
                # What the last test left, such as one that failed with -x, is what the daemon is kept to show.
                if is_last and daemon.is_to_stay:
                    self._shown = before, daemon, item
                else:
                    self._clean(before, daemon, item)
        finally:
            if nextitem is None or (item is not None and item.parent is not nextitem.parent):
                self._upkeep.free_who_waits()
            if is_last:
                self._upkeep.conclude()

    @contextmanager
    def lasting(self) -> Iterator[None]:
        """Take what comes meanwhile for what was there before the test, unless this fails."""
        before = None if self._before is None else self._look()
        yield
        after = None if before is None else self._look()
        if self._before is not None and before is not None and after is not None:
            self._before.add_what_came(before, after)

    def _begin(self, *, asked: bool = False) -> None:
        if not self._has_begun and self._item is not None:
            self._has_begun = True
            # The last first: after those of all fixtures of function scope, and before those of the test's module.
            self._item.addfinalizer(self._end)
        daemon = self._session.runtime.session
        if daemon is not None and daemon is not self._daemon and (asked or self._is_wanted()):
            self._daemon = daemon
            self._before = self._look()

    def _is_wanted(self) -> bool:
        if self._item is None or not self._cleans_always:
            return "dind_clean" in getattr(self._item, "fixturenames", ())
        return self._session.uses_daemon(self._item) or may_ask_for_it(self._item)

    def _look(self) -> Inventory | None:
        assert self._daemon is not None
        try:
            with closing(self._daemon.connect(ANSWER_TIMEOUT)) as client:
                return Inventory.of(client.api)
        except OSError as error:
            # If it is broken, the next test gets a new one.
            if self._daemon.alive and self._item is not None:
                what = f"what {self._item.nodeid} leaves in {self._daemon.name}"
                notices.warn(f"dind_clean does not know {what}: {error}")
            return None

    def _clean(self, before: Inventory, daemon: Daemon, item: pytest.Item) -> None:
        if daemon is not self._session.runtime.session or self._upkeep.check():  # The next test gets a new one.
            return
        with closing(daemon.connect(ANSWER_TIMEOUT)) as client:
            cleaning = Cleaning(client.api, before, {name: inner.stop for name, inner in daemon.nested.items()})
            try:
                cleaning.run()
            except OSError as error:  # docker-py's errors are OSErrors, by way of requests'
                self._upkeep.complain(f"it did not let itself be cleaned: {error}")
                return
        left = cleaning.refused + (_restock(daemon) if cleaning.lost else [])
        if left:
            notices.warn(
                f"dind_clean could not remove all that {item.nodeid} left in {daemon.name}, and the tests that follow "
                f"will find it: {'; '.join(left)}"
            )


def _restock(daemon: Daemon) -> list[str]:
    """Bring back the images that the daemon is to have; return which could not be had, each with the reason."""
    failures = []
    for image in daemon.settings.preload:
        try:
            daemon.load(image)
        except (DindError, OSError) as error:
            failures.append(f"preloaded image {image}, which it removed: {error}")
    for build in daemon.settings.builds:
        try:
            daemon.have_built(build)
        except (DindError, OSError) as error:
            failures.append(f"built image {build}, which it removed: {error}")
    return failures
