"""Explains a known failure in a daemon's log, or in an engine's error message: what happened, and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Diagnosis:
    """One known failure in plain words."""

    #: What happened, in one sentence.
    cause: str
    #: What to do about it: a command for the host, or an option of pytest-dind.
    cure: str


def diagnose(log: str) -> Diagnosis | None:
    """Return the most telling known failure in the last lines of a daemon's log, or None."""
    lines = log.splitlines()[-_LAST_LINES:]
    passed = max((number for number, line in enumerate(lines, 1) if _PROGRESS.search(line)), default=0)
    lines = [line for line in lines[passed:] if not _NOISE.search(line)]
    fatal = max((number for number, line in enumerate(lines) if _FATAL.search(line)), default=None)
    symptom = None
    if fatal is not None:
        last_words = "\n".join(lines[fatal:])
        cause, symptom = _find(_CAUSES, last_words), _find(_SYMPTOMS, last_words)
        if cause is not None or symptom is None:
            return cause  # Last words nobody knows are not explained by what was logged before them.
        lines = lines[:fatal]
    lines.reverse()  # The nearer to the end, the more telling; a warning only where nothing worse was said.
    lines.sort(key=lambda line: _WARNING.search(line) is not None)
    causes = (cause for line in lines if (cause := _find(_CAUSES, line)) is not None)
    return next(causes, symptom) or _find(_SYMPTOMS, "\n".join(lines))


def _find(table: tuple[tuple[str, str, str], ...], text: str) -> Diagnosis | None:
    for pattern, cause, cure in table:
        if match := re.search(pattern, text, re.IGNORECASE):
            return Diagnosis(match.expand(cause), match.expand(cure))
    return None


#: A Go traceback takes some 300 lines, and what caused it is said before.
_LAST_LINES = 600
#: Who gets here has shown that all earlier trouble was harmless, such as a storage driver that was only tried.
_PROGRESS = re.compile(r"Loading containers: |Daemon has completed initialization|API listen on ")
#: Chatter, answers to clients ("Handler for"), and a failure that dockerd lives with (moby/moby#47895).
_NOISE = re.compile(r'\blevel"?[=:]"?(?:info|debug)|^(?:INFO|DEBU)\[|Handler for [A-Z]+ |ip6tables is enabled, but')
_WARNING = re.compile(r'\blevel"?[=:]"?warn|^WARN\[')
_FATAL = re.compile(
    r"^(?:failed to (?:start (?:daemon|containerd)|load listeners)|Error starting daemon|Failed to connect to )"
    r'|\blevel"?[=:]"?(?:fatal|panic)|^FATA\[|^panic: '
)

_OFFICIAL = "Name an image that contains it, such as --dind-image=docker:28-dind (docker:28-cli is only a client)."
_ROOTFUL = "Set DOCKER_HOST to a rootful engine where this works: docker run --privileged busybox mount -t tmpfs x /mnt"

# fmt: off
#: Pattern, cause, cure; the first row that matches wins, so the most specific come first. Compiled when first needed.
#: Above each row where its texts come from: org/name#1 is https://github.com/org/name/issues/1; [ran] means seen here.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    # moby/moby#36952, nestybox/sysbox#662
    (r"docker-default profile could not be loaded|apparmor_parser: Unable to replace",
     "The nested daemon tried to load its AppArmor profile docker-default into the host's kernel, and could not.",
     "Name an image without apparmor_parser, such as --dind-image=docker:28-dind."),
    # projectatomic/docker#277, buildkite/elastic-ci-stack-for-aws#538 [ran]
    (r"privileged mode is incompatible with user namespaces",
     "The host engine runs with userns-remap and therefore refuses privileged containers.",
     'Remove "userns-remap" from the host engine\'s /etc/docker/daemon.json, or set DOCKER_HOST to another engine.'),
    # moby/moby#15365; text in https://github.com/moby/moby/blob/v26.1.5/pkg/authorization/authz.go
    (r"authorization denied by plugin ([^\s:]+)",
     r"The authorization plugin \1 of the host engine forbids this container.",
     r"Let \1 allow privileged containers, or set DOCKER_HOST to an engine without it."),
    # podman-container-tools/podman#10282; moby/moby#46679, moby/moby#40068, docker/docs#14354
    (r"apply caps: operation not permitted|final child's pid from pipe",
     "The host engine cannot grant what a privileged container needs: it is rootless, confined, or nested too deep.",
     _ROOTFUL),
    # https://github.com/moby/moby/blob/v26.1.5/daemon/runtime_unix.go; the second text is 20.10's [ran]
    (r"(?:unknown or invalid runtime name:|unknown runtime specified) ([^\s\"']*[^\s\"'.)])",
     r"The engine does not know the runtime \1.",
     r'Correct --dind-runtime (docker info lists what there is), or add \1 to "runtimes" in /etc/docker/daemon.json.'),
    # https://github.com/moby/moby/blob/v26.1.5/volume/mounts/validate.go [ran]
    (r"bind source path does not exist: ([^\s\"')]*[^\s\"').])",
     r"The engine does not see \1 of this machine: it runs on another one, or pytest runs in a container beside it.",
     r"Set DOCKER_HOST to an engine of this machine; in a container, mount its host's \1 at the same path: -v \1:\1"),
    # sassoftware/event-provenance-registry#42, GoogleChrome/rendertron#180; tini's text [ran]
    (r'exec: \\*"(?:/bin/)?sh\\*": |executable file `(?:/bin/)?sh` not found|exec \S*\bsh failed: No such file',
     "The image has no shell, so nothing can start a daemon in it.",
     _OFFICIAL),
    # moby/moby#37713 (runc); dash, busybox, bash, tini and boot.sh [ran]
    (r'\b(dockerd|containerd): (?:command )?not found|exec: \\*"\S*?(dockerd)\\*": |exec \S*?(dockerd) failed: ',
     r"The image contains no \1\2\3.",
     _OFFICIAL),
    # https://github.com/spf13/pflag/blob/v1.0.5/flag.go [ran]
    (r"unknown (?:shorthand )?flag: ('.' in \S+|[^\s,]+)",
     r"dockerd of this image does not know the argument \1.",
     "Correct --dind-daemon-arg (dockerd --help lists them), or name a version that has it with --dind-image."),
    # moby/moby#42948, moby/moby#22339 [ran]
    (r"specified both as a flag and in the configuration file: ([\w.-]+)",
     r'"\1" is set twice, in daemon.json and as an argument of dockerd.',
     r'Take "\1" out of --dind-config or out of --dind-daemon-arg; hosts and TLS are set by pytest-dind itself.'),
    # moby/moby#42948 [ran]
    (r"unable to configure the docker daemon with file (\S+): ([^\n]+)",
     r"\1 in the daemon's container is not valid: \2.",
     "Correct --dind-config; this checks a file: dockerd --validate --config-file=FILE"),
    # containerd/containerd#6659, docker-library/docker#308, docker-library/docker#495
    (r"it is in (?:an invalid state|threaded mode)|sed: (?:write error|couldn't (?:write|flush))",
     "Processes stay in the root cgroup of the daemon's container, and cgroup v2 then refuses groups below it.",
     "Name a newer image, such as --dind-image=docker:28-dind, and run nothing in the container while it starts."),
    # moby/moby#36016, docker/for-linux#219, kata-containers/kata-containers#1927
    (r"cgroup mountpoint does not exist|cannot (?:find|found) cgroup mount destination",
     "The host has not mounted a cgroup hierarchy that the daemon needs, such as the one named systemd.",
     "On the host: d=/sys/fs/cgroup/systemd; sudo mkdir -p $d; sudo mount -t cgroup -o none,name=systemd cgroup $d"),
    # moby/moby#45378, docker/for-linux#1390 [ran]
    (r"mkdir\b[^\n]{0,40}/sys/fs/cgroup[^\n]*: (?:permission denied|read-only file system)",
     "The daemon may not write to its cgroups: its container is not privileged, or is in a user namespace.",
     _ROOTFUL),
    # docker/for-win#517; the others in a container without --privileged [ran]
    (r"\(you must be root\)|mount overlay: operation not permitted|unshare: operation not permitted|\(are you root\?\)",
     "The daemon's container is not privileged: the kernel refused it a mount, a namespace or iptables.",
     _ROOTFUL),
    # moby/moby#29519, docker-library/docker#250; containerd's warning [ran]
    (r"volume store metadata database[^\n]*: timeout|waiting for response from boltdb open|invalid page type",
     "Another daemon uses the same data root, or two once did and damaged it.",
     "Give each its own: no --dind-mount over /var/lib/docker; docker ps --filter volume=NAME shows who has it."),
    # containerd/containerd#10468, apecloud/kubeblocks#8460, ddev/ddev#6553; ulimit nofile [ran]
    (r"too many open files|(?:inotify|fsnotify)[^\n]*no space left",
     "The host's inotify instances, which all daemons share, or the daemon's file descriptors are used up.",
     "On the host: sudo sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288"),
    # moby/moby#10613 [ran]
    (r"no space left on device|disk quota exceeded",
     "The file system of the data root is full, in bytes or in inodes.",
     "On the host: df -h and df -i /var/lib/docker show which; then docker system prune or docker volume prune."),
    # moby/moby#20096, moby/moby#36980; dash, busybox and tini [ran]
    ((r"pthread_create failed|failed to create new OS thread|can(?:'t|not) fork"
      r"|fork(?:/exec \S+| failed): resource temporarily unavailable"),
     "The container may not start more processes: its pids limit is reached.",
     "Raise the limit, such as --dind-pids=4096, or the host's: sudo sysctl kernel.pid_max=4194304"),
    # moby/moby#8539, moby/moby#10917; runc's text [ran]; the last is boot.sh's own
    ((r"cannot allocate memory|runtime: out of memory|container init was OOM-killed|unable to set memory limit to \d"
      r"|pytest-dind: \S+ ended with exit code 137"),
     "The daemon ran out of memory, or something else killed it with SIGKILL.",
     "Raise --dind-memory, or run fewer workers at once (-n)."),
    # https://github.com/moby/moby/blob/docker-v29.0.0/daemon/libnetwork/internal/nftables/nft_exec_linux.go
    (r"failed to find nft tool",
     "The daemon is told to use nftables, but its image has no nft.",
     "Take --firewall-backend=nftables out of --dind-daemon-arg and --dind-config, or add nft to the image."),
    # telnetdoogie/synology-docker#43; https://github.com/moby/moby/blob/v26.1.5/libnetwork/iptables/iptables.go [ran]
    (r"\bip(6?)tables (?:not found|is missing)|exec: \\*\"ip(6?)tables\\*\": executable file not found",
     r"The image contains no ip\1\2tables, so the daemon cannot set up its networks.",
     r"Name --dind-image=docker:28-dind, which has it; or do without: --dind-daemon-arg=--ip\1\2tables=false"),
    # moby/moby#49557
    (r"iptables table [`'\"]raw|iptables -(?:-wait -)?t raw ",
     "Engines from 28 on need the iptables table raw to publish ports, and the host's kernel has not loaded it.",
     "On the host: sudo modprobe -a iptable_raw ip6table_raw; or name --dind-image=docker:27-dind."),
    # moby/moby#47895
    (r"ip6tables failed: |ip6tables v[\d.]+ \(|ip6tables table [`'\"]",
     "The host's kernel has not loaded the modules that ip6tables needs.",
     "Add --dind-daemon-arg=--ip6tables=false; or on the host: sudo modprobe -a ip6_tables ip6table_nat"),
    # docker-library/docker#350, docker-library/docker#463, docker-library/docker#486, microsoft/WSL#6655
    (r"iptables table [`'\"]|_(?:ADD|APPEND) failed \(|failed to initialize nft|iptables: operation not supported",
     "The host's kernel has not loaded the modules of the image's iptables: nf_tables, or the older ip_tables.",
     "sudo modprobe -a nf_tables nft_compat ip_tables iptable_nat on the host, or --dind-daemon-arg=--iptables=false"),
    # https://github.com/moby/moby/tree/v26.1.5/libnetwork/ipamutils and v27.0.1/libnetwork/ipams/defaultipam [ran]
    (r"available, non-overlapping IPv4 address pool|predefined address pools have been fully subnetted",
     "The engine has no free subnet left for another network.",
     'docker network prune there, or set "default-address-pools" (--dind-config; host: /etc/docker/daemon.json).'),
    # same place [ran]
    (r"pool overlaps with other one on this address space",
     "The subnet asked for overlaps with a network that the engine already has.",
     "Ask for another subnet, or remove the other network: docker network ls; docker network rm NAME"),
    # containerd/containerd#3144, moby/moby#42171, containerd/containerd#4350, moby/moby#51841 [ran]
    (r"not supported over \w+|(?:failed to mount [^\n]{0,200}overlay|overlay mount)[^\n]*: invalid argument",
     "The data root lies on an overlay file system, and the kernel puts no overlay on top of another.",
     "Leave the data root in its volume (no --data-root); slow last resort: --dind-daemon-arg=--storage-driver=vfs"),
    # https://github.com/moby/moby/blob/v26.1.5/daemon/daemon_unix.go [ran]
    (r"(?:chmod|chown|mkdir|open|write) (/(?!sys/|proc/)[^\s:]+): read-only file system",
     r"\1 in the daemon's container is read-only.",
     r"Remove the read-only --dind-mount over \1, or name an image that can write there with --dind-image."),
)
#: What may follow from something else: counts only where no cause is found.
_SYMPTOMS: tuple[tuple[str, str, str], ...] = (
    # docker/cli#2104 [ran]; with too few file descriptors dockerd says so as well [ran]
    (r"devices cgroup isn't mounted",
     "dockerd finds no devices cgroup: it is too old for the host's cgroup v2, or the host has not mounted it.",
     "Name --dind-image=docker:28-dind; on a cgroup v1 host: sudo apt install cgroupfs-mount, or mount it yourself."),
    # docker-library/docker#195, docker/for-linux#517 [ran]
    (r'timeout waiting for containerd to start|failed to dial "\S*containerd\.sock"',
     "The containerd of the nested daemon did not come up in time.",
     "Run fewer workers at once (-n), or raise --dind-cpus and --dind-memory."),
    # https://github.com/moby/moby/blob/v26.1.5/daemon/graphdriver/driver.go [ran]
    (r"driver not supported",
     "The storage driver is unknown to this dockerd, or does not fit the file system of the data root.",
     "Take --storage-driver out of --dind-daemon-arg and --dind-config, or add --dind-daemon-arg=--storage-driver=vfs"),
)
