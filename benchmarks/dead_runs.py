"""What killed runs of benchmarks have left: removed at the next one's start, on proof that they are dead.

Daemons of ours are the plugin's business, which removes them at its own next start.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dind.locks import host_id, is_dead

from . import leftovers
from .big_images import remove_images

if TYPE_CHECKING:
    from pytest_dind.host import HostEngine


def sweep(engine: HostEngine) -> None:
    """Remove what they have left on the engine and in the directory for temporary files."""
    for lease in _dead(engine):
        leftovers.attempt(f"what a dead run with the lease {lease} left", partial(_remove, engine, lease))
    for directory in Path(tempfile.gettempdir()).glob(f"{leftovers.PREFIX}*"):
        lease_file = leftovers.lease_in(directory)
        if lease_file.is_file() and is_dead(lease_file.read_text(encoding="utf-8")):
            leftovers.attempt(str(directory), partial(_remove_directory, engine, directory))


def _dead(engine: HostEngine) -> set[str]:
    """Return the leases of the runs whose things are there, and that are proved to be dead."""
    wanted = {"label": leftovers.LABEL}
    found: list[Mapping[str, Any]] = [
        *engine.api.containers(all=True, filters=wanted),
        *(engine.api.volumes(filters=wanted)["Volumes"] or ()),
        *engine.api.images(all=True, filters=wanted),
    ]
    # A lease of another machine, user or container proves nothing here.
    ours = (one["Labels"] for one in found if one["Labels"].get(leftovers.HOST_LABEL) == host_id())
    return {labels[leftovers.LABEL] for labels in ours if is_dead(labels[leftovers.LABEL])}


def _remove(engine: HostEngine, lease: str) -> None:
    leftovers.remove_labelled(engine, lease)
    remove_images(engine, f"{leftovers.LABEL}={lease}")


def _remove_directory(engine: HostEngine, directory: Path) -> None:
    leftovers.remove_volumes(engine, directory)
    shutil.rmtree(directory)
