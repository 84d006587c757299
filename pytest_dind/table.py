"""Every option, declared once: command line, ini, marker and `Settings` all come from this table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from . import checks, sources
from .caveats import HOW
from .checks import KEEP, TRANSPORT
from .errors import SettingsError
from .sources import PULL


class Option(NamedTuple):
    """One option: `--dind-NAME`, ini `dind_NAME` and the field `NAME` of Settings."""

    name: str
    parse: Callable[[object, str], Any]
    help: str
    metavar: str = ""
    #: Given any number of times; the field is a tuple.
    many: bool = False
    #: Read when neither command line nor marker says anything.
    variable: str = ""
    #: Whether a marker may say it for one test's daemon.
    marker: bool = True
    #: Whether None is a value: not limited, not set.
    optional: bool = False

    @property
    def flag(self) -> str:
        """The command line's word."""
        return "--dind-" + self.name.replace("_", "-")

    @property
    def ini(self) -> str:
        """The ini file's word."""
        return f"dind_{self.name}"

    def check(self, value: object, where: str) -> Any:
        """Return `value` as the field holds it.

        :raises SettingsError: it is no such thing.
        """
        if not self.many:
            return None if value is None and self.optional else self.parse(value, where)
        if isinstance(value, (str, Path)) or not isinstance(value, Iterable):
            raise SettingsError(where, value, "is not a list; give one, such as ['busybox']")
        return tuple(self.parse(part, where) for part in value)


OPTIONS = (
    Option(
        "image",
        checks.image,
        "Image of the daemons, or '{version}' in it for the host engine's version "
        "(default: docker:dind). Given several times, the suite runs on each.",
        "IMAGE",
        variable="PYTEST_DIND_IMAGE",
    ),
    Option(
        "preload",
        sources.preload,
        "Image that every daemon has inside from the start: streamed from the host engine, or pulled inside where that "
        "has not got it; or a file of docker save, such as ./app.tar. May be given several times.",
        "IMAGE|FILE",
        many=True,
    ),
    Option(
        "builds",
        sources.build,
        "Image that is built once and then inside every daemon: 'TAG PATH [dockerfile=NAME] [target=STAGE] "
        "[buildargs.NAME=VALUE]…'. May be given several times.",
        "BUILD",
        many=True,
        marker=False,
    ),
    Option(
        "pull",
        sources.pull,
        "When the images to preload are pulled inside, with your log-ins: those that the host engine has not got "
        "(missing, the default), always anew in each run, or never.",
        "|".join(PULL),
        marker=False,
    ),
    Option(
        "registry_mirror",
        sources.registry_mirror,
        "Mirror of Docker Hub that the daemons pull from, such as http://mirror.example:5000. "
        "May be given several times.",
        "URL",
        many=True,
    ),
    Option(
        "insecure_registry",
        sources.insecure_registry,
        "Registry, or range of addresses, that the daemons use without TLS, or without checking its certificate. "
        "May be given several times.",
        "HOST[:PORT]|CIDR",
        many=True,
    ),
    Option(
        "daemon_arg",
        checks.daemon_arg,
        "Further argument of dockerd, such as --dind-daemon-arg=--mtu=1400. May be given several times.",
        "ARG",
        many=True,
    ),
    Option("config", checks.daemon_config, "A daemon.json for the daemons.", "FILE", optional=True),
    Option(
        "transport",
        checks.transport,
        "How tests reach the daemons: over a unix socket; over TCP with TLS and a certificate on both sides; or "
        "whichever of them works here (default: auto).",
        "|".join(TRANSPORT),
    ),
    Option(
        "mount",
        checks.mount,
        "Path of this machine that every daemon sees at the same place, for bind mounts of inner "
        "containers; pytest's base temp directory always is. May be given several times.",
        "PATH",
        many=True,
    ),
    Option(
        "keep",
        checks.keep,
        "Leave daemons running after the run, to look into: never (default), failed (those that a "
        "failed test used) or always. How to reach and remove them is printed.",
        "|".join(KEEP),
    ),
    Option(
        "log_dir",
        checks.log_dir,
        "Directory for the whole log of every daemon, as NAME.log, written as it comes; made if it is not there "
        "(default: none).",
        "DIR",
        marker=False,
        optional=True,
    ),
    Option("start_timeout", checks.seconds, "Seconds that a daemon may take to answer (default: 120).", "SECONDS"),
    Option(
        "lock_timeout",
        checks.seconds,
        "Seconds to wait for another process that fills an image store or builds an image (default: 2100).",
        "SECONDS",
        marker=False,
    ),
    Option("build_timeout", checks.seconds, "Seconds that a build may take (default: 1800).", "SECONDS", marker=False),
    Option(
        "store_keep",
        checks.days,
        "Days after which an image store that no run has used is removed, at the end of a run (default: 7); "
        "with 0 none outlives its run.",
        "DAYS",
        marker=False,
    ),
    Option(
        "lookahead",
        checks.lookahead,
        "How many fresh daemons may stand by for the next tests, besides the one in use (default: 1); with 0 each is "
        "started when its test asks, and so is the session daemon.",
        "N",
        marker=False,
    ),
    Option(
        "memory",
        checks.size,
        "Most memory of a daemon with all that runs in it, such as 2g (default: no limit).",
        "SIZE",
        optional=True,
    ),
    Option(
        "cpus",
        checks.cpus,
        "Most CPUs of a daemon with all that runs in it, such as 1.5 (default: no limit).",
        "NUMBER",
        optional=True,
    ),
    Option(
        "pids",
        checks.count,
        "Most processes of a daemon with all that run in it (default: no limit).",
        "NUMBER",
        optional=True,
    ),
    Option(
        "runtime",
        checks.text,
        "Runtime of the host engine for the daemons' containers. One of sysbox runs them without --privileged.",
        "NAME",
        optional=True,
    ),
    Option(
        "network",
        checks.network,
        "Network of the host engine that the daemons join (default: its bridge).",
        "NAME",
        optional=True,
    ),
    Option(
        "port",
        checks.port,
        "Port of a daemon that is reached from here although its containers' addresses are not, as with an engine on "
        "another machine: an inner container that publishes it is where daemon.address() says. "
        "May be given several times.",
        "PORT",
        many=True,
    ),
    Option(
        "environ",
        checks.switch,
        "The whole test process sees the worker's daemon as its Docker: it is up, and in "
        "os.environ, before the first test module is imported. For suites that know nothing of this plugin.",
        marker=False,
    ),
    Option(
        "clean",
        checks.switch,
        "After every test, remove what it left in the session daemon, as the fixture dind_clean does for one test.",
        marker=False,
    ),
    Option(
        "caveats",
        checks.caveats,
        "What a caveat that applies here does: end the run (error), warn (default), or nothing (ignore); for one of "
        "them with its id, such as --dind-caveats=mtu=ignore. May be given several times.",
        "|".join(HOW) + "|ID=…",
        many=True,
        marker=False,
    ),
)
