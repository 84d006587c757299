"""What a process can read of where it runs, and which container that may be: the kernel's files, and nothing else."""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

#: What every engine puts into a container as mounts of its own.
_ENGINES_FILES = ("/etc/hostname", "/etc/resolv.conf", "/etc/hosts")
#: Docker's `…/containers/ID/hostname`, wherever its data lies; Podman's `…/overlay-containers/ID/userdata/hostname`.
_ID_IN_MOUNT = re.compile(r"/(?:[a-z]+-)?containers/([0-9a-f]{64})(?:/userdata)?/(?:hostname|resolv\.conf|hosts)$")
_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_SHORT_ID = re.compile("[0-9a-f]{12}")
_OCTAL = re.compile(r"\\([0-7]{3})")
#: Who listens on a socket and is no engine: `ssh -L`, `ssh -R`.
_FORWARDERS = ("ssh", "sshd", "sshd-session", "socat")
#: pid, uid, gid.
_PEER = struct.Struct("3i")


@dataclass(frozen=True)
class MountPoint:
    """One line of mountinfo."""

    # https://www.kernel.org/doc/html/latest/filesystems/proc.html#proc-pid-mountinfo-information-about-mounts
    #: What of the file system is mounted: a path within that.
    root: str
    #: Where.
    path: str
    kind: str
    options: str


@dataclass(frozen=True)
class Process:
    """What this process reads of itself; a file that cannot be read is empty."""

    mountinfo: str = ""
    cgroup: str = ""
    hostname: str = ""
    #: The environment of process 1, which only its own user may read.
    init_environ: str = ""
    #: Those files that are there of the ones by which container engines mark their containers.
    marks: frozenset[str] = frozenset()

    @classmethod
    def read(cls) -> Process:
        """Read it."""
        marks = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")
        return cls(
            mountinfo=_text("/proc/self/mountinfo"),
            cgroup=_text("/proc/self/cgroup"),
            hostname=socket.gethostname(),
            init_environ=_text("/proc/1/environ"),
            marks=frozenset(mark for mark in marks if os.path.exists(mark)),  # noqa: PTH110 (never raises)
        )


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # another system than Linux, a process of another user, or a hardened /proc
        return ""


def mount_points(mountinfo: str) -> list[MountPoint]:
    """Read mountinfo. Of two mounts at one path, the later hides the earlier."""
    return list(_mount_points(mountinfo))


def _mount_points(mountinfo: str) -> Iterator[MountPoint]:
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, behind = before.split(" "), after.split(" ")
        if len(fields) >= 6 and len(behind) >= 3:  # noqa: PLR2004 (as many as there always are)
            yield MountPoint(_plain(fields[3]), _plain(fields[4]), behind[0], _plain(behind[2]))


def _plain(field: str) -> str:
    # Blanks and the like are octal: \040.
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), field)


def upper_directory(mountinfo: str) -> str:
    """Return the layer that this process writes to when its root is an overlay: no two containers have the same."""
    roots = [mount for mount in mount_points(mountinfo) if mount.path == "/"]
    options = roots[-1].options.split(",") if roots else []
    return next((option.partition("=")[2] for option in options if option.startswith("upperdir=")), "")


def container_sign(process: Process, environ: Mapping[str, str]) -> str:
    """Return by what one sees that this process runs in a container; nothing where it does not.

    `/.dockerenv` alone is no sign: virtual machines whose disk was made of an image have it as well.
    """
    return next(_signs(process, environ), "")


def _signs(process: Process, environ: Mapping[str, str]) -> Iterator[str]:
    mounts = {mount.path: mount for mount in mount_points(process.mountinfo)}
    given = [path for path in _ENGINES_FILES if path in mounts]
    yield from (f"{path} is a container engine's" for path in given if _ID_IN_MOUNT.search(mounts[path].root))
    if "KUBERNETES_SERVICE_HOST" in environ:
        yield "KUBERNETES_SERVICE_HOST is set"
    yield from (f"{mark} exists" for mark in ("/run/.containerenv", "/run/systemd/container") if mark in process.marks)
    if any(variable.startswith("container=") for variable in process.init_environ.split("\0")):
        yield "process 1 has the variable 'container'"
    if _ID.search(process.cgroup):
        yield "/proc/self/cgroup names a container"
    # containerd, BuildKit, gVisor: nothing but what a container's root is made of.
    if "/" in mounts and mounts["/"].kind == "overlay":
        yield from (f"/ is an overlay, and {path} is a mount" for path in given)
        yield from ("/ is an overlay, and /.dockerenv exists" for mark in process.marks if mark == "/.dockerenv")


def own_ids(process: Process) -> list[str]:
    """Return the ids that this process's container may have, the likeliest first; whether it has, its engine knows.

    From the mounts first: a container in a cgroup namespace of its own, as with cgroup v2, sees nothing in its cgroups.
    Only the mounts of the engine's own files count, for paths of layers and volumes hold other ids. The last id of a
    cgroup is the innermost. The hostname is short, and may be anything.
    """
    mounts = {mount.path: mount.root for mount in mount_points(process.mountinfo)}
    found = [_ID_IN_MOUNT.search(mounts.get(path, "")) for path in _ENGINES_FILES]
    ids = [match[1] for match in found if match]
    ids += [last[-1] for line in process.cgroup.splitlines() if (last := _ID.findall(line))]
    if _SHORT_ID.fullmatch(process.hostname) and not any(one.startswith(process.hostname) for one in ids):
        ids.append(process.hostname)
    return list(dict.fromkeys(ids))


def hierarchies() -> frozenset[str]:
    """Return the controllers of cgroup v1 that this machine has mounted, and `systemd` for the hierarchy of that name.

    They are the same in all namespaces: cgroups(7).
    """
    fields = [line.split(":") for line in _text("/proc/self/cgroup").splitlines()]
    names = [name for field in fields if len(field) > 1 for name in field[1].split(",")]
    return frozenset(name.removeprefix("name=") for name in names if name)


def default_gateways() -> frozenset[str]:
    """Return the addresses over which this process reaches what is on none of its own networks, IPv4 and IPv6."""
    four = [line.split()[1:3] for line in _text("/proc/net/route").splitlines()[1:]]
    six = [line.split()[0:5:4] for line in _text("/proc/net/ipv6_route").splitlines()]
    # Those to everywhere are all zeros; a gateway of zeros is none. IPv4 addresses are numbers in the machine's order.
    found = [int(hop, 16).to_bytes(4, sys.byteorder) for target, hop in four if not target.strip("0")]
    found += [bytes.fromhex(hop) for target, hop in six if not target.strip("0")]
    return frozenset(str(ip_address(packed)) for packed in found if any(packed))


def routed_interfaces() -> frozenset[str]:
    """Return the network interfaces that routes lead over; no tunnel's that is only there, as in every namespace."""
    return frozenset(line.split("\t")[0] for line in _text("/proc/net/route").splitlines()[1:])


@dataclass(frozen=True)
class Listener:
    """Who listens on a unix socket, as the kernel says."""

    #: 0 for a process that is not in our process namespace, nor below it.
    pid: int
    #: Whether it is in a process namespace below ours: in a container, seen from outside.
    is_nested: bool
    #: Its name, as in `ps`; empty if it is gone, or not to be seen.
    program: str = ""
    #: Whose it is; of a rootless engine, whoever runs that.
    user: int = 0

    @classmethod
    def at(cls, socket_path: str) -> Listener | None:
        """Ask who listens there; None where nobody does, or the kernel does not say."""
        peer_credentials = getattr(socket, "SO_PEERCRED", None)
        if peer_credentials is None:  # not Linux
            return None
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(socket_path)
                raw = connection.getsockopt(socket.SOL_SOCKET, peer_credentials, _PEER.size)
        except OSError:  # not there, or not for us
            return None
        pid, user, _ = _PEER.unpack(raw)
        # One number for each namespace that it is in, from ours inwards.
        numbers = re.search(r"^NSpid:(.*)$", _text(f"/proc/{pid}/status"), re.MULTILINE)
        program = _text(f"/proc/{pid}/comm").strip()
        return cls(pid, is_nested=bool(numbers and len(numbers[1].split()) > 1), program=program, user=user)

    @property
    def may_forward(self) -> bool:
        """Whether it may hand on to an engine elsewhere; a process that is gone may have been an `ssh -f -L`."""
        return self.program in ("", *_FORWARDERS)

    def sees(self, path: str) -> bool | None:
        """Whether a path of ours is the same file for that process; None where the kernel does not let us look."""
        existing = path
        while not os.path.lexists(existing) and existing != "/":
            existing = os.path.dirname(existing)  # noqa: PTH120 (of a text)
        try:
            return os.path.samestat(os.stat(existing), os.stat(f"/proc/{self.pid}/root{existing}"))  # noqa: PTH116
        except FileNotFoundError:
            return False if os.path.isdir(f"/proc/{self.pid}/root/") else None  # noqa: PTH112
        except OSError:  # a process of another user
            return None
