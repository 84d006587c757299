"""What is known of a run before its first test, as plain values: where it runs, on what engine, with what settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, eq=False)  # Each method takes its time when the module is imported.
class Facts:
    """What tells whether a caveat applies. The defaults are those of a plain machine, to which none does."""

    # -- where pytest runs
    ci: str = ""
    in_kubernetes: bool = False
    in_container: bool = False
    #: The name of its container, where the engine in use runs that.
    own_container: str = ""
    user: int = 0
    workspace_owner: int = 0
    workers: int = 1
    #: Where state is kept that ends with the container; nothing where it does not.
    lost_state: str = ""
    #: The kernel's limits and cgroups, where it is the engine's, too; None and nothing where it is another's.
    inotify_instances: int | None = None
    inotify_watches: int | None = None
    #: With cgroup v1: its controllers, and `systemd`.
    cgroup_v1_hierarchies: frozenset[str] = frozenset()

    # -- the engine
    #: In words: what it is, and its address.
    engine: str = ""
    #: Docker's; nothing for Podman, which counts otherwise.
    engine_version: str = ""
    engine_driver: str = "overlay2"
    engine_in_container: bool = False
    apparmor: bool = False
    plain_tcp: bool = False
    #: The permissions of its unix socket; 0 where it has none.
    socket_mode: int = 0
    #: Whether addresses on its networks are reached from here.
    addresses_reached: bool = True
    #: Of the network that daemons join; None where that is not known.
    mtu: int | None = None
    outer_subnets: tuple[str, ...] = ()

    # -- the daemons
    images: tuple[str, ...] = ()
    preloaded_names: tuple[str, ...] = ()
    keep: str = "never"
    mounts: tuple[str, ...] = ()
    #: Those that are published because the addresses are not reached.
    ports: tuple[int, ...] = ()
    #: Those of base temp and `--dind-mount` that the engine's machine has not got.
    unseen_paths: tuple[str, ...] = ()
    #: Those of the options for limits that are not given.
    unlimited: tuple[str, ...] = ()
    #: That they are told to use; nothing where they choose.
    storage_driver: str = ""
    #: What of their data lies on an overlay; nothing where none does.
    data_on_overlay: str = ""
    #: Addresses that they are told to use.
    inner_subnets: tuple[str, ...] = ()
