"""What the next tests will want of daemons, as far as pytest and xdist tell: their daemons start before their turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from . import memory, workers
from .errors import SettingsError
from .evidence import uses_session_daemon
from .options import marked, shows_only
from .session import Session
from .settings import Settings

#: Asking for one of these is asking for a daemon that nobody has used.
FRESH_FIXTURES = frozenset({"dind_fresh_daemon", "dind_fresh_client"})


class Foresight:
    """A plugin of its own in each process that runs tests."""

    def __init__(self, session: Session) -> None:
        self._session = session
        option = session.config.option
        runs_tests = not (shows_only(option) or option.collectonly or getattr(option, "setupplan", False))
        self._ahead = session.settings[0].lookahead if runs_tests else 0
        self._positions: dict[pytest.Item, int] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Start what the first tests want; under xdist a worker does not know yet which those are."""
        self._positions = {item: number for number, item in enumerate(session.items)}
        told_later = hasattr(session.config, "workerinput") or workers.is_controller(session.config)
        if self._ahead and not told_later:
            # Of all tests only now: to look through them before each takes ever longer.
            self._look(session.items, session.items[:1])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Start what comes after this test, while it runs."""
        if self._ahead:
            following = list(self._after(item, nextitem))
            self._look([item, *following], [item, *following[: self._ahead]])

    def _after(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[pytest.Item]:
        """Yield tests that this process is sure to run after one, unless the run ends before: as many as count."""
        if nextitem is None:
            return
        yield nextitem
        if not hasattr(item.config, "workerinput"):
            if nextitem in self._positions:
                after = self._positions[nextitem] + 1
                yield from item.session.items[after : after + self._ahead]
            return
        if getattr(item.config.option, "dist", "") == "worksteal":
            return  # Another worker may take the rest.
        queue: Any = getattr(item.config.pluginmanager.get_plugin("workerinteractor"), "torun", None)
        if hasattr(queue, "lock"):  # xdist 3 has one that can be looked into
            with queue.lock() as numbers:
                yield from (item.session.items[number] for number in numbers if isinstance(number, int))

    def _look(self, all_known: Iterable[pytest.Item], near: Sequence[pytest.Item]) -> None:
        runtime = self._session.runtime
        if runtime.session is None:
            user = next((one for one in all_known if uses_session_daemon(one) and not _is_skipped(one)), None)
            settings = self._settings_of(user) if user is not None else None
            if settings is not None:
                runtime.prepare(settings)
        found = (self._fresh_settings_of(one) for one in near if _wants_fresh(one))
        wanted = [one for one in found if one is not None]
        runtime.expect_fresh(wanted, self._ahead, memory.room_for(wanted) if wanted else 0)

    def _fresh_settings_of(self, item: pytest.Item) -> Settings | None:
        settings = self._settings_of(item)
        try:
            return marked(item, settings) if settings is not None else None
        except SettingsError:  # that test's own error, when its turn comes
            return None

    def _settings_of(self, item: pytest.Item) -> Settings | None:
        """Return what `dind_settings` is for a test; None while nobody knows, as a conftest has its own."""
        parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        image = parameters.get("_dind_image", self._session.settings[0].image)
        definitions: Any = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {}).get("dind_settings")
        if not definitions:
            return None
        if definitions[-1].func.__module__ == "pytest_dind.plugin":
            return self._session.settings_for(image)
        cached = definitions[-1].cached_result
        known = cached[0] if cached is not None and cached[2] is None else None
        same = isinstance(known, Settings) and (len(definitions) == 1 or "_dind_image" not in parameters)
        return known if same else None


def _wants_fresh(item: pytest.Item) -> bool:
    asks = not FRESH_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
    return asks and not _is_skipped(item)


def _is_skipped(item: pytest.Item) -> bool:
    """Whether a test is sure to be skipped; what a condition in a string says is known in its turn only."""
    if any(mark.kwargs.get("run") is False for mark in item.iter_markers("xfail")):
        return not item.config.getoption("runxfail", default=False)
    conditions = (one for mark in item.iter_markers("skipif") for one in (*mark.args, mark.kwargs.get("condition")))
    return item.get_closest_marker("skip") is not None or any(one is True for one in conditions)
