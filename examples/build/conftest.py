"""What every daemon has inside from its first moment on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_dind import Build

IMAGE = os.environ.get("PYTEST_DIND_TEST_IMAGE", "busybox:latest")
APP = Build(Path(__file__).parent / "app", tag="greeter:test", buildargs={"BASE": IMAGE})


def pytest_dind_preload(config: pytest.Config) -> list[str | Build]:
    return [IMAGE, APP]
