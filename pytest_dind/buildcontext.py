"""A build's context as docker sees it: which files, what tells them from others, and the archive of them."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TypeVar, cast

from .build import Build
from .dockerfile import Needed, needed
from .errors import ImageBuildError

_Result = TypeVar("_Result")

_CHUNK = 1024 * 1024
_READING = "reading its context"
_PACKING = "packing its context"
#: Neither followed nor waited for, should a file have become a link or a pipe since it was looked at.
_AS_IT_IS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Hashing:
    """A file of a size that is known, hashed while it is read; one that is shorter by now is an error."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size
        self.digest = hashlib.sha256()

    def read(self, size: int = _CHUNK, /) -> bytes:
        wanted = min(size, self._left)
        data = self._file.read(wanted) if wanted else b""
        if wanted and not data:
            raise OSError("it became shorter while it was read")
        self._left -= len(data)
        self.digest.update(data)
        return data

    def finish(self) -> None:
        """Hash what nobody has read."""
        while self._left:
            self.read()


class _Packing:
    """A temporary file that is written; what goes wrong there is told from what goes wrong with what is read."""

    def __init__(self, file: IO[bytes], build: Build) -> None:
        self._file = file
        self._build = build

    def tell(self) -> int:
        return self._file.tell()

    def write(self, data: bytes, /) -> int:
        return self._told(lambda: self._file.write(data))

    def flush(self) -> None:
        self._told(self._file.flush)

    def _told(self, do: Callable[[], _Result]) -> _Result:
        try:
            return do()
        except OSError as error:
            # Else what is still buffered is written when it is closed, which fails again, and that would be raised.
            getattr(self._file, "raw", self._file).close()
            place = tempfile.gettempdir()
            reason = (
                f"cannot write it to a temporary file in {place}: {error.strerror or error}. Make room there, set "
                "TMPDIR to where there is some, or leave out with .dockerignore what the build does not need"
            )
            raise ImageBuildError(str(self._build), _PACKING, reason) from error


#: Called with a path, what it is, where a link leads, and the content of a file.
_Visit = Callable[[str, os.stat_result, str, _Hashing | None], None]


@dataclass
class Context:
    """What a build is given. Nothing is kept of the files: they are read anew for each question.

    :raises ImageBuildError: something in it cannot be read, or cannot be given to a build.
    """

    build: Build
    #: What it is built for: linux/amd64.
    platform: str

    @cached_property
    def dockerfile(self) -> str:
        """The text of the Dockerfile."""
        return _text(self.build, self.build.dockerfile)

    @cached_property
    def dockerignore(self) -> str:
        """What is left out: `<Dockerfile>.dockerignore`, if there is one, else `.dockerignore`."""
        # https://docs.docker.com/build/concepts/context/#filename-and-location
        own = self.build.dockerfile.with_name(f"{self.build.dockerfile.name}.dockerignore")
        for path in (own, self.build.path / ".dockerignore"):
            if path.is_file():
                return _text(self.build, path)
        return ""

    @cached_property
    def dockerfile_inside(self) -> str | None:
        """The Dockerfile's path in the context; None where it lies outside, or is a link, which may lead there."""
        path = self.build.dockerfile
        inside = path.is_relative_to(self.build.path) and Path(os.path.realpath(path)) == (
            Path(os.path.realpath(self.build.path)) / path.relative_to(self.build.path)
        )
        return path.relative_to(self.build.path).as_posix() if inside else None

    def files(self) -> list[str]:
        """Return the paths of all that is in it, in order."""
        from docker.utils.build import exclude_paths  # noqa: PLC0415

        lines = [line.strip() for line in self.dockerignore.splitlines()]
        patterns = [line for line in lines if line and not line.startswith("#")]
        try:
            # A name of no file where the Dockerfile lies outside: docker-py takes "Dockerfile" for none.
            return sorted(exclude_paths(str(self.build.path), patterns, dockerfile=self.dockerfile_inside or "\0"))
        except OSError as error:
            raise _failed(self.build, f"cannot list {error.filename}: {error.strerror}") from error

    def digest(self) -> str:
        """Return what tells its content from others: paths, kinds, modes, link targets, what is in the files."""
        return self._walk(lambda *_: None)

    @cached_property
    def needed(self) -> Needed:
        """The images that the build needs."""
        system, _, architecture = self.platform.partition("/")
        # https://docs.docker.com/reference/dockerfile/#automatic-platform-args-in-the-global-scope
        predefined = {
            f"{kind}{part}": value
            for kind in ("TARGET", "BUILD")
            for part, value in (("PLATFORM", self.platform), ("OS", system), ("ARCH", architecture))
        }
        return needed(self.dockerfile, predefined | dict(self.build.buildargs), self.build.target)

    def write(self, target: IO[bytes], below: str = "", also: Mapping[str, str] | None = None) -> str:
        """Write it as a tar file, everything root's; return the digest of what was written.

        :param target: A temporary file; closed, if it cannot be written.
        :param below: Where in the archive: a directory with its slash.
        :param also: Further files of the archive by path, in the place of those in the context.
        """
        also = also or {}
        packing = _Packing(target, self.build)
        with tarfile.open(fileobj=cast("IO[bytes]", packing), mode="w", format=tarfile.GNU_FORMAT) as tar:

            def add(path: str, info: os.stat_result, link: str, content: _Hashing | None) -> None:
                if below + path not in also:
                    tar.addfile(_entry(below + path, info, link), content)

            digest = self._walk(add)
            for name, text in also.items():
                data = text.encode()
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        packing.flush()
        return digest

    def _walk(self, visit: _Visit) -> str:
        digest = hashlib.sha256()
        root = os.fspath(self.build.path)
        for path in self.files():
            try:
                path.encode()
            except UnicodeEncodeError as error:
                name = os.fsencode(path)
                raise _failed(self.build, f"the name {name!r} is not UTF-8, and BuildKit refuses it") from error
            try:
                _visit(os.path.join(root, path), path, digest, visit)  # noqa: PTH118 (three times as fast)
            except FileNotFoundError:  # gone since it was listed: then it is not in it
                continue
            except OSError as error:
                raise _failed(self.build, f"cannot read {path}: {error.strerror or error}") from error
        return digest.hexdigest()


def _visit(full: str, path: str, digest: hashlib._Hash, visit: _Visit) -> None:
    info = os.lstat(full)
    kind, mode = stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode)
    if kind == stat.S_IFSOCK:
        return  # docker leaves them out, too
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        raise OSError("it is a device")
    link = os.readlink(full) if kind == stat.S_IFLNK else ""  # noqa: PTH115 (as fast as it gets)
    what = f"{path}\0{kind:o} {0 if link else mode:o} {link}\0".encode("utf-8", "surrogateescape")
    if kind != stat.S_IFREG:
        digest.update(what)
        visit(path, info, link, None)
        return
    with os.fdopen(os.open(full, _AS_IT_IS), "rb", buffering=0) as file:
        info = os.fstat(file.fileno())
        content = _Hashing(file, info.st_size)
        visit(path, info, "", content)
        content.finish()
        digest.update(what + content.digest.digest())


def _entry(path: str, info: os.stat_result, link: str) -> tarfile.TarInfo:
    # Made by hand: tarfile's own turns a second name of a file into a link, and names owners.
    entry = tarfile.TarInfo(path)
    entry.mode, entry.mtime = stat.S_IMODE(info.st_mode), max(0, int(info.st_mtime))
    kinds = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFIFO: tarfile.FIFOTYPE}
    entry.type = kinds.get(stat.S_IFMT(info.st_mode), tarfile.REGTYPE)
    entry.size = info.st_size if entry.type == tarfile.REGTYPE else 0
    entry.linkname = link
    return entry


def _text(build: Build, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _failed(build, f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _failed(build, f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error


def _failed(build: Build, reason: str) -> ImageBuildError:
    return ImageBuildError(str(build), _READING, f"{reason}. Leave it out with .dockerignore, or mend it")
