"""What a check of `pytest-dind doctor` has found, and how it is shown: as rows of a table, or as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: How a check may end. Only one that has failed keeps tests from running.
STATES = ("ok", "warning", "failed", "not tried")
_STATE_WIDTH = max(map(len, STATES)) + 2
#: The longest name of a check is "storage driver"; of a caveat it may be longer.
_CHECK_WIDTH = 17
_NARROWEST = 40


@dataclass(frozen=True)
class Finding:
    """What one check has found."""

    check: str
    #: In one line.
    finding: str
    state: str = "ok"
    #: What to do about it; nothing where all is well.
    cure: str = ""
    #: What was measured, for programs; values that JSON can hold.
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it keeps no test from running."""
        return self.state != "failed"

    def rows(self, width: int | None = None) -> str:
        """Return the row for a reader, and a second one with the cure if there is any.

        :param width: Characters of a line, after which it is wrapped; None for never.
        """
        head = f"{self.state:<{_STATE_WIDTH}}{self.check:<{_CHECK_WIDTH}} "
        rows = [head + _wrapped(self.finding, len(head), width)]
        if self.cure:
            rows.append(" " * len(head) + _wrapped(f"cure: {self.cure}", len(head), width))
        return "\n".join(rows)


def heading() -> str:
    """Return the heading of the table."""
    return f"{'':<{_STATE_WIDTH}}{'CHECK':<{_CHECK_WIDTH}} FINDING"


def verdict(findings: Iterable[Finding]) -> str:
    """Return the last line of the table."""
    findings = list(findings)
    counts = {state: sum(one.state == state for one in findings) for state in STATES}
    if counts["failed"]:
        return f"{counts['failed']} of {len(findings)} checks failed"
    others = [f"{counts[state]} {word}" for state, word in (("warning", "with a warning"), ("not tried",) * 2)]
    return "no check failed" + "".join(f", {other}" for other in others if not other.startswith("0 "))


def as_json(findings: Iterable[Finding]) -> str:
    """Return all as JSON: a list of objects with check, finding, ok, state, cure and facts."""
    listed = [
        {
            "check": one.check,
            "finding": one.finding,
            "ok": one.ok,
            "state": one.state,
            "cure": one.cure,
            "facts": dict(one.facts),
        }
        for one in findings
    ]
    return json.dumps(listed, indent=2)


def one_line(text: object) -> str:
    """Return a text as one line."""
    return " ".join(str(text).split())


def _wrapped(text: str, indent: int, width: int | None) -> str:
    text = one_line(text)
    if width is None:
        return text
    lines = textwrap.wrap(text, max(_NARROWEST, width - indent), break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * indent}".join(lines)
