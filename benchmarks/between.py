"""What `dind_clean` does around one test: the plugin's own hooks, called as pytest calls them, with a clock."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from docker import DockerClient

from pytest_dind import Daemon
from pytest_dind.errors import DindWarning
from pytest_dind.hindsight import Hindsight
from pytest_dind.upkeep import Upkeep

CONTAINERS = 3


class Between:
    """The end of one test and the beginning of the next, in a daemon of ours."""

    def __init__(self, daemon: Daemon) -> None:
        self.client = daemon.client
        # As the runtime does with a worker's daemon: that is what the check-up goes by.
        daemon.watch()
        runtime = SimpleNamespace(session=daemon, want=lambda _: None)
        session: Any = SimpleNamespace(
            settings=(daemon.settings,),
            runtime=runtime,
            uses_daemon=lambda _: True,
            news=SimpleNamespace(in_the_end=[]),
        )
        self._upkeep = Upkeep(session)
        self._hooks = Hindsight(session, self._upkeep)
        self._finalizers: list[Callable[[], object]] = []
        self._test: Any = SimpleNamespace(
            nodeid="test_it.py::test_it",
            fixturenames=("dind_clean",),
            iter_markers=lambda _: (),
            parent=None,
            session=SimpleNamespace(shouldfail=False, shouldstop=False),
            addfinalizer=self._finalizers.append,
        )

    def seconds(self, image: str | None) -> float:
        """Return what `dind_clean` takes, before and after a test.

        :param image: Of the containers that the test leaves; None: it leaves nothing.
        :raises DindWarning: something would not go.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("error", DindWarning)
            seconds = _seconds_of(self._hooks.pytest_runtest_setup(self._test), self._set_up)
            if image:
                leave(self.client, image)
            seconds += _seconds_of(self._hooks.pytest_runtest_teardown(self._test, self._test), self._tear_down)
        left = self.client.containers.list(all=True), self.client.volumes.list()
        assert left == ([], []), f"it was not cleaned: {left}"
        return seconds

    def _set_up(self) -> None:
        self._upkeep.pytest_runtest_setup(self._test)

    def _tear_down(self) -> None:
        while self._finalizers:
            self._finalizers.pop()()


def _seconds_of(hook: Generator[None], within: Callable[[], object]) -> float:
    """Run a hook that is wrapped around what others do."""
    begin = time.monotonic()
    next(hook)
    within()
    with suppress(StopIteration):
        next(hook)
    return time.monotonic() - begin


def leave(client: DockerClient, image: str) -> None:
    """Leave what the promise is about."""
    client.networks.create("bench-net")
    client.volumes.create("bench-vol")
    for number in range(CONTAINERS):
        client.containers.run(
            image,
            ["sleep", "1000"],
            name=f"bench-{number}",
            detach=True,
            network="bench-net",
            volumes={"bench-vol": {"bind": "/data"}},
        )


def seconds_by_hand(client: DockerClient, image: str) -> float:
    """Return what removing the same takes, with no more calls than that needs."""
    leave(client, image)
    api: Any = client.api
    begin = time.monotonic()
    for number in range(CONTAINERS):
        api.remove_container(f"bench-{number}", force=True, v=True)
    api.remove_network("bench-net")
    api.remove_volume("bench-vol", force=True)
    return time.monotonic() - begin
