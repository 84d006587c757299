"""The session daemon between tests: whether a test has broken it, and a new one in its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from . import notices
from .daemon import Daemon
from .errors import TAIL_LINES
from .evidence import may_ask_for_it
from .options import image_of, preloads
from .session import Session

#: What ends a run; whatever else a fixture's end may raise is not the fault of the test that comes next.
_ENDS_THE_RUN = (KeyboardInterrupt, SystemExit, pytest.exit.Exception)


class Upkeep:
    """A plugin of its own: gives each test a session daemon that works and has the images that its markers ask for."""

    def __init__(self, session: Session) -> None:
        self._session = session
        #: The test that used it last; empty if none has since the run began.
        self._last_user = ""
        #: What makes it no good, found after the last test: empty if nothing does; None while nobody has looked.
        self._complaint: str | None = None
        #: The fixture itself, and one of that name that takes its place, while they are set up.
        self._roots: dict[pytest.FixtureDef[object], pytest.FixtureRequest] = {}
        #: Fixtures of wider scopes that have ended.
        self._renewed: list[str] = []

    # No wrapper: before it come those plugins that skip tests.
    @pytest.hookimpl
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Replace the daemon if a test before has broken it."""
        __tracebackhide__ = True
        self._session.news.in_the_end = []  # The last test was not the last, or is run again.
        uses = self._session.uses_daemon(item)
        if uses or may_ask_for_it(item):
            self._mend(item)
            self._last_user = item.nodeid
        # That nothing was the matter counts for the very next test only.
        self._complaint = self._complaint or None
        self._session.runtime.want(preloads(item) if uses else [])

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest) -> None:
        """Know the fixture that all those depend on that have something in the daemon."""
        if fixturedef.argname == "dind_daemon":
            self._roots[fixturedef] = request

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[object]) -> None:
        """Hear of the end of a fixture of wider scope: what it did in the daemon counts as the last test's."""
        if fixturedef.scope != "function" and fixturedef.cached_result is not None:
            self._complaint = self._complaint or None
            if not fixturedef.argname.startswith(("dind_", "_")):
                self._renewed.append(fixturedef.argname)

    def check(self) -> str:
        """Return what makes the session daemon no good for another test; looked at once after each."""
        daemon = self._session.runtime.session
        if daemon is None:
            return ""
        if self._complaint is None or (daemon.ended and not self._complaint):
            self._complaint = daemon.checkup.complaint()
        return self._complaint

    def complain(self, complaint: str) -> None:
        """Say what else makes it no good: the next test gets a new one."""
        self._complaint = complaint

    def free_who_waits(self) -> None:
        """End a daemon that hangs, for fixtures of wider scopes may end now, which would wait for it for ever."""
        daemon = self._session.runtime.session
        # One that is to stay is to be seen as it is.
        if self._last_user and daemon is not None and self.check() and daemon.checkup.hangs and not daemon.is_to_stay:
            daemon.break_off()

    def conclude(self) -> None:
        """Have it said what a test has broken, if no further test comes to find it: the last one is over."""
        daemon = self._session.runtime.session
        if self._last_user and daemon is not None and (complaint := self.check()):
            news = {"broken": daemon.name, "after": self._last_user, "complaint": complaint}
            self._session.news.in_the_end = [news]

    def _mend(self, item: pytest.Item) -> None:
        __tracebackhide__ = True
        daemon = self._session.runtime.session
        complaint = self.check()
        if daemon is not None and complaint:
            broken_by = self._last_user or "a test before"
            log = daemon.logs()
            with notices.kept() as found:
                self._session.asked_for(partial(self._replace, daemon, item))
            self._session.news.note_left(found)
            notices.repeat([one for one in found if one.harmless])
            ends = list(self._end_dependents())
            renewed, self._renewed = self._renewed, []
            news = {"replaced": daemon.name, "after": broken_by, "complaint": complaint, "renewed": renewed}
            self._session.runtime.news.append(news)
            place = "this is a new one in its place"
            if self._session.runtime.session is None:
                place = "this test has one of another engine"
            item.add_report_section("setup", "log of pytest-dind", _account(news, place, log, ends))
            self._session.begin_evidence()
        self._complaint = None

    def _replace(self, daemon: Daemon, item: pytest.Item) -> None:
        """Start it anew; not for a test on another engine, which has another one in any case."""
        runtime = self._session.runtime
        known = runtime.session_settings
        if known is not None and image_of(item, known.image) != known.image:
            runtime.stop(daemon, behind=True)
        else:
            runtime.mend()

    def _end_dependents(self) -> Iterator[str]:
        """End fixtures of wider scopes that depend on the daemon: pytest sets them up again for who asks for them.

        What they have in it is gone, as a rule before they are asked to remove it; yields what they make of that.
        """
        self._renewed = []
        for root, request in list(self._roots.items()):
            kept = root.cached_result
            try:
                root.finish(request)  # type: ignore[arg-type]  # With those that depend on it first.
            except _ENDS_THE_RUN:
                raise
            except BaseException as error:  # noqa: BLE001 (a failed assertion, say, of pytest.fail)
                yield f"{type(error).__name__}: {error}"
            finally:
                if root.func.__module__ == "pytest_dind.plugin" and self._session.runtime.session is not None:
                    # It is the same object, started anew, and not to be asked for with other settings now.
                    root.cached_result = kept


def _account(news: Mapping[str, Any], place: str, log: str, ends: Iterable[str]) -> str:
    """Tell the test that gets the new daemon what it has to do with it."""
    anew = f"; set up anew for tests that ask for it: {', '.join(news['renewed'])}" if news["renewed"] else ""
    broke = f"{news['after']} broke the session daemon {news['replaced']}: {news['complaint']}"
    lines = [
        f"{broke}; {place}",
        f"What was in the old one is gone{anew}",
        *(f"In the new one, the end of such a fixture failed: {one}" for one in ends),
        "The old one's log ended:",
        *(f"    {line}" for line in log.splitlines()[-TAIL_LINES:]),
    ]
    return "\n".join(lines) + "\n"
