"""What happened to daemons, on its way to the summary: on reports, which xdist carries to the controller."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from . import workers
from .notices import Notice


class News:
    """What one process of a run has heard of so far: one dict for each thing, that survives JSON."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.heard: list[dict[str, Any]] = []
        #: What is to be said if no other test comes.
        self.in_the_end: list[dict[str, Any]] = []
        #: What was put on reports that have not been logged: as of an attempt that does not count, they may never be.
        self._on_reports: list[list[dict[str, Any]]] = []

    def put_on(self, report: pytest.TestReport, news: list[dict[str, Any]]) -> None:
        """Have the summary say it, wherever that is written."""
        if news:
            setattr(report, workers.KEY, news)
            self._on_reports.append(news)

    def hear(self, report: pytest.TestReport) -> None:
        """Take what is on a report that is logged; a worker leaves it to the controller."""
        news = getattr(report, workers.KEY, [])
        self._on_reports = [one for one in self._on_reports if one is not news]
        if not hasattr(self._config, "workerinput"):
            self.heard += news

    def note_left(self, found: Iterable[Notice]) -> None:
        """Hear what would not go, which is no fault of the test that comes next, even where warnings are errors."""
        self.heard += ({"left": one.message} for one in found if not one.harmless)

    def conclude(self, news: Iterable[dict[str, Any]]) -> None:
        """Hear the last of this process, and what has not come by any report."""
        for more in (*self._on_reports, self.in_the_end, news):
            self.heard += more
        self._on_reports, self.in_the_end = [], []
