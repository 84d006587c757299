"""What a daemon has inside: adopted from an image store, or brought image by image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from . import built, images, notices, tarball
from .build import Build
from .container import Storage
from .errors import DaemonStartError
from .fill import store_for
from .life import Life
from .settings import Settings
from .store import Store

if TYPE_CHECKING:
    import docker


class Stock:
    """The images of one daemon: those that it starts with, and those that are asked for later."""

    def __init__(self, life: Life) -> None:
        #: The image store that it adopts; None if it is to have no images, or lost it.
        self.store: Store | None = None
        #: Why its images were loaded one by one, at a price, and not adopted from a store; empty if they were not.
        self.loaded_because = ""
        #: Whether it takes a store when it has none.
        self.adopts = True
        self._life = life
        #: What the store was chosen for; more may be wanted since.
        self._filled_for = Settings()
        #: What came of each file or pulled image that was brought: names inside, and ids.
        self._brought: dict[str | Path, Mapping[str, str]] = {}

    def begin(self, settings: Settings, start: Callable[[Storage], None]) -> None:
        """Have the daemon started, with its store; and without, if it does not come up.

        :param start: Starts it with this storage, and `furnish`es it; leaves nothing of it when that fails.
        :raises DaemonStartError: it did not come up without a store either. For the rest see `store_for`.
        """
        self._brought.clear()
        self._choose(settings)
        adopted = self.store if self.store and not self.store.refused else None
        try:
            start(Storage(store=adopted.volume if adopted else None))
        except DaemonStartError as error:
            if adopted is None:
                raise
            # A store must never be why a run fails. If it is not why, this fails again, in the same way.
            self.store, self.adopts = None, False
            start(Storage())
            _lost.add(adopted.volume)
            cure = "pytest-dind prune removes what is broken"
            self.loaded_because = f"with {adopted.volume} inside, {error}\n  cure: {cure}"

    def _choose(self, settings: Settings) -> None:
        if self.adopts and self.store is None:
            self._filled_for = settings
            self.store = store_for(settings, self._life.engine, self._life.owner)
            if self.store is not None and self.store.volume in _lost:
                self.store, self.adopts = None, False

    def furnish(self, settings: Settings, client: docker.DockerClient) -> None:
        """Have in the started daemon all that its settings say: what it has not adopted is brought.

        :raises DaemonStartError: it has not got what is in its store.
        :raises ImageNotFoundError: an image is nowhere.
        :raises ImageBuildError: one cannot be built.
        """
        adopted = self._adopted(client)
        for image in settings.preload:
            if image not in adopted.preload:
                self._life.check_interrupted()
                self.load(image, settings, client)
        for build in settings.builds:
            if build not in adopted.builds:
                self._life.check_interrupted()
                self.have_built(build, settings, client)

    def _adopted(self, client: docker.DockerClient) -> Settings:
        """Return the settings whose images it has adopted; the defaults, which name none, if it has adopted none."""
        if self.store is None:
            return Settings()
        self.loaded_because = self.store.refused
        if self.store.refused:
            return Settings()
        if images.present(self.store.images, client):
            return self._filled_for
        # A load on top of half a store could take a layer for there that is not.
        log = self._life.lifeline.log() if self._life.lifeline else ""
        said = "\n".join(line for line in log.splitlines() if line.startswith("pytest-dind: the image"))
        raise DaemonStartError(self._life.name, "not all its images are there", said)

    def load(self, image: str | Path, settings: Settings, client: docker.DockerClient) -> str:
        """Bring an image; return its id inside, of several in a file the first one's.

        :raises ImageNotFoundError: it is nowhere.
        """
        # What is on the host engine is compared with that every time; a file or a pull comes once.
        known = self._known(image) if isinstance(image, Path) or settings.pull == "always" else None
        if not known or not images.present(known, client):
            known = images.bring(image, self._life.engine, client, settings.pull)
        self._brought[image] = known
        return next(iter(known.values()))

    def _known(self, image: str | Path) -> Mapping[str, str] | None:
        """Return what a file or a pull has brought, or what of it was adopted; None if that is not known."""
        if image in self._brought or self.store is None or image not in self._filled_for.preload:
            return self._brought.get(image)
        names = tarball.read(image) or () if isinstance(image, Path) else (image,)
        return {name: self.store.images[name] for name in names if name in self.store.images}

    def have_built(self, build: Build, settings: Settings, client: docker.DockerClient) -> str:
        """Have what a build makes; return its id inside. For what is raised see `built.build_into`."""
        return built.build_into(client, build, self._life.engine, settings, self._life.owner)


#: Volumes of stores with which a daemon of this process did not come up; the next ones are started without at once.
_lost: set[str] = set()
_warned: set[str] = set()


def warn_of_loading(reason: str) -> None:
    """Warn, once for each reason, that images are loaded one by one and not adopted; nothing for an empty one."""
    if not reason or reason in _warned:
        return
    _warned.add(reason)
    message = f"images are loaded into each daemon, and not adopted from an image store: {reason}"
    notices.warn(message, harmless=True, stacklevel=4)
