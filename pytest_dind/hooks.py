"""The hooks that a conftest may implement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .build import Build


def pytest_dind_preload(config: pytest.Config) -> Sequence[str | Path | Build]:  # type: ignore[empty-body]
    """Return what every daemon is to have inside, besides what the options say.

    Names of images, files that `docker save` wrote, and `Build` objects. Called once in each process that may start
    daemons, after the conftest at the suite's root was imported.
    """
