"""Real, isolated, privileged Docker daemons for tests.

`pytest --dind` gives every worker a daemon of its own. The core needs no pytest::

    from pytest_dind import Daemon, Settings

    with Daemon.start(Settings(image="docker:dind")) as daemon:
        daemon.client.containers.run("busybox", "true")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import Build
    from .daemon import Daemon
    from .errors import (
        DaemonStartError,
        DaemonStateError,
        DindError,
        DindWarning,
        EngineRefusedError,
        HostEngineError,
        ImageBuildError,
        ImageNotFoundError,
        ImageStoreError,
        LockTimeoutError,
        SettingsError,
    )
    from .heed import DindCaveatWarning
    from .settings import Settings

__version__ = "0.1.0"

__all__ = [
    "Build",
    "Daemon",
    "DaemonStartError",
    "DaemonStateError",
    "DindCaveatWarning",
    "DindError",
    "DindWarning",
    "EngineRefusedError",
    "HostEngineError",
    "ImageBuildError",
    "ImageNotFoundError",
    "ImageStoreError",
    "LockTimeoutError",
    "Settings",
    "SettingsError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # pytest imports this package at every start, also without --dind: nothing heavy is loaded until it is asked for.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    rooms = {"Build": "build", "Daemon": "daemon", "DindCaveatWarning": "heed", "Settings": "settings"}
    return getattr(import_module(f".{rooms.get(name, 'errors')}", __name__), name)
