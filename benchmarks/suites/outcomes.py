"""What came of each test of a run, as pytest's --junitxml has it, and what differs between two runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

#: What can come of a test.
KINDS = ("passed", "failed", "error", "skipped", "xfailed")
_BY_TAG = {"failure": "failed", "error": "error", "skipped": "skipped"}


@dataclass(frozen=True)
class Outcome:
    """What came of one test, and, unless it passed, the first line of the reason."""

    kind: str
    why: str = ""


@dataclass(frozen=True)
class Run:
    """How long a run took, and the outcomes by node id."""

    seconds: float
    outcomes: Mapping[str, Outcome]


def read(report: Path, folder: Path) -> Mapping[str, Outcome]:
    """Read a report of pytest.

    :param folder: Where pytest ran.
    """
    return {_node_id(case, folder): _outcome(case) for case in ET.parse(report).iter("testcase")}


def count(run: Run) -> list[int]:
    """Count the tests of each kind."""
    found = [outcome.kind for outcome in run.outcomes.values()]
    return [found.count(kind) for kind in KINDS]


def differing(one: Run, other: Run) -> list[str]:
    """List the tests whose outcomes are not the same in two runs."""
    tests = dict.fromkeys((*one.outcomes, *other.outcomes))
    return [test for test in tests if _kind(one, test) != _kind(other, test)]


def _kind(run: Run, test: str) -> str | None:
    return run.outcomes[test].kind if test in run.outcomes else None


def _node_id(case: ET.Element, folder: Path) -> str:
    """Return the node id: its file's path and its classes were joined with dots."""
    words = case.attrib["classname"].split(".")
    for length in range(len(words), 0, -1):
        file = "/".join(words[:length]) + ".py"
        if (folder / file).is_file():
            return "::".join([file, *words[length:], case.attrib["name"]])
    return "::".join([*words, case.attrib["name"]])


def _outcome(case: ET.Element) -> Outcome:
    # One that failed may have an error in its clean-up, too; the first counts.
    for found in case:
        if found.tag in _BY_TAG:
            kind = "xfailed" if found.get("type") == "pytest.xfail" else _BY_TAG[found.tag]
            return Outcome(kind, found.get("message", "").partition("\n")[0][:200])
    return Outcome("passed")
