"""Says the caveats that apply to a run: as pytest's warnings, or as the run's end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from . import caveats, workers
from .errors import DindError, DindWarning
from .gathering import gather
from .route import around
from .runtime import Runtime
from .settings import Settings


class DindCaveatWarning(DindWarning, pytest.PytestWarning):
    """Something that tests will meet in the place where they run; the text begins with its id and says what to do."""


def heed_caveats(config: pytest.Config, settings: Sequence[Settings], runtime: Runtime) -> None:
    """Warn of each caveat that applies, as `--dind-caveats` and the filters for warnings have it.

    :raises DindError: some are to end the run; the message names all of them.
    """
    said = settings[0].caveats
    if {caveats.how_taken(said, one) for one in caveats.IDS} == {"ignore"}:
        return
    facts = gather(
        around(runtime.engine),
        settings,
        base_temp=runtime.base_temp,
        project=runtime.project,
        workers=workers.count(config),
    )
    errors = []
    for caveat, found in caveats.applying(facts):
        how = caveats.how_taken(said, caveat.id)
        text = caveat.text(found)
        if how == "error" or (how == "warn" and not _warn(config, text)):
            errors.append(text)
    if errors:
        raise DindError("caveats apply that this run is not to be started with:\n" + "\n".join(errors))


def _warn(config: pytest.Config, text: str) -> bool:
    """Warn; False where a filter makes an error of it."""
    try:
        # Not warnings.warn: pytest does not catch what comes at a session's start.
        config.issue_config_time_warning(DindCaveatWarning(text), stacklevel=1)
    except DindCaveatWarning:
        return False
    return True
