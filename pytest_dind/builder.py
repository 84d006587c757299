"""Builders: daemons that build images, one at a time; what they have cached lives on between runs, in a volume."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import broken, buildcache, buildkit, classicbuild, images, locks, progress, store, tarball, workshop
from .build import Build
from .buildcontext import Context
from .buildoutput import Output
from .errors import DaemonStartError, DaemonStateError, DindError, ImageBuildError, ImageNotFoundError
from .host import HostEngine
from .owner import Owner
from .places import open_ours
from .settings import Settings
from .workshop import Workshop

#: Images of builds without a tag go by this name and their identity in the builder.
UNNAMED = "pytest-dind/build"
#: What decides how a daemon stores images, on its command line and in daemon.json.
_ARGUMENTS = (
    "-s",
    "--storage-driver",
    "--storage-opt",
    "--feature",
    "--userns-remap",
    "--experimental",
    "--data-root",
    "-g",
)
_DIRECTIVES = ("storage-driver", "storage-opts", "features", "userns-remap", "experimental", "data-root")


@dataclass(frozen=True)
class Job:
    """One build to be done."""

    context: Context
    #: What the image is called in the builder, and in the archive.
    tag: str
    #: The files that hold images that it is built on; of those of one name the last one's.
    bases: Sequence[Path]
    #: Where the image goes, as `docker save` writes it.
    archive: Path


@dataclass(frozen=True)
class Done:
    """What came of it."""

    #: The image's id in the builder.
    image: str
    #: Of the context that was really built, which may have changed since it was looked at.
    digest: str


def layout(settings: Settings, engine: HostEngine) -> str:
    """Return what tells daemons that can use the same data from others, as a hash.

    :raises ImageNotFoundError: the image of the daemons is nowhere.
    """
    name = engine.image_named(settings.image)
    found = engine.image(name)
    if found is None:
        engine.require_image(name)
        found = engine.image(name) or {}
    arguments = [one for one in settings.daemon_arg if one.split("=")[0] in _ARGUMENTS]
    config = {key: value for key, value in (settings.config or {}).items() if key in _DIRECTIVES}
    what = [found["Id"], arguments, config, settings.runtime]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def build(job: Job, settings: Settings, engine: HostEngine, owner: Owner) -> Done:
    """Build an image, by the builder for these settings, alone; only one of this user works on its data at a time.

    :raises ImageBuildError: it cannot be built.
    :raises LockTimeoutError: another build takes too long.
    :raises DaemonStartError: the builder does not come up, not even with empty data.
    """
    key = layout(settings, engine)
    doing = f"building {job.context.build}"
    with locks.held(f"builder-{key}", doing, settings.lock_timeout, owner.worker):
        volume = buildcache.newest(engine, key)
        try:
            outcome = _build_on(volume, job, settings, engine, owner)
        except DaemonStartError:
            # If its data is broken, one without any comes up; what was cached is not given up before that is known.
            fresh = buildcache.after(volume)
            try:
                outcome = _build_on(fresh, job, settings, engine, owner)
            except DaemonStartError:
                store.remove_volume(engine, fresh)
                raise
            store.remove_volume(engine, volume)
    if isinstance(outcome, Done):
        return outcome
    raise outcome


def _build_on(volume: str, job: Job, settings: Settings, engine: HostEngine, owner: Owner) -> Done | DindError:
    def work(daemon: Workshop) -> Done | DindError:
        outcome: Done | DindError
        try:
            with _limited(settings.build_timeout, job.context.build, daemon):
                buildcache.tidy(daemon.client.api, volume, [job.tag, *job.context.needed.all])
                outcome = _build(job, daemon, settings, engine)
        except (ImageBuildError, ImageNotFoundError) as error:
            outcome = error  # With it the builder ends in order, and keeps what it has cached.
        try:
            daemon.shut("close")
        except DaemonStateError:  # It was ended in the middle; its journals are for that.
            pass
        return outcome

    buildcache.make(engine, volume)
    # Its limits are for what tests run, and its mounts too.
    own = dataclasses.replace(settings, mount=(), port=(), memory=None, cpus=None, pids=None)
    return workshop.do(work, volume, own, engine, owner)


@contextmanager
def _limited(seconds: float, build: Build, daemon: Workshop) -> Iterator[None]:
    """End the daemon when the time is up, and say so."""
    late = threading.Event()

    def end() -> None:
        late.set()
        if daemon.life.lifeline is not None:
            daemon.life.lifeline.let_go()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if not late.is_set():
            raise
        output, step = (error.output, error.step) if isinstance(error, ImageBuildError) else ("", "")
        reason = f"it did not end within {seconds:g} s. If it may take longer, say so: --dind-build-timeout"
        raise ImageBuildError(str(build), step or "its steps", reason, output) from error
    finally:
        timer.cancel()


def _build(job: Job, daemon: Workshop, settings: Settings, engine: HostEngine) -> Done:
    by_buildkit = buildkit.is_there(daemon)
    _bring(job, by_buildkit, daemon, settings, engine)
    what = job.context.build
    with progress.stage(f"building {what}") as stage:
        output = Output(what, stage)
        builder = buildkit if by_buildkit else classicbuild
        try:
            digest = builder.build(job.context, job.tag, daemon, output)
        except DaemonStateError as error:
            raise output.error(str(error)) from error
    api: Any = daemon.client.api
    with progress.stage(f"saving {what}"):
        try:
            _write(job.archive, api.get_image(job.tag))
        except broken.connection() as error:
            reason = f"{error}. It goes to {job.archive.parent}; is there room?"
            raise ImageBuildError(str(what), "saving the image", reason) from error
    return Done(str(api.inspect_image(job.tag)["Id"]), digest)


def _bring(job: Job, by_buildkit: bool, daemon: Workshop, settings: Settings, engine: HostEngine) -> None:
    """Have the images inside that the build needs, as far as they are to be had: some it may never use."""
    built: set[str] = set()
    for archive in job.bases:
        built |= set(images.bring(archive, engine, daemon.client))
    needed = job.context.needed
    for name in (*needed.images, *([needed.syntax] if needed.syntax and by_buildkit else ())):
        if tarball.familiar(name) in built:
            continue
        try:
            images.bring(name, engine, daemon.client, settings.pull)
        except ImageNotFoundError:
            if settings.pull == "never":
                raise
            # Else the builder says so itself, if it comes to need it.


def _write(path: Path, chunks: Iterator[bytes]) -> None:
    with os.fdopen(open_ours(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        for chunk in chunks:
            file.write(chunk)
