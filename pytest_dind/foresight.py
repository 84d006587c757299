"""What the next tests will want of daemons, as far as pytest and xdist tell: their daemons start before their turn."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator

import pytest

from . import workers
from .errors import SettingsError
from .evidence import uses_session_daemon
from .foreseen import Foreseen
from .options import marked, shows_only
from .session import Session
from .settings import Settings

#: Asking for one of these is asking for a daemon that nobody has used.
FRESH_FIXTURES = frozenset({"dind_fresh_daemon", "dind_fresh_client"})
#: How many tests after the one that runs are looked at for the next that want a fresh daemon.
_FAR = 16


class Foresight:
    """A plugin of its own in each process that runs tests."""

    def __init__(self, session: Session) -> None:
        self._session = session
        option = session.config.option
        runs_tests = not (shows_only(option) or option.collectonly or getattr(option, "setupplan", False))
        self._ahead = session.settings[0].lookahead if runs_tests else 0
        self._sharers = workers.sharers(session.config)
        self._foreseen = Foreseen(session)
        self._positions: dict[pytest.Item, int] = {}
        #: Which tests were looked at for the session daemon's first user; to look at all before each takes ever longer.
        self._seen: set[pytest.Item] = set()
        self._first_user: pytest.Item | None = None
        #: The test that runs, until its own daemon is there, and those after it.
        self._near: tuple[pytest.Item, list[pytest.Item]] | None = None
        self._item: pytest.Item | None = None
        #: For whom the session daemon was started: with another `dind_settings` than that test's, it is no other.
        self._asked_by: pytest.Item | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Start what the first tests want; under xdist a worker may not know yet which those are."""
        fails = session.testsfailed and not session.config.option.continue_on_collection_errors
        if fails or session.shouldfail or session.shouldstop or not self._ahead:
            return  # No test will run, or none ahead of its time.
        self._positions = {item: number for number, item in enumerate(session.items)}
        if workers.runs_all(session.config):
            self._look_for_session(session.items[:2], session.items)
        if session.items and not hasattr(session.config, "workerinput") and not workers.is_controller(session.config):
            first, *following = session.items[: _FAR + 1]  # a worker may run them in another order
            self._look_for_fresh(first, following)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Start what comes after this test, while it runs."""
        if self._item is self._first_user:
            self._first_user = None  # Its turn is over; if there is no daemon even so, the next one is to come.
        self._item = item
        if self._ahead:
            self._near = item, list(self._after(item, nextitem))
            self._look(*self._near)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
        """Hear what the suite's own `dind_settings` are as soon as that is known, and that a test has its daemon."""
        result = yield
        if self._near is not None and fixturedef.argname == "dind_settings" and isinstance(result, Settings):
            if self._foreseen.note(self._near[0], fixturedef, result):
                self._look(*self._near)
        elif fixturedef.argname == "dind_fresh_daemon":
            self._near = None
        elif fixturedef.argname == "dind_daemon":
            self._asked_by = self._item
        return result

    def _after(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[pytest.Item]:
        """Yield tests that this process is sure to run after one, unless the run ends before: as many as count."""
        if nextitem is None:
            return
        yield nextitem
        items = item.session.items
        if hasattr(item.config, "workerinput"):
            yield from (items[number] for number in workers.queued(item.config)[:_FAR])
        elif nextitem in self._positions:
            after = self._positions[nextitem] + 1
            yield from items[after : after + _FAR]

    def _look(self, item: pytest.Item, following: list[pytest.Item]) -> None:
        self._look_for_session([item, *following[:1]], [item, *following])
        self._look_for_fresh(item, following)

    def _look_for_session(self, near: list[pytest.Item], known: Iterable[pytest.Item]) -> None:
        settings = self._next_session_settings(near, known)
        if settings is not None:
            self._session.runtime.prepare(settings, self._sharers)

    def _look_for_fresh(self, item: pytest.Item, following: list[pytest.Item]) -> None:
        own = self._fresh_settings(item) if _wants_fresh(item) else None
        # One of which nothing is known yet keeps its place: what comes after it is not its turn.
        next_ones = itertools.islice(filter(_wants_fresh, following), self._ahead)
        wanted = [one for one in map(self._fresh_settings, next_ones) if one is not None]
        self._session.runtime.ahead.expect_fresh(own, wanted, self._ahead, self._sharers)

    def _next_session_settings(self, near: list[pytest.Item], known: Iterable[pytest.Item]) -> Settings | None:
        """Return how the next session daemon is to be; None if nobody is known to want one, or how."""
        now = self._session.runtime.session_settings
        if now is not None:  # The next test may have another parameter, such as another engine.
            users = (one for one in near if _uses_session_daemon(one) and self._shares_daemon(one))
            return next((one for one in map(self._foreseen.settings, users) if one not in (None, now)), None)
        if self._first_user is None:
            # When there was one, as of another engine, it is known what the very next tests want, and soon enough.
            unseen = (one for one in (known if self._asked_by is None else near) if one not in self._seen)
            for one in unseen:
                self._seen.add(one)
                if _uses_session_daemon(one):
                    self._first_user = one
                    break
        return self._foreseen.settings(self._first_user) if self._first_user is not None else None

    def _shares_daemon(self, item: pytest.Item) -> bool:
        return self._asked_by is not None and self._foreseen.definition(item) is self._foreseen.definition(
            self._asked_by
        )

    def _fresh_settings(self, item: pytest.Item) -> Settings | None:
        settings = self._foreseen.settings(item)
        try:
            return marked(item, settings) if settings is not None else None
        except SettingsError:  # that test's own error, when its turn comes
            return None


def _uses_session_daemon(item: pytest.Item) -> bool:
    return uses_session_daemon(item) and _runs_here(item)


def _wants_fresh(item: pytest.Item) -> bool:
    asks = not FRESH_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
    return asks and _runs_here(item)


def _runs_here(item: pytest.Item) -> bool:
    """Whether a test runs in this process, as those of pytest-forked do not, and is sure not to be skipped."""
    is_forked = item.config.getoption("forked", default=False) or item.get_closest_marker("forked")
    return not is_forked and not _may_be_skipped(item)


def _may_be_skipped(item: pytest.Item) -> bool:
    """Whether a test is skipped by a mark, or might be: what a condition in a string says is known in its turn only."""
    runs_xfail = item.config.getoption("runxfail", default=False)
    marks = list(item.iter_markers("skipif"))
    marks += [mark for mark in item.iter_markers("xfail") if mark.kwargs.get("run") is False and not runs_xfail]
    return item.get_closest_marker("skip") is not None or any(map(_may_apply, marks))


def _may_apply(mark: pytest.Mark) -> bool:
    """Whether a condition of a mark holds, or none is given, or one is a string."""
    conditions = (mark.kwargs["condition"],) if "condition" in mark.kwargs else mark.args
    # As pytest judges them: https://docs.pytest.org/en/stable/reference/reference.html#pytest-mark-skipif-ref
    return not conditions or any(isinstance(one, str) or bool(one) for one in conditions)
