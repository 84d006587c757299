"""The beginning of a run: settings checked and, with `--dind-environ`, the daemon up before anything is imported."""

from __future__ import annotations

import os
from typing import Any

import pytest

from . import workers
from .ahead import memory_beside
from .basetemp import early_base_temp
from .errors import DindError, SettingsError
from .host import HostEngine
from .memory import most_workers
from .options import resolve, shows_only
from .route import around
from .session import Session

_SESSION = pytest.StashKey[Session]()


def session_of(config: pytest.Config) -> Session:
    """Return this process's session.

    :raises pytest.UsageError: a setting cannot be used.
    """
    if _SESSION not in config.stash:
        config.stash[_SESSION] = _checked(config, None)
    return config.stash[_SESSION]


def enter_environ_early(config: pytest.Config, namespace: Any) -> None:
    """With `--dind-environ`, have the daemon in os.environ already when the first conftest is imported."""
    if shows_only(namespace) or workers.is_early_controller(namespace):
        return
    session = _checked(config, namespace)
    if not session.settings[0].environ:
        return
    config.stash[_SESSION] = session
    try:
        base_temp = early_base_temp(namespace)
    except DindError as error:
        raise pytest.UsageError(f"pytest-dind: {error}") from error
    if not session.start_early(base_temp):
        # Nothing of the suite may find the user's own Docker in the place of the daemon.
        namespace.noconftest = True


def limited_by_memory(config: pytest.Config, count: int) -> int:
    """Return how many workers `-n auto` is to start; the run's header says so if memory is the reason."""
    try:
        settings = resolve(config, None)[0]
    except SettingsError:  # said when pytest is configured
        return count
    # Whoever names a number in the environment wants that.
    left = None if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") else _memory_left()
    most = count if left is None else most_workers(settings, left)
    if most >= count:
        return count
    # xdist itself starts no more than that.
    if (getattr(config.option, "maxprocesses", None) or count) > most:
        config.stash[workers.BY_MEMORY] = most
    return most


def _memory_left() -> int | None:
    """Return the bytes of memory that daemons may take; None where nobody says."""
    try:
        engine = HostEngine.connect()
    except DindError:  # said when the run begins
        return None
    try:
        return memory_beside(around(engine))
    except (DindError, OSError):
        return None
    finally:
        engine.close()


def _checked(config: pytest.Config, namespace: Any) -> Session:
    try:
        return Session(config, resolve(config, namespace))
    except SettingsError as error:
        raise pytest.UsageError(f"pytest-dind: {error}") from error
