"""What a setting's value must be: each check returns it as `Settings` holds it, or says which rule it breaks."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .caveats import HOW, IDS
from .errors import SettingsError

KEEP = ("never", "failed", "always")
TRANSPORT = ("auto", "unix", "tls")

#: What dockerd is told by us; a second word on the same thing makes it refuse to start, or opens root to the network.
_OURS = ("-H", "--host", "-G", "--group", "--containerd", "--config-file", "--tls", "--tlsverify", "--tlscacert",
         "--tlscert", "--tlskey", "-p", "--pidfile")  # fmt: skip
_OURS_IN_CONFIG = tuple(name[2:] for name in _OURS if name.startswith("--"))

#: With one of these mounted, or anything in it, the daemon would lose its own files, or take the machine's for them.
_ITS_OWN = ("/bin", "/dev", "/proc", "/sbin", "/sys", "/usr/bin", "/usr/local/bin", "/usr/local/sbin", "/usr/sbin")
#: So it would with one of these as a whole; the image's entrypoint deletes pid files in /run.
_ITS_OWN_WHOLE = (
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/run",
    "/usr/lib",
    "/usr/local/lib",
    "/var/lib/docker",
    "/var/run",
)

#: Where dockerd listens in its container, by convention. https://docs.docker.com/engine/security/protect-access/
ITS_PORT = 2376
#: What the engine takes at least.
LEAST_CPUS = 0.01
LEAST_MEMORY = 6 * 1024**2

#: More than that many daemons no machine has room for, beside those of other workers.
MOST_AHEAD = 32

_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def text(value: object, where: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise SettingsError(where, value, "is not a text; give one that is not empty")
    return value.strip()


def image(value: object, where: str) -> str:
    """The name of an image."""
    name = text(value, where)
    if re.search(r"\s", name) or name.startswith("-"):
        raise SettingsError(where, value, "is not the name of an image; give one such as docker:28-dind")
    return name


def daemon_arg(value: object, where: str) -> str:
    """One argument of dockerd, and none that we set."""
    argument = text(value, where)
    if not argument.startswith("-"):
        raise SettingsError(where, value, "is not an argument of dockerd; give it whole, such as --mtu=1400")
    if argument.split("=")[0] in _OURS or re.match("-D*[HGp]", argument):
        raise SettingsError(
            where, value, "is set by pytest-dind itself; leave it out (--dind-config takes daemon.json)"
        )
    return argument


def daemon_config(value: object, where: str) -> Mapping[str, Any]:
    """A daemon.json: read from a file, or given as a mapping."""
    if isinstance(value, (str, Path)):
        try:
            value = json.loads(Path(value).read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(where, str(value), f"cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise SettingsError(where, str(value), f"is not a JSON file: {error}") from error
    if not isinstance(value, Mapping):
        raise SettingsError(where, value, 'is not a daemon.json: give a JSON object, such as {"mtu": 1400}')
    for key in (*_OURS_IN_CONFIG, "hosts"):
        if key in value:
            raise SettingsError(where, key, "is set by pytest-dind itself; leave it out of daemon.json")
    try:
        json.dumps(dict(value))
    except (TypeError, ValueError) as error:
        raise SettingsError(where, value, f"cannot be written as JSON: {error}") from error
    return value


def mount(value: object, where: str) -> Path:
    """A path of this machine that may be mounted into a daemon."""
    path = Path(os.path.abspath(os.path.expanduser(text(str(value), where))))  # noqa: PTH100, PTH111 (keeps links)
    # Also by another way: a link to it, or `//`, which a path may begin with.
    if _is_its_own(path) or _is_its_own(Path(os.path.realpath(path))):
        raise SettingsError(
            where, str(value), "cannot be mounted into a daemon: it needs its own; give another path, or one below it"
        )
    if "\n" in str(path):
        raise SettingsError(where, str(value), "has a line end in it, and so cannot be mounted")
    if not path.exists():
        raise SettingsError(where, str(value), "does not exist on this machine")
    return path


def _is_its_own(path: Path) -> bool:
    text = "/" + str(path).lstrip("/")
    own = (*_ITS_OWN, *_ITS_OWN_WHOLE)
    return (
        text in own
        or any(text.startswith(f"{part}/") for part in _ITS_OWN)
        or any(part.startswith(text.rstrip("/") + "/") for part in own)
    )


def keep(value: object, where: str) -> str:
    """When daemons are kept."""
    return one_of(KEEP, value, where)


def log_dir(value: object, where: str) -> Path:
    """A directory that logs can be written to, or can be made; it is made when there is something to write."""
    path = Path(os.path.abspath(os.path.expanduser(text(str(value), where))))  # noqa: PTH100, PTH111 (keeps links)
    there = next(part for part in (path, *path.parents) if part.exists())
    if not there.is_dir():
        raise SettingsError(where, str(value), f"cannot be a directory: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SettingsError(where, str(value), f"cannot be written to: {there} is not yours to write")
    return path


def transport(value: object, where: str) -> str:
    """How daemons are reached."""
    return one_of(TRANSPORT, value, where)


def caveats(value: object, where: str) -> str:
    """How caveats are taken, or one of them: `ignore`, `mtu=ignore`."""
    name, separator, how = text(value, where).rpartition("=")
    if how not in HOW:
        raise SettingsError(where, value, f"is none of {', '.join(HOW)}; or give it for one caveat, such as mtu=ignore")
    if separator and name not in IDS:
        raise SettingsError(where, value, f"names no caveat; there are {', '.join(IDS)}")
    return text(value, where)


def one_of(known: tuple[str, ...], value: object, where: str) -> str:
    """One of the words that are known."""
    if value not in known:
        raise SettingsError(where, value, f"is none of {', '.join(known)}")
    return str(value)


def seconds(value: object, where: str) -> float:
    """A number of seconds above 0."""
    found = _number(value)
    if not 0 < found < float("inf"):
        raise SettingsError(where, value, "is not a number of seconds above 0, such as 30 or 0.5")
    return found


def days(value: object, where: str) -> float:
    """A number of days, 0 or more."""
    found = _number(value)
    if not 0 <= found < float("inf"):
        raise SettingsError(where, value, "is not a number of days of at least 0, such as 7 or 0.5")
    return found


def _number(value: object) -> float:
    """Return a number; one that nothing is equal to, above or below, where it is none."""
    try:
        return float("nan") if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def size(value: object, where: str) -> int:
    """A size in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", str(value).strip().lower())
    found = int(float(match[1]) * _UNITS[match[2]]) if match and not isinstance(value, bool) else 0
    if found < LEAST_MEMORY:
        raise SettingsError(
            where, value, "is not a size of at least 6m; give bytes, or a number with k, m, g or t: 512m"
        )
    return found


def cpus(value: object, where: str) -> float:
    """A number of CPUs."""
    found = _number(value)
    if not LEAST_CPUS <= found < float("inf"):
        raise SettingsError(where, value, "is not a number of CPUs of at least 0.01, such as 1.5")
    return found


def count(value: object, where: str) -> int:
    """A whole number above 0."""
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or int(text) < 1:
        raise SettingsError(where, value, "is not a whole number above 0, such as 4096")
    return int(text)


def port(value: object, where: str) -> int:
    """A TCP port of a daemon, and not its own."""
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or not 1 <= int(text) <= 65535:  # noqa: PLR2004
        raise SettingsError(where, value, "is not a TCP port, such as 8080")
    if int(text) == ITS_PORT:
        raise SettingsError(where, value, "is the daemon's own; have the inner container publish another")
    return int(text)


def lookahead(value: object, where: str) -> int:
    """A number of daemons, which may be none."""
    number = _number(value)
    if not number.is_integer() or not 0 <= number <= MOST_AHEAD:
        raise SettingsError(where, value, f"is not a whole number from 0 to {MOST_AHEAD}, such as 1")
    return int(number)


def network(value: object, where: str) -> str:
    """A network of the host engine; none that shares a network stack."""
    name = text(value, where)
    if name == "host" or name.startswith("container:"):
        rule = (
            "would share a network stack, whose firewall rules the daemon would rewrite; give a network, such as bridge"
        )
        raise SettingsError(where, value, rule)
    return name


def switch(value: object, where: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise SettingsError(where, value, "is neither true nor false")
    return value
