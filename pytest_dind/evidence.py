"""What a failed test's report shows: the daemons that the test had to do with, and their logs since it began."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from . import report
from .daemon import Daemon

#: Asking for one of these is using the session daemon.
SESSION_FIXTURES = frozenset({"dind_daemon", "dind_client", "dind_env", "dind_environ", "dind_clean", "dind_build"})


def uses_session_daemon(item: pytest.Item) -> bool:
    """Whether a test asks for the session daemon."""
    return not SESSION_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


def may_ask_for_it(item: pytest.Item) -> bool:
    """Whether a test may ask for the session daemon by name: with `request`, or in a doctest with `getfixture`."""
    known: Any = getattr(item, "_fixtureinfo", None)
    if not isinstance(item, pytest.Function) or known is None:
        return True
    # pytest's own fixtures, such as tmp_path, do not.
    others = (one for ones in known.name2fixturedefs.values() for one in ones if not _is_of_pytest(one))
    return "request" in known.argnames or any("request" in one.argnames for one in others)


def _is_of_pytest(fixture: pytest.FixtureDef[object]) -> bool:
    return getattr(fixture.func, "__module__", "").startswith("_pytest.")


class Evidence:
    """Where the logs of the daemons were when a test began."""

    def __init__(self, daemons: Iterable[Daemon], *, environ: bool = False) -> None:
        self._positions = {one.name: one.log_position() for one in daemons}
        self._environ = environ

    def of(self, item: pytest.Item, daemons: Iterable[Daemon], session: Daemon | None) -> Iterator[Daemon]:
        """Yield the daemons that the test may have to do with: it asks for that kind, or they were started in it."""
        for daemon in list(daemons):
            if not daemon.stopped and self._was_used(item, daemon, daemon is session):
                yield daemon

    def _was_used(self, item: pytest.Item, daemon: Daemon, is_session: bool) -> bool:
        if daemon.name not in self._positions:
            return True
        if is_session:
            return self._environ or uses_session_daemon(item)
        return "dind_factory" in getattr(item, "fixturenames", ())

    def add(self, item: pytest.Item, found: pytest.TestReport, daemon: Daemon) -> None:
        """Add what there is to see of a daemon to a report."""
        for name, text in report.sections(daemon, self._positions.get(daemon.name, 0)):
            found.sections.append((f"Captured {name} {found.when}", text))
            # As pytest's own, also in the reports of later phases: junit-xml is written from the last.
            item.add_report_section(str(found.when), name, text)
