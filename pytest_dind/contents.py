"""What an image store is to be filled with, found out without bringing or building any of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from . import builder, built, images
from .build import Build
from .host import HostEngine
from .owner import Owner
from .settings import Settings

#: Raised when what boot.sh makes for adoption changes: stores of before are of no use then.
_LAYOUT = 4


@dataclass(frozen=True)
class Contents:
    """The images that a store is to hold, as hashes: the same `key` is the same store."""

    key: str
    #: What they are for, whatever state they are in.
    purpose: str

    @classmethod
    def of(cls, settings: Settings, engine: HostEngine, owner: Owner) -> Contents:
        """Find out what the images are now.

        :raises ImageNotFoundError: one is nowhere.
        :raises ImageBuildError: the context of one that is to be built cannot be read.
        """
        layout = builder.layout(settings, engine)
        named = sorted(names(settings))
        identities = [images.identity(wanted, engine, settings.pull) for wanted in settings.preload]
        identities += [_identity_of(build, layout, settings, engine, owner) for build in settings.builds]
        # What is pulled anew in each run is of that run.
        run = owner.run if settings.pull == "always" and settings.preload else ""
        return cls(
            key=_hash(_LAYOUT, layout, named, sorted(identities), run),
            purpose=_hash(owner.project, settings.image, settings.daemon_arg, settings.config, named),
        )


def names(settings: Settings) -> list[str]:
    """Return what people call the images: names, files, tags or directories of builds."""
    return [*map(str, settings.preload), *map(str, settings.builds)]


#: A context of thousands of files takes its time, and a run counts on what it has begun with.
_identities: dict[tuple[Build, str], str] = {}


def _identity_of(build: Build, layout: str, settings: Settings, engine: HostEngine, owner: Owner) -> str:
    if (build, layout) not in _identities:
        _identities[build, layout] = built.identity_of(build, engine, settings, owner)
    return _identities[build, layout]


def correct(build: Build, layout: str, identity: str) -> bool:
    """Take a build for what it has come to, from now on; return whether it was taken for something else.

    :param layout: Of the daemons that it was built for; see `builder.layout`.
    """
    before = _identities.get((build, layout))
    _identities[build, layout] = identity
    return identity != before


def _hash(*what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=dict).encode()).hexdigest()
