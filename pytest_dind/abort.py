"""Ending the whole run, with one message, wherever it is noticed that no test can succeed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

from . import errors, workers
from .errors import DindError

#: What every daemon of the run will meet alike: one message and the end, and not an error in each test.
HOPELESS = (
    errors.EngineRefusedError,
    errors.HostEngineError,
    errors.ImageBuildError,
    errors.ImageNotFoundError,
    errors.ImageStoreError,
    errors.LockTimeoutError,
)


def end_run(config: pytest.Config, error: DindError) -> NoReturn:
    """End the run out of a fixture, or out of a worker."""
    # A UsageError raised in a fixture would only be that test's error, and one in a worker a crash of it.
    workers.tell_controller(config, {"error": str(error)})
    pytest.exit(f"pytest-dind: {error}", returncode=pytest.ExitCode.USAGE_ERROR)


@contextmanager
def ends_the_run(config: pytest.Config) -> Iterator[None]:
    """Have our errors end the run, in a hook that comes before the first test."""
    try:
        yield
    except DindError as error:
        if hasattr(config, "workerinput"):
            end_run(config, error)
        raise pytest.UsageError(f"pytest-dind: {error}") from error
