"""When a caveat applies: pure functions of what is known of a run. Each says what was found, nothing if it does not."""

from __future__ import annotations

import re
from ipaddress import ip_network

from .facts import Facts

#: What Docker gives networks that nothing else is said of.
_DOCKERS_MTU = 1500
#: The kernel's defaults, and what a worker takes for its daemon and some containers.
_INOTIFY_INSTANCES = 128
_INOTIFY_WATCHES = 8192
_INSTANCES_OF_A_WORKER = 8
#: Older versions get no fixes any more, and newer clients begin to refuse them.
_OLDEST_KEPT_UP = 23
#: Drivers that copy every layer in full.
_COPYING_DRIVERS = ("vfs", "native")


def published_ports(facts: Facts) -> str:
    """Say why the addresses of daemons are not reached from here, unless that has been seen to."""
    return "" if facts.addresses_reached or facts.ports else f"the engine is {facts.engine}"


def socket_group(facts: Facts) -> str:
    """Say what mode the engine's socket has, if everybody may use it."""
    return f"its mode is {facts.socket_mode:04o}" if facts.socket_mode & 0o002 else ""


def shared_names(facts: Facts) -> str:
    """Name what is preloaded from an engine that others use too."""
    return ", ".join(facts.preloaded_names) if facts.own_container else ""


def root_owned_files(facts: Facts) -> str:
    """Say who leaves files in whose workspace."""
    if facts.user != 0:
        return f"user {facts.user}, {' '.join(facts.mounts)}" if facts.mounts else ""
    if (facts.in_container or facts.ci) and facts.workspace_owner != 0:
        return f"pytest runs as root in the workspace of user {facts.workspace_owner}"
    return ""


def plain_tcp(facts: Facts) -> str:
    """Name an engine that is used without TLS."""
    return f"the engine is {facts.engine}" if facts.plain_tcp else ""


def inotify(facts: Facts) -> str:
    """Name the limit that is low."""
    # None where the engine is on another machine.
    instances = max(_INOTIFY_INSTANCES, _INSTANCES_OF_A_WORKER * facts.workers)
    if facts.inotify_instances is not None and facts.inotify_instances < instances:
        return f"fs.inotify.max_user_instances is {facts.inotify_instances}, and this run may want {instances}"
    if facts.inotify_watches is not None and facts.inotify_watches < _INOTIFY_WATCHES:
        return f"fs.inotify.max_user_watches is {facts.inotify_watches}, and {_INOTIFY_WATCHES} is the kernel's least"
    return ""


def mtu(facts: Facts) -> str:
    """Say how large packets may be outside, if that is less than Docker's own networks take."""
    return f"its MTU is {facts.mtu}" if facts.mtu is not None and facts.mtu < _DOCKERS_MTU else ""


def address_pools(facts: Facts) -> str:
    """Name the pairs of networks that overlap."""
    pairs = (
        f"{inner} inside and {outer} outside"
        for inner in facts.inner_subnets
        for outer in facts.outer_subnets
        if ip_network(inner, strict=False).overlaps(ip_network(outer, strict=False))
    )
    return ", ".join(pairs)


def apparmor(facts: Facts) -> str:
    """Name the images of which nobody knows what they do to profiles."""
    # The official image has no apparmor_parser, and its daemons leave profiles alone.
    others = [image for image in facts.images if not re.search(r"(?:^|/)docker(?:[:@]|$)", image)]
    return f"AppArmor is on, and the image is {', '.join(others)}" if facts.apparmor and others else ""


def cgroup_hierarchies(facts: Facts) -> str:
    """Name what is missing of cgroup v1."""
    if not facts.cgroup_v1_hierarchies:
        return ""
    missing = [one for one in ("devices", "systemd") if one not in facts.cgroup_v1_hierarchies]
    return f"there is none for {' and '.join(missing)}" if missing else ""


def storage_driver(facts: Facts) -> str:
    """Name the driver that copies."""
    if facts.storage_driver in _COPYING_DRIVERS:
        return f"the daemons are told to use {facts.storage_driver}"
    return f"the host engine uses {facts.engine_driver}" if facts.engine_driver in _COPYING_DRIVERS else ""


def old_engine(facts: Facts) -> str:
    """Name the version that is old."""
    major = re.match(r"\d+", facts.engine_version)
    return f"Docker {facts.engine_version}" if major and int(major[0]) < _OLDEST_KEPT_UP else ""


def kubernetes(facts: Facts) -> str:
    """Name the limits that are not given."""
    if not facts.in_kubernetes or not facts.unlimited:
        return ""
    return f"no limit is given with {' and '.join(facts.unlimited)}"
