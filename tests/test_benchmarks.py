"""The benchmarks' table says what was measured, and what was not; a worker and an interrupted run leave nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("benchmarks", reason="the tests run without the source tree that has the benchmarks")

from benchmarks import leftovers, workers
from benchmarks.compare import limits
from benchmarks.comparison import BY_HAND, CLEAN, COLD, FLOOR, FRESH, OURS, TESTCONTAINERS
from benchmarks.grid import Grid
from benchmarks.measure import side_by_side
from pytest_dind.host import HostEngine

from .conftest import OFFICIAL

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]


@pytest.fixture
def engine() -> Iterator[HostEngine]:
    engine = HostEngine.connect()
    yield engine
    engine.close()


def grid(**medians: float) -> Grid:
    made = Grid((OURS, BY_HAND, FLOOR))
    for row, ours in ((COLD, 0.4), (FRESH, 2.0), (CLEAN, 0.3)):
        made.add(row, OURS, [ours])
        made.add(row, BY_HAND, [medians.get(row.partition(":")[0], ours * 7 if row != CLEAN else ours)])
    return made


def test_a_cell_has_the_median_the_ratio_to_ours_and_how_many_measurements() -> None:
    found = Grid((OURS, BY_HAND, FLOOR))
    found.add(COLD, OURS, [0.5, 0.4, 0.3])
    found.add(COLD, BY_HAND, [2.0, 10.0, 3.0, 4.0])
    found.add(COLD, FLOOR, [0.2])
    assert found.table("").rows == [(COLD, "0.40 s (3)", "3.50 s 8.8 x (4)", "0.20 s 0.50 x (1)")]


def test_a_cell_that_is_empty_leads_to_the_note_that_says_why_and_equal_notes_are_one() -> None:
    found = Grid((OURS, BY_HAND, FLOOR))
    found.add(COLD, OURS, [0.4])
    found.note(COLD, FLOOR, "only root can")
    found.add(CLEAN, OURS, [])
    found.fail(CLEAN, OURS, RuntimeError("no\n  room"))
    found.note(CLEAN, FLOOR, "only root can")
    table = found.table("")
    assert table.rows == [(COLD, "0.40 s (1)", "-", "- [1]"), (CLEAN, "- [2]", "-", "- [1]")]
    assert table.notes == ["[1] only root can", "[2] failed: no room"]
    assert table.samples == {f"{COLD}: {OURS}": [0.4]}


def test_the_limits_are_of_what_was_measured_and_one_is_that_none_of_ours_failed() -> None:
    found = grid()
    assert [limit.reached for limit in limits(found)] == [True] * 4
    found.fail(COLD, TESTCONTAINERS, OSError("gone"))
    assert all(limit.reached for limit in limits(found))
    found.fail(COLD, OURS, OSError("gone"))
    assert [str(limit) for limit in limits(found) if not limit.reached] == ["MISSED   none of ours failed: 1 failed"]


@pytest.mark.parametrize(("row", "median"), [("cold", 2.3), ("clean", 0.04)])
def test_a_limit_that_is_missed_is_said_to_be(row: str, median: float) -> None:
    missed = [limit for limit in limits(grid(**{row: median})) if not limit.reached]
    assert [limit.promise.partition(":")[0] for limit in missed] == [row]


def test_in_turn_each_takes_part_in_as_many_rounds_as_it_is_to() -> None:
    order: list[str] = []

    def seconds(name: str) -> float:
        order.append(name)
        return 1.0

    samples = side_by_side({"a": 3, "b": 1}, {"a": lambda: seconds("a"), "b": lambda: seconds("b")}, warm_up=0)
    assert samples == {"a": [1.0] * 3, "b": [1.0]}
    assert order == ["a", "b", "a", "a"]


def test_help_names_every_benchmark_and_says_which_one_compares() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "`compare` has every figure beside the peers'" in " ".join(shown.split())
    for name in ("compare", "cold_start", "import_cost"):
        assert name in shown


def test_a_worker_that_fails_says_what_pytest_says_of_it(engine: HostEngine) -> None:
    with leftovers.removed(engine), pytest.raises(RuntimeError, match="fixture 'by_magic' not found"):
        workers.at_once(1, "by_magic", None).__enter__()


def test_what_a_peer_leaves_is_removed_with_its_volume_when_the_run_ends(engine: HostEngine) -> None:
    with leftovers.removed(engine):
        create = engine.client.containers.create
        left, kept = (create(OFFICIAL, labels=leftovers.labels()) for _ in range(2))
        leftovers.note(kept)
        kept.remove()  # as pytest-docker-tools does, without the volume
        volumes = [mount["Name"] for one in (left, kept) for mount in one.attrs["Mounts"]]
        assert len(volumes) == 2
    assert left.id not in {one["Id"] for one in engine.api.containers(all=True)}
    assert not set(volumes) & {one["Name"] for one in engine.api.volumes()["Volumes"] or ()}
    assert leftovers.labels() == {}
