"""What one has to know of the place where tests run, as a table: each row says when it applies, what it is, what to do.

Only what the tests of a suite may meet themselves: what this package takes care of is no caveat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import conditions
from .facts import Facts

#: What a caveat that applies does to a run.
HOW = ("error", "warn", "ignore")
#: "Using Docker-in-Docker for your CI or testing environment? Think twice."
ARTICLE = "https://jpetazzo.github.io/2015/09/03/do-not-use-docker-in-docker-for-ci/"


@dataclass(frozen=True, eq=False)
class Caveat:
    """One of them."""

    id: str
    #: What it is, in one sentence.
    what: str
    #: What to do, in one sentence.
    cure: str
    #: Says what was found that it applies to; nothing where it does not apply.
    found: Callable[[Facts], str]

    def text(self, found: str) -> str:
        """Say it."""
        return (
            f"{self.id}: {self.what} Here: {found}. {self.cure} "
            f"(Known and accepted? --dind-caveats={self.id}=ignore; on Docker in Docker as such: {ARTICLE})"
        )


def applying(facts: Facts) -> Iterator[tuple[Caveat, str]]:
    """Yield the caveats that apply, each with what was found."""
    for caveat in CAVEATS:
        found = caveat.found(facts)
        if found:
            yield caveat, found


def how_taken(said: tuple[str, ...], caveat_id: str) -> str:
    """Return what was said of a caveat: of it alone, else of all, and of several words the last; `warn` if nothing."""
    words: dict[str, str] = {}
    for word in said:
        name, _, how = word.rpartition("=")
        words[name] = how
    return words.get(caveat_id, words.get("", "warn"))


CAVEATS = (
    Caveat(
        "siblings",
        "What is started on this engine itself runs beside the container of pytest and not inside it, outlives it, and "
        "shares names, ports and labels with all other jobs.",
        "Let tests use their own daemon (dind_client, dind_env, --dind-environ), never the mounted socket.",
        lambda facts: f"pytest runs in its container {facts.own_container}" if facts.own_container else "",
    ),
    Caveat(
        "bind-paths",
        "Bind paths count where the engine runs, and there this path is not: an inner container that binds it gets an "
        "empty directory.",
        "Put it on a mount of the engine's machine (for base temp: --basetemp), or copy files in with daemon.put().",
        lambda facts: ", ".join(facts.unseen_paths),
    ),
    Caveat(
        "published-ports",
        "Ports that inner containers publish are at their daemon's address, and that is not reached from here.",
        "Give each with --dind-port, and dial what daemon.address() says; or run the client in a container of the "
        "same daemon, or pytest in one of the engine.",
        conditions.published_ports,
    ),
    Caveat(
        "socket-group",
        "Every user who sees the engine's socket may use it, and thereby is root on its machine.",
        "Take that right away (chmod o-w) and give this user the socket's group (docker run --group-add).",
        conditions.socket_group,
    ),
    Caveat(
        "shared-cache",
        "The engine is shared and this container's home directory is not: jobs do not see each other's locks, prepare "
        "the same twice, and each leaves a build cache behind for --dind-store-keep days.",
        "Set XDG_STATE_HOME and XDG_CACHE_HOME to directories on a volume that all jobs mount.",
        lambda facts: facts.lost_state,
    ),
    Caveat(
        "shared-names",
        "Names of images are shared by all jobs on this engine: what is preloaded by name may be another job's.",
        "Name them with a tag of this build's own or by digest, or have them built (--dind-builds).",
        conditions.shared_names,
    ),
    Caveat(
        "root-owned-files",
        "Files that are left in the workspace as root cannot be removed by the user that it belongs to.",
        "Run inner containers with --user, and pytest as the user that the workspace belongs to.",
        conditions.root_owned_files,
    ),
    Caveat(
        "aborted-builds",
        "A daemon that is kept outlives its build, also an aborted one, and nobody removes it.",
        "Leave --dind-keep out of pipelines, or remove kept ones in a last step: docker rm -fv NAME.",
        lambda facts: f"--dind-keep={facts.keep} in {facts.ci}" if facts.ci and facts.keep != "never" else "",
    ),
    Caveat(
        "data-root",
        "The daemons' data lies on an overlay file system, and the kernel puts no overlay on top of another.",
        "Have the data in a volume: no --data-root, and for an engine in a container one at its /var/lib/docker.",
        lambda facts: facts.data_on_overlay,
    ),
    Caveat(
        "two-layers",
        "The engine itself runs in a container, whose limits of memory, CPUs and processes all daemons share.",
        "Give that container enough for all workers, or start fewer (-n).",
        lambda facts: f"the engine is {facts.engine}" if facts.engine_in_container else "",
    ),
    Caveat(
        "plain-tcp",
        "The engine is used over TCP without TLS, and whoever reaches that port is root on its machine.",
        "Have it use TLS (DOCKER_TLS_VERIFY and DOCKER_CERT_PATH), a unix socket, or ssh.",
        conditions.plain_tcp,
    ),
    Caveat(
        "inotify",
        "All daemons and their containers share the machine's inotify limits, and these are low.",
        "On the host: sudo sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288",
        conditions.inotify,
    ),
    Caveat(
        "mtu",
        "The network outside takes smaller packets than Docker's 1500 bytes, and connections of networks that tests "
        "configure themselves (kind, k3s, a daemon inside) may hang.",
        "Give those networks the same MTU.",
        conditions.mtu,
    ),
    Caveat(
        "address-pools",
        "Addresses that the daemons are told to use are in use outside, and inner containers cannot reach those there.",
        "Choose others with --bip and --default-address-pool, or leave the choice to pytest-dind.",
        conditions.address_pools,
    ),
    Caveat(
        "apparmor",
        "AppArmor profiles belong to the kernel: a daemon whose image has apparmor_parser replaces the machine's own "
        "docker-default, and one whose image has not runs inner containers without a profile.",
        "Take docker:dind, which has none, or remove apparmor_parser from the image.",
        conditions.apparmor,
    ),
    Caveat(
        "cgroup-hierarchies",
        "The machine has cgroup v1 without a hierarchy that containers want, as those do that run systemd.",
        "On the host: d=/sys/fs/cgroup/NAME; sudo mkdir -p $d; sudo mount -t cgroup -o NAME cgroup $d "
        "(for systemd: -o none,name=systemd).",
        conditions.cgroup_hierarchies,
    ),
    Caveat(
        "storage-driver",
        "This storage driver copies every layer in full, which takes time and disk for each container.",
        "Have the data on ext4 or xfs and use overlay2 (docker info shows the driver).",
        conditions.storage_driver,
    ),
    Caveat(
        "old-engine",
        "The host engine is older than Docker 23 and gets no fixes any more, not even of its security.",
        "Update it; 'docker version' shows what it is.",
        conditions.old_engine,
    ),
    Caveat(
        "kubernetes",
        "In Kubernetes, containers of a daemon may be counted outside of the pod: its limits do not hold for them, and "
        "kubectl top does not show them.",
        "Limit the daemons themselves, with --dind-memory and --dind-cpus.",
        conditions.kubernetes,
    ),
)
IDS = tuple(caveat.id for caveat in CAVEATS)
