"""Images that suites want by their public names: those of the engine, else of a registry, else stand-ins."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pytest_dind.errors import ImageNotFoundError
from pytest_dind.host import HostEngine

#: The label of a stand-in, and so of every container made of one; a killed run's are known by it.
LABEL = "pytest-dind.stand-in"

_FOLDERS = ("dev", "etc", "home", "proc", "root", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "var")
_PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/sh
"""
_DOCKERFILE = """FROM scratch
COPY rootfs /
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin LANG=C.UTF-8
LABEL {label}={name}
CMD ["{command}"]
"""
#: The first process of each image that can be made here, by the first word of its name.
_COMMANDS = {"busybox": "sh", "python": "python3"}
_PYTHON = ("python3-minimal", "libpython3-stdlib")
_NO_MORE = tuple(f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"))


@contextmanager
def present(engine: HostEngine, names: Sequence[str], cache: Path) -> Iterator[dict[str, str]]:
    """Have images on the engine, and in the end remove those that were brought; say by name where each is from.

    :param cache: Where Debian's packages are kept.
    """
    with ExitStack() as undo:
        contexts = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="dind-stand-ins-")))
        origins = {}
        for name in names:
            if _is_stand_in(engine, name) is False:
                origins[name] = "the engine's own"
                continue
            undo.callback(_remove, engine, name)
            try:
                engine.require_image(name)
            except ImageNotFoundError as error:
                _make(engine, name, _context(name.partition(":")[0], contexts, cache, error))
            origins[name] = "a stand-in" if _is_stand_in(engine, name) else "pulled"
        yield origins


def _is_stand_in(engine: HostEngine, name: str) -> bool | None:
    """Whether the engine's image is one of these, as a killed run leaves it; None if there is none."""
    found = engine.image(name)
    return None if found is None else LABEL in (found["Config"].get("Labels") or {})


def _remove(engine: HostEngine, name: str) -> None:
    if engine.image(name) is not None:
        engine.api.remove_image(name)


def _make(engine: HostEngine, name: str, context: Path) -> None:
    dockerfile = _DOCKERFILE.format(label=LABEL, name=name, command=_COMMANDS[context.name])
    (context / "Dockerfile").write_text(dockerfile, encoding="utf-8")
    engine.client.images.build(path=str(context), tag=name, rm=True, forcerm=True)


def _context(kind: str, contexts: Path, cache: Path, reason: ImageNotFoundError) -> Path:
    """Return the build context of a kind of image, of Debian's packages: busybox, and for `python` that as well."""
    root = contexts / kind / "rootfs"
    if root.is_dir():
        return root.parent
    if kind not in _COMMANDS or not all(map(shutil.which, ("apt-get", "apt-cache", "dpkg-deb", "tar"))):
        raise reason
    _make_root(root)
    for package in ("busybox-static", *(_python_packages() if kind == "python" else ())):
        _unpack(_download(package, cache), root)
    for python in (root / "usr/bin").glob("python3.[0-9]*"):
        for link in ("python", "python3"):
            (root / "usr/bin" / link).unlink(missing_ok=True)
            (root / "usr/bin" / link).symlink_to(python.name)
    shutil.rmtree(root / "usr/share", ignore_errors=True)
    return root.parent


def _make_root(root: Path) -> None:
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True)
    # As Debian lays it out, whose packages meet here from before and after it did so.
    for link in ("bin", "lib", "lib64", "sbin"):
        (root / link).symlink_to(f"usr/{link}")
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text(_PASSWD, encoding="utf-8")


def _python_packages() -> list[str]:
    """Return what Python needs, under the names of this Debian; without Perl and dpkg, which it only depends on."""
    command = ["apt-cache", "depends", "--recurse", *_NO_MORE, *_PYTHON]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [name for name in output.split("\n") if re.match(r"(python3|lib|zlib)(?!perl)", name)]


def _download(package: str, cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    pattern = f"{package}_*.deb"
    if not any(cache.glob(pattern)):
        # Root's apt would hand the download to a user who cannot write there, and say so.
        command = ["apt-get", "--quiet", "--option=APT::Sandbox::User=root", "download", package]
        subprocess.run(command, check=True, cwd=cache, stdout=subprocess.DEVNULL)
    return next(cache.glob(pattern))


def _unpack(package: Path, root: Path) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as archive:
        unpack = ["tar", "--extract", "--directory", str(root), "--keep-directory-symlink", "--no-same-owner"]
        subprocess.run(unpack, check=True, stdin=archive.stdout)
    if archive.returncode:
        raise subprocess.CalledProcessError(archive.returncode, archive.args)
