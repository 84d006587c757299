"""What the host engine says of a run's daemons, as they come and go."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import docker

from pytest_dind.labels import HOST, OURS, WORKER

from .conftest import PATIENCE, InnerRun, wait_until


class Watched:
    """What the host engine says of a run's daemons' containers, from now on."""

    def __init__(self, inner: InnerRun) -> None:
        self._inner = inner
        self._said: list[tuple[str, dict[str, str]]] = []
        self._client = docker.from_env(timeout=10 * round(PATIENCE))
        wanted = {"type": "container", "event": ["create", "destroy"], "label": [OURS]}
        # As it comes: afterwards an engine knows its last 256 events only, and other runs have theirs.
        self._stream: Any = self._client.api.events(filters=wanted, decode=True)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        for event in self._stream:
            self._said.append((event["Action"], event["Actor"]["Attributes"]))

    def close(self) -> None:
        self._stream.close()
        self._thread.join(PATIENCE)
        self._client.close()

    def _events(self) -> list[tuple[str, str]]:
        """Each creation and each removal, with the worker whose daemon it was."""
        if not self._inner.has_marked:
            return []  # What it makes is marked from its creation on: it has made nothing.
        home = self._inner.label.partition("=")[2]
        return [(action, labels[WORKER]) for action, labels in list(self._said) if labels.get(HOST) == home]

    @property
    def started(self) -> int:
        """How many there have been; told when all are gone."""
        wait_until(lambda: len(self._events()) % 2 == 0, lambda: f"not all have gone: {self._events()}")
        return sum(action == "create" for action, _ in self._events())

    @property
    def most(self) -> int:
        """How many one worker has had at the same time, at the most."""
        now: Counter[str] = Counter()
        most = 0
        for action, worker in self._events():
            now[worker] += 1 if action == "create" else -1
            most = max(most, *now.values())
        return most
