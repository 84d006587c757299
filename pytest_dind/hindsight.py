"""What a test has left in the session daemon, told from what came with something that outlasts the test."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import pytest

from . import notices
from .checkup import Checkup
from .cleaning import Cleaning
from .daemon import Daemon
from .errors import DindError
from .evidence import uses_session_daemon
from .inventory import Inventory
from .session import Session

#: Seconds that a daemon may take to remove one thing; in one whose containerd stands still it would take for ever.
ANSWER_TIMEOUT = 60


class Hindsight:
    """A plugin of its own: cleans up after each test that asks for `dind_clean`, with `--dind-clean` after every one.

    A test's own is what came since the first of its fixtures of function scope was set up, until the last was torn
    down; but not what came while a fixture of a wider scope was set up meanwhile, or while `dind_build` was at it.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._cleans_always = session.settings[0].clean
        self._item: pytest.Item | None = None
        #: Whether the test's own set-up has begun.
        self._has_begun = False
        #: What was there then, and in which daemon; None while there is none, or nobody wants it clean.
        self._before: Inventory | None = None
        self._daemon: Daemon | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        """See at the latest after the set-up what is there: a test may have no fixtures of its own."""
        self._item, self._has_begun = item, False
        self._before = self._daemon = None
        yield
        self._begin()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
        """See what is there before the first fixture of function scope; what those of wider scopes bring is to stay."""
        if fixturedef.scope == "function":
            self._begin(asked=fixturedef.argname == "dind_clean")
            return (yield)
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
        """Clean up when the last fixture has been torn down, whatever came of that."""
        self._checkup(Checkup.suspect)
        try:
            return (yield)
        finally:
            before, daemon = self._before, self._daemon
            if before is not None and daemon is not None and daemon is self._session.runtime.session:
                # What the last test left, such as one that failed with -x, is what the daemon is kept to show.
                is_shown = nextitem is None and daemon.is_to_stay
                if not is_shown:
                    self._clean(before, daemon, item.nodeid)
            self._before = self._daemon = self._item = None

    @contextmanager
    def lasting(self) -> Iterator[None]:
        """Take what comes meanwhile for what was there before the test, unless this fails."""
        before = None if self._before is None else self._look()
        yield
        after = None if before is None else self._look()
        if self._before is not None and before is not None and after is not None:
            self._before.add_what_came(before, after)

    def _begin(self, *, asked: bool = False) -> None:
        self._has_begun = True
        daemon = self._session.runtime.session
        if daemon is not None and daemon is not self._daemon and (asked or self._is_wanted()):
            self._daemon = daemon
            self._before = self._look()

    def _is_wanted(self) -> bool:
        names = getattr(self._item, "fixturenames", ())
        if self._item is None or not self._cleans_always:
            return "dind_clean" in names
        # With `request` it may ask for the daemon by name.
        return self._session.runtime.environ_entered or "request" in names or uses_session_daemon(self._item)

    def _look(self) -> Inventory | None:
        assert self._daemon is not None
        try:
            return Inventory.of(self._daemon.client.api)
        except OSError as error:
            self._warn(self._daemon, error)
            return None

    def _warn(self, daemon: Daemon, error: OSError) -> None:
        """Warn that nothing is cleaned; not if the daemon is broken, for then the next test gets a new one."""
        if daemon.alive and self._item is not None:
            notices.warn(f"dind_clean does not know what {self._item.nodeid} leaves in {daemon.name}: {error}")

    def _clean(self, before: Inventory, daemon: Daemon, test: str) -> None:
        if daemon.checkup.complaint():  # The next test gets a new one.
            return
        client = daemon.connect(ANSWER_TIMEOUT)
        cleaning = Cleaning(client.api, before)
        try:
            cleaning.run()
        except OSError as error:  # docker-py's errors are OSErrors, by way of requests'
            self._warn(daemon, error)
        finally:
            client.close()
        left = cleaning.refused + (_restock(daemon) if cleaning.lost else [])
        if left:
            notices.warn(
                f"dind_clean could not remove all that {test} left in {daemon.name}, and the tests that follow will "
                f"find it: {'; '.join(left)}"
            )


def _restock(daemon: Daemon) -> list[str]:
    """Bring back the images that the daemon is to have; return which could not be had, each with the reason."""
    failures = []
    for image in daemon.settings.preload:
        try:
            daemon.load(image)
        except DindError as error:
            failures.append(f"preloaded image {image}, which it removed: {error}")
    for build in daemon.settings.builds:
        try:
            daemon.have_built(build)
        except DindError as error:
            failures.append(f"built image {build}, which it removed: {error}")
    return failures
