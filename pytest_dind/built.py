"""Built images: each is built once, whichever processes ask for it, and again only when what it is made of changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from . import builder, images, loading, locks, results, tarball
from .build import Build
from .buildcontext import Context
from .errors import ImageBuildError
from .host import HostEngine
from .owner import Owner
from .results import Built
from .settings import Settings
from .tarball import familiar

if TYPE_CHECKING:
    import docker

#: Part of every identity: what was built in another way before is not taken for the same.
_LAYOUT = 1
#: How often a build begins anew because what it needs changed under it.
_ATTEMPTS = 3
#: The builds that this process has asked for, by tag: others may be built on them.
_asked: dict[str, Build] = {}


def identity_of(build: Build, engine: HostEngine, settings: Settings, owner: Owner) -> str:
    """Return what tells an image that is to be built from all others, as a hash; nothing is built.

    It is of the context, the Dockerfile, how they are used, and what the image is built on and in.

    :raises ImageBuildError: the context cannot be read.
    :raises ImageNotFoundError: what it is built on, or in, is nowhere.
    """
    return _Plan.of(build, engine, settings, owner).identity


def tar_of(build: Build, engine: HostEngine, settings: Settings, owner: Owner) -> Built:
    """Return the built image: found, or built now, by this process or by another that is at it.

    :raises ImageBuildError: it cannot be built, or another has just failed to, or one of this run before.
    :raises ImageNotFoundError: what it is built on, or in, is nowhere.
    :raises LockTimeoutError: another process has been building for too long.
    :raises DaemonStartError: the daemon that is to build it does not come up.
    """
    for _ in range(_ATTEMPTS):
        plan = _Plan.of(build, engine, settings, owner)
        found = results.find(plan.identity) or _built_once(plan, engine, settings, owner)
        if found is not None:
            return found
    reason = f"it changed while it was built, {_ATTEMPTS} times. Leave out with .dockerignore what others write to"
    raise ImageBuildError(str(build), "reading its context", reason)


def build_into(client: docker.DockerClient, build: Build, engine: HostEngine, settings: Settings, owner: Owner) -> str:
    """Have the built image in the daemon behind `client`; return its id there.

    :raises ImageNotFoundError: the daemon cannot load it; for the rest see `tar_of`.
    """
    attempt = 1
    while True:
        found = tar_of(build, engine, settings, owner)
        try:
            return loading.load(found.path, familiar(found.name), found.image, client)
        except FileNotFoundError:  # Somebody cleared away in between.
            attempt += 1
            if attempt > _ATTEMPTS:
                raise


@dataclass(frozen=True)
class _Plan:
    """A build, and what decides its image."""

    context: Context
    #: Of the context.
    digest: str
    identity: str
    #: What it is for, whatever the state of that: of one purpose one image is kept.
    purpose: str
    #: What it is built on that has to be built itself, with the identity of each.
    builds: Mapping[Build, str]
    #: Files to preload that hold, or may hold, what it is built on, with the identity of each.
    files: Mapping[Path, str]

    @classmethod
    def of(
        cls, build: Build, engine: HostEngine, settings: Settings, owner: Owner, above: frozenset[Build] = frozenset()
    ) -> _Plan:
        if build.tag and not above:
            _asked[familiar(build.tag)] = build
        context = Context(build, f"linux/{engine.version['Arch']}")
        how = [build.tag, build.target, sorted(build.buildargs.items()), builder.layout(settings, engine)]
        digest = context.digest()
        on: dict[str, Sequence[str]] = {}
        builds: dict[Build, str] = {}
        files: dict[Path, str] = {}
        ours = {familiar(one.tag): one for one in settings.builds if one.tag} | _asked
        for name in context.needed.all:
            base = ours.get(familiar(name))
            if base is not None and base.tag != build.tag and base not in above:
                builds[base] = cls.of(base, engine, settings, owner, above | {build}).identity
                on[name] = [builds[base]]
            elif holders := _files_with(name, engine, settings):
                files |= {path: tarball.identity(path) for path in holders}
                on[name] = [files[path] for path in holders]
            else:
                on[name] = [images.identity(name, engine, settings.pull)]
        # What is pulled anew in each run is of that run.
        run = owner.run if settings.pull == "always" and on else ""
        identity = _hash(_LAYOUT, digest, context.dockerfile, context.dockerignore, how, on, run)
        purpose = _hash(str(build.path), str(build.dockerfile), settings.image, how)
        # Of two that hold the same name, the daemons' images come from the last one, and so must the builder's.
        in_order = {path: files[path] for path in settings.preload if isinstance(path, Path) and path in files}
        return cls(context, digest, identity, purpose, builds, in_order)

    def files_changed(self) -> bool:
        """Whether a file is not the one any more that it was planned with."""
        return any(tarball.identity(path) != identity for path, identity in self.files.items())


def _files_with(name: str, engine: HostEngine, settings: Settings) -> Sequence[Path]:
    """Return the file to preload that holds an image; if none surely does, all that may, unless the engine has it."""
    files = {path: _names_in(path, *_state_of(path)) for path in settings.preload if isinstance(path, Path)}
    sure = [path for path, names in files.items() if names is not None and familiar(name) in names]
    if sure or not files or engine.image(name) is not None:
        return sure[-1:]
    return [path for path, names in files.items() if names is None]


@lru_cache
def _names_in(path: Path, *_state: int) -> Collection[str] | None:
    """Return the names in a file; None if only an engine can read it. A compressed one is read to its end: once."""
    return tarball.read(path)


def _state_of(path: Path) -> tuple[int, ...]:
    try:
        info = path.stat()
    except OSError:  # `tarball.read` says so
        return ()
    return info.st_ino, info.st_size, info.st_mtime_ns


def _hash(*what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _built_once(plan: _Plan, engine: HostEngine, settings: Settings, owner: Owner) -> Built | None:
    """Build, unless another does so meanwhile; None when it has come to another image than was planned."""
    build, identity = plan.context.build, plan.identity
    before = results.failure(plan.purpose, identity)
    if before is not None and before.run == owner.run:
        raise before.error
    # Before the lock is taken: one lock of a kind at a time, as two names may share one.
    bases = {base: tar_of(base, engine, settings, owner) for base in plan.builds}
    if {base: found.identity for base, found in bases.items()} != plan.builds:
        return None
    with locks.held(f"build-{identity}", f"building {build}", settings.lock_timeout, owner.worker):
        found = results.find(identity)
        if found is not None:
            return found
        failure = results.failure(plan.purpose, identity)
        if failure is not None and (before is None or failure.token != before.token):
            raise failure.error  # It failed while we waited.
        written = results.draft(identity)
        try:
            files = [*plan.files, *(base.path for base in bases.values())]
            job = builder.Job(plan.context, build.tag or f"{builder.UNNAMED}:{identity[:12]}", files, written)
            done = builder.build(job, settings, engine, owner)
            if done.digest != plan.digest or plan.files_changed():
                return None
            return results.add(identity, plan.purpose, written, job.tag, done.image)
        except ImageBuildError as error:
            results.fail(plan.purpose, identity, owner.run, error)
            raise
        finally:
            written.unlink(missing_ok=True)
