"""Suites that nobody here wrote: where each is from, what it needs, which of its tests run, what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suite:
    """One released suite, as its source distribution on PyPI has it. Tests are named by their node ids."""

    name: str
    version: str
    #: Of the source distribution.
    sha256: str
    #: Images that its tests expect to be there.
    images: tuple[str, ...]
    #: What pip installs beside it and this checkout.
    requirements: tuple[str, ...]
    #: Files and options for pytest.
    arguments: tuple[str, ...]
    #: How many tests pass on a plain daemon at least: two runs in which all fail are equal, too.
    least_passed: int
    #: Tests that are not run, each with the reason.
    left_out: Mapping[str, str]
    #: Set while it runs.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Programs that it calls.
    programs: tuple[str, ...] = ()
    #: Why tests fail on a plain daemon, where that is known.
    failing: Mapping[str, str] = field(default_factory=dict)
    #: Tests that end now so and now so on a plain daemon too, each with the reason.
    unstable: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def requirement(self) -> str:
        """How pip calls it."""
        return f"{self.name}=={self.version}"
