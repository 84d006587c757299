"""The floor's place: the files of the peers' own image and data roots, for dockerd with no container around.

They lie in a volume of the host engine: on its file system, as those of daemons do.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from . import leftovers, system_files
from .machine import OFFICIAL_IMAGE
from .measure import progress
from .unshared import PLACE, roots_of, running

if TYPE_CHECKING:
    from pytest_dind.host import HostEngine

#: Directories in which something is mounted.
_MOUNT_POINTS = ("dev", "etc/docker", "proc", "run", "sys", "tmp", "var/lib/docker")


def why_not() -> str | None:
    """Say why this machine cannot be measured so; None if it may be."""
    if os.geteuid() != 0:
        return "only root can start dockerd on the machine itself"
    missing = [name for name in ("unshare", "mount", "chroot", "tar", "cp") if not shutil.which(name)]
    return f"this machine has no {', '.join(missing)}" if missing else None


class Floor:
    """What `unshared.running` needs, in this process and in those that it starts; gone when `with` ends."""

    def __init__(self, engine: HostEngine) -> None:
        self._engine = engine
        self._volume = f"{leftovers.PREFIX}floor-{secrets.token_hex(4)}"
        self._place = Path()

    def __enter__(self) -> Floor:  # noqa: PYI034 (typing.Self comes with Python 3.11)
        """Take the files out of the image.

        :raises OSError: they cannot be had here.
        """
        with ExitStack() as undo:
            volume = self._engine.api.create_volume(self._volume, labels=leftovers.labels())
            undo.callback(self.__exit__)
            self._place = Path(volume["Mountpoint"])
            if not self._place.is_dir():
                raise NotADirectoryError("the engine's volumes are not on this machine")
            progress("taking the engine out of its image")
            self._export()
            os.environ[PLACE] = str(self._place)
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        os.environ.pop(PLACE, None)
        leftovers.attempt(self._volume, partial(self._engine.api.remove_volume, self._volume))

    def _export(self) -> None:
        tree = self._place / "tree"
        tree.mkdir()
        with (
            system_files.exported(self._engine, OFFICIAL_IMAGE) as stream,
            subprocess.Popen(["tar", "-x", "-p", "-C", str(tree)], stdin=subprocess.PIPE) as tar,
        ):
            assert tar.stdin is not None
            tar.stdin.writelines(stream)
        if tar.returncode:
            raise OSError(f"tar ended with exit code {tar.returncode}")
        for name in _MOUNT_POINTS:
            (tree / name).mkdir(parents=True, exist_ok=True)
        said = self._engine.api.inspect_image(OFFICIAL_IMAGE)["Config"]["Env"] or ()
        path = dict(one.split("=", 1) for one in said).get("PATH", os.defpath)
        (self._place / "path").write_text(path, encoding="utf-8")

    def hold(self, image: str, roots: int) -> None:
        """Have so many data roots with an image, in each of which one `running` after the other starts."""
        directory = roots_of(self._place, image)
        first = directory / "0"
        if not first.exists():
            first.mkdir(parents=True)
            with running(image, cleanly=True) as daemon:
                daemon.load(self._engine, image)
        for number in range(1, roots):
            copy = directory / str(number)
            if not copy.exists():
                part = copy.with_suffix(".part")
                subprocess.run(["cp", "-a", str(first), str(part)], check=True)
                part.rename(copy)
