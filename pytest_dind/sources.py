"""What may be said of where images come from: checks as in checks.py."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .checks import image, one_of, text
from .errors import SettingsError

if TYPE_CHECKING:
    from .build import Build

PULL = ("missing", "always", "never")

#: What begins or ends the name of a file, and never that of an image.
_FILE_STARTS = ("/", "./", "../", "~")
_FILE_ENDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def is_file(value: object) -> bool:
    """Whether something to preload is a file that `docker save` wrote, and not the name of an image."""
    said = str(value).strip()
    return isinstance(value, os.PathLike) or said.startswith(_FILE_STARTS) or said.endswith(_FILE_ENDS)


def preload(value: object, where: str) -> str | Path:
    """The name of an image, or the absolute path of a file that `docker save` wrote."""
    if not is_file(value):
        return image(value, where)
    path = Path(os.path.abspath(os.path.expanduser(text(str(value), where))))  # noqa: PTH100, PTH111 (keeps links)
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise SettingsError(where, str(value), f"is a file of images that cannot be read: {error.strerror}") from error
    return path


def build(value: object, where: str, base: Path | None = None) -> Build:
    """A build, or a line that says one; its path counts from `base`, or from the current directory."""
    from .build import Build, declared  # noqa: PLC0415 (1 ms, which only who builds pays)

    return value if isinstance(value, Build) else declared(text(value, where), where, base)


def registry_mirror(value: object, where: str) -> str:
    """The URL of a mirror, as dockerd takes it."""
    url = text(value, where)
    rule = "is not the URL of a mirror; give one such as http://mirror.example:5000, without a login"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:  # a port that is none
        raise SettingsError(where, value, rule) from error
    if not known or "@" in parts.netloc or parts.query or parts.fragment or re.search(r"\s", url):
        raise SettingsError(where, value, rule)
    return url


def insecure_registry(value: object, where: str) -> str:
    """The host of a registry, maybe with a port, or a range of addresses."""
    place = text(value, where)
    host = re.fullmatch(r"(?:[\w.-]*\w|\[[0-9a-fA-F:.]+\])(?::(\d+))?", place)
    if host and not place.startswith("-") and int(host[1] or 1) in range(1, 65536):
        return place
    try:
        if "/" in place:
            ipaddress.ip_network(place, strict=False)
            return place
    except ValueError:
        pass
    rule = "is not a registry; give host, host:port, or a range such as 10.0.0.0/8, without http://"
    raise SettingsError(where, value, rule)


def pull(value: object, where: str) -> str:
    """When images are pulled."""
    return one_of(PULL, value, where)
