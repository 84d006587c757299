"""What a worker runs, as pytest's only test: have a daemon when told, say so, and end it when told.

Whoever started the worker hears and tells it through its output and input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict

import pytest

from pytest_dind.host import HostEngine

#: What lines begin with that are for whoever started this; pytest and others print, too.
MARK = "@benchmark "
#: The variable with the name of the fixture.
WAY = "PYTEST_DIND_BENCHMARK_WAY"


def _say(text: str) -> None:
    print(f"\n{MARK}{text}", flush=True)


def test_serve(request: pytest.FixtureRequest, engine: HostEngine) -> None:
    engine.client.ping()
    _say("ready")
    if not sys.stdin.readline():
        pytest.exit("nobody is there any more")
    begin = time.monotonic()
    reached = request.getfixturevalue(os.environ[WAY])
    end = time.monotonic()
    _say(json.dumps({"begin": begin, "end": end, "reached": asdict(reached)}))
    sys.stdin.readline()
