"""Where pytest's base temp directory is, or will be."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from .container import BaseTemp
from .errors import DindError


def base_temp_of(config: pytest.Config) -> BaseTemp | None:
    """Return the base temp directory of a configured pytest; None where its plugin is turned off."""
    # No public way leads here from a hook; xdist takes the same one.
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is None:
        return None
    own = factory.getbasetemp()
    # Workers share what tests put above their own, as xdist's documentation tells them to.
    return BaseTemp(own.parent if hasattr(config, "workerinput") else own, own)


def early_base_temp(namespace: Any) -> BaseTemp:
    """Return a directory that base temp will be in, before pytest has made it: this user's, or what was given.

    :raises DindError: it is there, and another user's; pytest will not take it either.
    """
    given = getattr(namespace, "basetemp", None)
    if given:
        mount = Path(os.path.abspath(given))  # noqa: PTH100 (as pytest does it)
    else:
        root = os.environ.get("PYTEST_DEBUG_TEMPROOT") or tempfile.gettempdir()
        mount = Path(root).resolve() / f"pytest-of-{_user_name()}"
    # pytest makes a given one anew later; see Daemon.settle.
    mount.mkdir(mode=0o700, parents=True, exist_ok=True)
    for info in () if given else (mount.lstat(), mount.stat()):  # a link's, and the directory's
        if info.st_uid != os.geteuid():
            raise DindError(
                f"{mount}, where pytest's base temp directory is to be, belongs to user {info.st_uid}, not to "
                f"{os.geteuid()}. Remove it, or give another place with --basetemp."
            )
    return BaseTemp(mount, None)


def _user_name() -> str:
    """The user's name as pytest writes it; a number without a name is common in CI containers."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return "unknown"
