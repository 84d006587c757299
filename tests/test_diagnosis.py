# ruff: noqa: E501 - the logs stand here as they came.
"""What stopped a daemon is told from its log; what every healthy start says is not taken for it."""

from __future__ import annotations

import pytest

from pytest_dind.diagnosis import Diagnosis, diagnose

pytestmark = pytest.mark.once

#: Provoked with dockerd 20.10.24, 26.1.5 and 28.5.2 on a cgroup v1 host; lines in between are left out.
PROVOKED = [
    pytest.param(
        """\
docker: Error response from daemon: privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode.
See 'docker run --help'.
""",
        "userns-remap",
        "/etc/docker/daemon.json",
        id="userns-remap",
    ),
    pytest.param(
        """\
docker: Error response from daemon: Unknown runtime specified nope.
See 'docker run --help'.
""",
        "the runtime nope.",
        "--dind-runtime",
        id="unknown-runtime-20.10",
    ),
    pytest.param(
        """\
docker: Error response from daemon: unknown or invalid runtime name: nope.
See 'docker run --help'.
""",
        "the runtime nope.",
        "--dind-runtime",
        id="unknown-runtime-26",
    ),
    pytest.param(
        """\
400 Client Error for http+docker://localhost/v1.45/containers/create: Bad Request ("unknown or invalid runtime name: sysbox-runc")
""",
        "the runtime sysbox-runc.",
        "add sysbox-runc to",
        id="unknown-runtime-docker-py",
    ),
    pytest.param(
        """\
docker: Error response from daemon: invalid mount config for type "bind": bind source path does not exist: /nonexist.
See 'docker run --help'.
""",
        "does not see /nonexist of",
        "DOCKER_HOST",
        id="bind-source-20.10",
    ),
    pytest.param(
        """\
docker: Error response from daemon: invalid mount config for type "bind": bind source path does not exist: /nonexist

Run 'docker run --help' for more information
""",
        "does not see /nonexist of",
        "-v /nonexist:/nonexist",
        id="bind-source-28",
    ),
    pytest.param(
        """\
docker: Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "sh": executable file not found in $PATH: unknown

Run 'docker run --help' for more information
""",
        "no shell",
        "--dind-image",
        id="no-shell-runc",
    ),
    pytest.param(
        """\
[FATAL tini (8)] exec sh failed: No such file or directory
""",
        "no shell",
        "--dind-image",
        id="no-shell-init",
    ),
    pytest.param(
        """\
sh: dockerd: not found
""",
        "no dockerd",
        "--dind-image",
        id="no-dockerd-busybox",
    ),
    pytest.param(
        """\
sh: exec: line 0: dockerd: not found
""",
        "no dockerd",
        "--dind-image",
        id="no-dockerd-busybox-exec",
    ),
    pytest.param(
        """\
sh: 1: dockerd: not found
""",
        "no dockerd",
        "--dind-image",
        id="no-dockerd-dash",
    ),
    pytest.param(
        """\
sh: 1: exec: dockerd: not found
""",
        "no dockerd",
        "--dind-image",
        id="no-dockerd-dash-exec",
    ),
    pytest.param(
        """\
bash: line 1: exec: dockerd: not found
""",
        "no dockerd",
        "--dind-image",
        id="no-dockerd-bash-exec",
    ),
    pytest.param(
        """\
bash: line 1: dockerd: command not found
""",
        "no dockerd",
        "--dind-image",
        id="no-dockerd-bash",
    ),
    pytest.param(
        """\
[FATAL tini (7)] exec dockerd failed: No such file or directory
""",
        "no dockerd",
        "--dind-image",
        id="no-dockerd-init",
    ),
    pytest.param(
        """\
docker: Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "dockerd": executable file not found in $PATH: unknown
""",
        "no dockerd",
        "--dind-image",
        id="no-dockerd-runc",
    ),
    pytest.param(
        """\
pytest-dind: sh: containerd: not found in this image
""",
        "no containerd",
        "--dind-image",
        id="no-containerd-boot",
    ),
    pytest.param(
        """\
Status: unknown flag: --no-such
See 'dockerd --help'., Code: 125
""",
        "the argument --no-such.",
        "--dind-daemon-arg",
        id="unknown-argument-26",
    ),
    pytest.param(
        """\
Status: unknown flag: --no-such
See 'dockerd --help'.

Usage:	dockerd [OPTIONS]
A self-sufficient runtime for containers.

Options:
      --iptables                              Enable addition of iptables
  -s, --storage-driver string                 Storage driver to use
, Code: 125
""",
        "the argument --no-such.",
        "--dind-daemon-arg",
        id="unknown-argument-28",
    ),
    pytest.param(
        """\
Status: unknown shorthand flag: 'y' in -y
See 'dockerd --help'., Code: 125
""",
        "the argument 'y' in -y.",
        "--dind-daemon-arg",
        id="unknown-short-argument",
    ),
    pytest.param(
        """\
unable to configure the Docker daemon with file /etc/docker/daemon.json: the following directives are specified both as a flag and in the configuration file: storage-driver: (from flag: overlay2, from file: vfs)
""",
        '"storage-driver" is set twice',
        '"storage-driver" out of --dind-config',
        id="argument-and-config",
    ),
    pytest.param(
        """\
unable to configure the Docker daemon with file /etc/docker/daemon.json: the following directives don't match any configuration option: nope
""",
        "any configuration option: nope",
        "--dind-config",
        id="unknown-config",
    ),
    pytest.param(
        """\
unable to configure the Docker daemon with file /etc/docker/daemon.json: invalid character '}' looking for beginning of object key string
""",
        "is not valid: invalid character '}'",
        "--dind-config",
        id="broken-config-26",
    ),
    pytest.param(
        """\
unable to configure the Docker daemon with file /etc/docker/daemon.json: invalid JSON: invalid character '}' looking for beginning of object key string
""",
        "is not valid: invalid JSON",
        "--dind-config",
        id="broken-config-28",
    ),
    pytest.param(
        """\
docker: Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: unable to apply cgroup configuration: mkdir /sys/fs/cgroup/cpuset/docker: read-only file system: unknown.
See 'docker run --help'.
""",
        "write to its cgroups",
        "DOCKER_HOST",
        id="cgroup-read-only",
    ),
    pytest.param(
        r"""
time="2026-11-24T03:55:09.412Z" level=error msg="AUFS was not found in /proc/filesystems" storage-driver=aufs
time="2026-11-24T03:55:09.413Z" level=error msg="failed to mount overlay: operation not permitted" storage-driver=overlay
time="2026-11-24T03:55:09.414Z" level=warning msg="Unable to setup quota: operation not permitted\n"
time="2026-11-24T03:55:09.417Z" level=warning msg="Your kernel does not support cgroup blkio weight"
time="2026-11-24T03:55:09.417Z" level=warning msg="Your kernel does not support cgroup blkio weight_device"
time="2026-11-24T03:55:09.417Z" level=info msg="Loading containers: start."
time="2026-11-24T03:55:09.419Z" level=info msg="unable to detect if iptables supports xlock: 'iptables --wait -L -n': `iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)`" error="exit status 4"
failed to start daemon: Error initializing network controller: error obtaining controller instance: failed to create NAT chain DOCKER: iptables failed: iptables -t nat -N DOCKER: iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)
 (exit status 4)
""",
        "not privileged",
        "docker run --privileged",
        id="unprivileged-20.10",
    ),
    pytest.param(
        r"""
time="2026-11-24T03:46:02.605Z" level=info msg="containerd successfully booted in 0.026314s"
time="2026-11-24T03:46:03.583Z" level=error msg="failed to mount overlay: operation not permitted" storage-driver=overlay2
time="2026-11-24T03:46:03.584Z" level=error msg="exec: \"fuse-overlayfs\": executable file not found in $PATH" storage-driver=fuse-overlayfs
time="2026-11-24T03:46:03.584Z" level=warning msg="Unable to setup quota: operation not permitted\n"
time="2026-11-24T03:46:03.585Z" level=info msg="Loading containers: start."
time="2026-11-24T03:46:03.588Z" level=info msg="unable to detect if iptables supports xlock: 'iptables --wait -L -n': `iptables v1.8.11 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)`" error="exit status 4"
failed to start daemon: Error initializing network controller: error obtaining controller instance: failed to register "bridge" driver: failed to create NAT chain DOCKER: iptables failed: iptables -t nat -N DOCKER: iptables v1.8.11 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)
 (exit status 4)
""",
        "not privileged",
        "docker run --privileged",
        id="unprivileged-26",
    ),
    pytest.param(
        r"""
time="2026-11-24T03:56:16.703Z" level=info msg="Creating a containerd client" address=/var/run/docker/containerd/containerd.sock timeout=1m0s
time="2026-11-24T03:56:16.708Z" level=error msg="failed to mount overlay: operation not permitted" storage-driver=overlay2
time="2026-11-24T03:56:16.708Z" level=error msg="exec: \"fuse-overlayfs\": executable file not found in $PATH" storage-driver=fuse-overlayfs
time="2026-11-24T03:56:16.709Z" level=error msg="Failed to GetDriver graph" driver=zfs home-dir=/var/lib/docker
time="2026-11-24T03:56:16.709Z" level=warning msg="Unable to setup quota: operation not permitted\n"
time="2026-11-24T03:56:16.710Z" level=info msg="Loading containers: start."
failed to start daemon: Error initializing network controller: error obtaining controller instance: failed to register "bridge" driver: failed to create NAT chain DOCKER: iptables failed: iptables --wait -t nat -N DOCKER: iptables v1.8.13 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)
 (exit status 4)
""",
        "not privileged",
        "docker run --privileged",
        id="unprivileged-28",
    ),
    pytest.param(
        """\
modprobe: can't change directory to '/lib/modules': No such file or directory
mount: permission denied (are you root?)
Could not mount /sys/kernel/security.
mount: permission denied (are you root?)
""",
        "not privileged",
        "docker run --privileged",
        id="unprivileged-official-image",
    ),
    pytest.param(
        """\
unshare: operation not permitted
""",
        "not privileged",
        "docker run --privileged",
        id="unprivileged-load",
    ),
    pytest.param(
        """\
time="2026-11-24T03:50:34.905Z" level=info msg="starting containerd" revision="1.7.24~ds1-6+deb13u1" version="1.7.24~ds1"
time="2026-11-24T03:50:34.924Z" level=info msg="metadata content store policy set" policy=shared
time="2026-11-24T03:50:44.925Z" level=warning msg="waiting for response from boltdb open" plugin=bolt
time="2026-11-24T03:50:49.889Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
failed to start containerd: timeout waiting for containerd to start
""",
        "Another daemon uses the same data root",
        "--dind-mount",
        id="shared-data-root",
    ),
    pytest.param(
        """\
time="2026-11-24T04:00:42.845Z" level=info msg="Starting up"
time="2026-11-24T04:00:52.837Z" level=warning msg="waiting for response from boltdb open" plugin=bolt
failed to start daemon: failed to dial "/run/pytest-dind/containerd.sock": failed to dial "/run/pytest-dind/containerd.sock": context deadline exceeded
pytest-dind: dockerd ended with exit code 1
""",
        "Another daemon uses the same data root",
        "--dind-mount",
        id="shared-data-root-boot",
    ),
    pytest.param(
        """\
time="2026-11-24T04:00:40.138Z" level=info msg="unable to detect if iptables supports xlock: 'iptables --wait -L -n': ``" error="open /dev/null: too many open files"
time="2026-11-24T04:00:40.139Z" level=info msg="stopping event stream following graceful shutdown" error="<nil>" module=libcontainerd namespace=moby
time="2026-11-24T04:00:40.140Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
failed to start daemon: Error initializing network controller: error obtaining controller instance: failed to register "bridge" driver: failed to create NAT chain DOCKER: iptables failed: iptables -t nat -N DOCKER:  (open /dev/null: too many open files)
pytest-dind: dockerd ended with exit code 1
""",
        "inotify",
        "fs.inotify.max_user_instances=1024",
        id="open-files-26",
    ),
    pytest.param(
        r"""
time="2026-11-24T03:56:56.335Z" level=info msg="CDI directory does not exist, skipping: failed to monitor for changes: no such file or directory" dir=/etc/cdi
time="2026-11-24T03:56:56.335Z" level=warning msg="Failed to run [runc features]: \"\"" error="pipe2: too many open files"
time="2026-11-24T03:56:56.335Z" level=warning msg="Failed to run [runc features]: \"\"" error="pipe2: too many open files"
time="2026-11-24T03:56:56.336Z" level=info msg="Creating a containerd client" address=/var/run/docker/containerd/containerd.sock timeout=1m0s
time="2026-11-24T03:56:56.338Z" level=warning msg="open /proc/thread-self/mountinfo: too many open files"
time="2026-11-24T03:56:56.339Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
time="2026-11-24T03:56:56.339Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
failed to start daemon: Devices cgroup isn't mounted
""",
        "inotify",
        "fs.inotify.max_user_instances=1024",
        id="open-files-28",
    ),
    pytest.param(
        """\
time="2026-11-24T03:55:22.033Z" level=warning msg="failed to load plugin io.containerd.metadata.v1.bolt" error="write /var/lib/docker/containerd/daemon/io.containerd.metadata.v1.bolt/meta.db: no space left on device"
time="2026-11-24T03:55:22.033Z" level=warning msg="failed to load plugin io.containerd.gc.v1.scheduler" error="write /var/lib/docker/containerd/daemon/io.containerd.metadata.v1.bolt/meta.db: no space left on device"
time="2026-11-24T03:55:22.035Z" level=info msg="containerd successfully booted in 0.011819s"
failed to start daemon: failed to dial "/var/run/docker/containerd/containerd.sock": unknown service containerd.services.namespaces.v1.Namespaces: not implemented
""",
        "is full",
        "df -i",
        id="no-space-20.10",
    ),
    pytest.param(
        r"""
time="2026-11-24T04:00:38.125Z" level=warning msg="failed to load plugin io.containerd.grpc.v1.transfer" error="write /var/lib/docker/containerd/daemon/io.containerd.metadata.v1.bolt/meta.db: no space left on device"
time="2026-11-24T04:00:38.125Z" level=warning msg="failed to load plugin io.containerd.internal.v1.restart" error="failed to get \"io.containerd.sandbox.store.v1\" plugin: write /var/lib/docker/containerd/daemon/io.containerd.metadata.v1.bolt/meta.db: no space left on device"
time="2026-11-24T04:00:38.129Z" level=info msg="Starting up"
failed to start daemon: failed to dial "/run/pytest-dind/containerd.sock": unknown service containerd.services.namespaces.v1.Namespaces: not implemented
pytest-dind: dockerd ended with exit code 1
""",
        "is full",
        "df -i",
        id="no-space-26-boot",
    ),
    pytest.param(
        """\
time="2026-11-24T03:56:28.453Z" level=info msg="CDI directory does not exist, skipping: failed to monitor for changes: no such file or directory" dir=/var/run/cdi
time="2026-11-24T03:56:28.462Z" level=info msg="Creating a containerd client" address=/var/run/docker/containerd/containerd.sock timeout=1m0s
time="2026-11-24T03:56:28.463Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
time="2026-11-24T03:56:28.463Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
failed to start daemon: error while opening volume store metadata database (/var/lib/docker/volumes/metadata.db): write /var/lib/docker/volumes/metadata.db: no space left on device
""",
        "is full",
        "df -i",
        id="no-space-28",
    ),
    pytest.param(
        """\
time="2026-11-24T03:55:23.383Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
time="2026-11-24T03:55:23.384Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
failed to start daemon: couldn't create plugin manager: error creating plugin blob store: mkdir /var/lib/docker/plugins/storage: no space left on device
""",
        "in bytes or in inodes",
        "df -i",
        id="no-inodes-20.10",
    ),
    pytest.param(
        """\
time="2026-11-24T03:47:46.428Z" level=info msg="containerd successfully booted in 0.094594s"
time="2026-11-24T03:47:47.334Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
time="2026-11-24T03:47:47.335Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
failed to start daemon: error while opening volume store metadata database (/var/lib/docker/volumes/metadata.db): open /var/lib/docker/volumes/metadata.db: no space left on device
""",
        "in bytes or in inodes",
        "df -i",
        id="no-inodes-26",
    ),
    pytest.param(
        r"""
time="2026-11-24T04:00:38.618Z" level=error msg="mkdir /var/lib/docker/check-overlayfs-support725273993/work: no space left on device" storage-driver=overlay2
time="2026-11-24T04:00:38.618Z" level=error msg="exec: \"fuse-overlayfs\": executable file not found in $PATH" storage-driver=fuse-overlayfs
time="2026-11-24T04:00:38.619Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
failed to start daemon: mkdir /var/lib/docker/image/vfs/layerdb: no space left on device
pytest-dind: dockerd ended with exit code 1
""",
        "in bytes or in inodes",
        "df -i",
        id="no-inodes-boot",
    ),
    pytest.param(
        """\
runtime: g 0 gp=0x3783f60: unknown pc 0x7fd4b853d69c
time="2026-11-24T03:47:49.522Z" level=error msg="containerd did not exit successfully" error="exit status 2" module=libcontainerd
time="2026-11-24T03:47:58.910Z" level=info msg="started new containerd process" address=/var/run/docker/containerd/containerd.sock module=libcontainerd pid=39
runtime/cgo: pthread_create failed: Resource temporarily unavailable
SIGABRT: abort
runtime: g 0 gp=0x3783f60: unknown pc 0x7fcf4848269c
runtime: g 0 gp=0x3783f60: unknown pc 0x7fcf4848269c
time="2026-11-24T03:47:59.130Z" level=error msg="containerd did not exit successfully" error="exit status 2" module=libcontainerd
failed to start containerd: timeout waiting for containerd to start
""",
        "pids limit",
        "--dind-pids",
        id="pids-limit-26",
    ),
    pytest.param(
        """\
runtime/cgo: pthread_create failed: Resource temporarily unavailable
SIGABRT: abort
PC=0x7f0d3a26a69c m=4 sigcode=18446744073709551610
goroutine 0 gp=0xc000003500 m=4 mp=0xc00007d808 [idle]:
gs     0x0
pytest-dind: containerd ended with exit code 2
""",
        "pids limit",
        "--dind-pids",
        id="pids-limit-boot",
    ),
    pytest.param(
        """\
sh: can't fork: Resource temporarily unavailable
""",
        "pids limit",
        "--dind-pids",
        id="pids-limit-busybox",
    ),
    pytest.param(
        """\
sh: 0: Cannot fork
""",
        "pids limit",
        "--dind-pids",
        id="pids-limit-dash",
    ),
    pytest.param(
        """\
time="2026-11-24T04:00:39.204Z" level=info msg="Starting up"
time="2026-11-24T04:00:39.262Z" level=info msg="Loading containers: start."
Killed
pytest-dind: dockerd ended with exit code 137
""",
        "out of memory",
        "--dind-memory",
        id="memory-boot",
    ),
    pytest.param(
        """\
time="2026-11-24T03:55:41.313Z" level=info msg="stopping event stream following graceful shutdown" error="<nil>" module=libcontainerd namespace=moby
time="2026-11-24T03:55:41.313Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
time="2026-11-24T03:55:41.314Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
failed to start daemon: Error initializing network controller: error obtaining controller instance: failed to create NAT chain DOCKER: Iptables not found
""",
        "no iptables",
        "--dind-daemon-arg=--iptables=false",
        id="no-iptables-20.10",
    ),
    pytest.param(
        """\
time="2026-11-24T03:49:26.814Z" level=info msg="stopping event stream following graceful shutdown" error="<nil>" module=libcontainerd namespace=moby
time="2026-11-24T03:49:26.815Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
time="2026-11-24T03:49:26.815Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
failed to start daemon: Error initializing network controller: error obtaining controller instance: failed to register "bridge" driver: failed to create NAT chain DOCKER: iptables not found
""",
        "no iptables",
        "--dind-daemon-arg=--iptables=false",
        id="no-iptables-26",
    ),
    pytest.param(
        """\
time="2026-11-24T03:49:29.162Z" level=info msg="stopping event stream following graceful shutdown" error="<nil>" module=libcontainerd namespace=moby
time="2026-11-24T03:49:29.163Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
time="2026-11-24T03:49:29.163Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
failed to start daemon: Error initializing network controller: error obtaining controller instance: failed to register "bridge" driver: failed to create NAT chain DOCKER: ip6tables is missing
""",
        "no ip6tables",
        "--dind-daemon-arg=--ip6tables=false",
        id="no-ip6tables-26",
    ),
    pytest.param(
        """\
Error response from daemon: could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network
""",
        "no free subnet",
        "docker network prune",
        id="pools-exhausted-26",
    ),
    pytest.param(
        """\
Error response from daemon: all predefined address pools have been fully subnetted
""",
        "no free subnet",
        "default-address-pools",
        id="pools-exhausted-28",
    ),
    pytest.param(
        """\
Error response from daemon: Pool overlaps with other one on this address space
""",
        "overlaps",
        "docker network rm",
        id="pools-overlap-26",
    ),
    pytest.param(
        """\
Error response from daemon: invalid pool request: Pool overlaps with other one on this address space
""",
        "overlaps",
        "docker network rm",
        id="pools-overlap-28",
    ),
    pytest.param(
        """\
time="2026-11-24T03:55:11.164Z" level=error msg="failed to mount overlay: invalid argument" storage-driver=overlay2
time="2026-11-24T03:55:11.164Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
time="2026-11-24T03:55:11.165Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
failed to start daemon: error initializing graphdriver: driver not supported
""",
        "overlay on top of another",
        "--storage-driver=vfs",
        id="overlay-on-overlay-20.10",
    ),
    pytest.param(
        """\
time="2026-11-24T03:46:52.189Z" level=info msg="[graphdriver] trying configured driver: overlay2"
time="2026-11-24T03:46:52.194Z" level=error msg="failed to mount overlay: invalid argument" storage-driver=overlay2
time="2026-11-24T03:46:52.195Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
time="2026-11-24T03:46:52.195Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
failed to start daemon: error initializing graphdriver: driver not supported: overlay2
""",
        "overlay on top of another",
        "--storage-driver=vfs",
        id="overlay-on-overlay-26",
    ),
    pytest.param(
        """\
time="2026-11-24T03:56:18.179Z" level=info msg="[graphdriver] trying configured driver: overlay2"
time="2026-11-24T03:56:18.182Z" level=error msg="failed to mount overlay: invalid argument" storage-driver=overlay2
time="2026-11-24T03:56:18.183Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
time="2026-11-24T03:56:18.183Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
failed to start daemon: error initializing graphdriver: driver not supported: overlay2
""",
        "overlay on top of another",
        "--storage-driver=vfs",
        id="overlay-on-overlay-28",
    ),
    pytest.param(
        """\
docker: Error response from daemon: failed to mount /tmp/containerd-mount3276324485: mount source: "overlay", target: "/tmp/containerd-mount3276324485", fstype: overlay, flags: 0, data: "workdir=/x/containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots/3/work,upperdir=/x/containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots/3/fs,lowerdir=/x/containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs,index=off", err: invalid argument
""",
        "overlay on top of another",
        "--data-root",
        id="overlay-on-overlay-containerd-store",
    ),
    pytest.param(
        """\
time="2026-11-24T03:47:48.793Z" level=info msg="Starting up"
chmod /var/lib/docker: read-only file system
""",
        "/var/lib/docker in the daemon's container is read-only",
        "--dind-mount over /var/lib/docker,",
        id="read-only-data-root",
    ),
    pytest.param(
        """\
containerd: mkdir /var/lib/docker/containerd: read-only file system
pytest-dind: containerd ended with exit code 1
""",
        "/var/lib/docker/containerd in the daemon's container is read-only",
        "--dind-mount",
        id="read-only-data-root-boot",
    ),
    pytest.param(
        """\
time="2026-11-24T03:46:56.835Z" level=info msg="Starting up"
mkdir /var/run/docker: read-only file system
""",
        "/var/run/docker in the daemon's container is read-only",
        "--dind-image",
        id="read-only-container",
    ),
    pytest.param(
        """\
time="2026-11-24T03:55:59.788Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
time="2026-11-24T03:55:59.788Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
failed to start daemon: Devices cgroup isn't mounted
""",
        "devices cgroup",
        "cgroupfs-mount",
        id="no-devices-cgroup-20.10",
    ),
    pytest.param(
        """\
time="2026-11-24T03:50:05.756Z" level=info msg="containerd successfully booted in 0.026270s"
time="2026-11-24T03:50:06.732Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
time="2026-11-24T03:50:06.732Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
failed to start daemon: Devices cgroup isn't mounted
""",
        "devices cgroup",
        "cgroupfs-mount",
        id="no-devices-cgroup-26",
    ),
    pytest.param(
        """\
time="2026-11-24T03:55:20.732Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
time="2026-11-24T03:55:20.732Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
failed to start daemon: error initializing graphdriver: driver not supported
""",
        "storage driver is unknown",
        "--storage-driver",
        id="unknown-driver-20.10",
    ),
    pytest.param(
        """\
time="2026-11-24T03:46:55.267Z" level=info msg="[graphdriver] trying configured driver: nope"
time="2026-11-24T03:46:55.267Z" level=error msg="Failed to GetDriver graph" driver=nope error="graphdriver plugins are only supported with experimental mode" home-dir=/var/lib/docker
time="2026-11-24T03:46:55.271Z" level=info msg="stopping event stream following graceful shutdown" error="context canceled" module=libcontainerd namespace=plugins.moby
time="2026-11-24T03:46:55.271Z" level=info msg="stopping healthcheck following graceful shutdown" module=libcontainerd
failed to start daemon: error initializing graphdriver: driver not supported: nope
""",
        "storage driver is unknown",
        "--storage-driver",
        id="unknown-driver-26",
    ),
]

#: From the threads that pytest_dind/diagnosis.py names; some were put into the line that dockerd wraps around them.
REPORTED = [
    pytest.param(
        """\
docker: Error response from daemon: AppArmor enabled on system but the docker-default profile could not be loaded: running `/usr/sbin/apparmor_parser apparmor_parser -Kr /var/lib/docker/tmp/docker-default4070819680` failed with output: apparmor_parser: Unable to replace "docker-default".  Profile doesn't conform to protocol

error: exit status 185.
""",
        "AppArmor",
        "apparmor_parser",
        id="apparmor-profile",
    ),
    pytest.param(
        """\
INFO[0000] Firewalld running: false
INFO[0000] Default bridge (docker0) is assigned with an IP address 172.17.0.0/16.
FATA[0000] Error starting daemon: AppArmor enabled on system but the docker-default profile could not be loaded.
""",
        "AppArmor",
        "apparmor_parser",
        id="apparmor-at-start",
    ),
    pytest.param(
        """\
docker: Error response from daemon: authorization denied by plugin customauth: [DOCKER FIREWALL] Specified Privileged option value is Disallowed.
See 'docker run --help'.
""",
        "plugin customauth",
        "Let customauth allow",
        id="authorization-plugin",
    ),
    pytest.param(
        """\
docker: Error response from daemon: OCI runtime create failed: container_linux.go:349: starting container process caused "apply caps: operation not permitted": unknown.
""",
        "cannot grant",
        "DOCKER_HOST",
        id="no-capabilities",
    ),
    pytest.param(
        """\
docker: Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: can't get final child's PID from pipe: EOF: unknown.
""",
        "rootless",
        "DOCKER_HOST",
        id="rootless-host-pid-pipe",
    ),
    pytest.param(
        r"""
docker: Error response from daemon: OCI runtime create failed: container_linux.go:345: starting container process caused "process_linux.go:303: getting the final child's pid from pipe caused \"EOF\"": unknown.
""",
        "rootless",
        "DOCKER_HOST",
        id="rootless-host-pid-pipe-19.03",
    ),
    pytest.param(
        r"""
OCI runtime create failed: container_linux.go:348: starting container process caused "exec: \"/bin/sh\": stat /bin/sh: no such file or directory": unknown
""",
        "no shell",
        "--dind-image",
        id="no-shell-stat",
    ),
    pytest.param(
        """\
docker: Error response from daemon: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: unable to apply cgroup configuration: cannot enter cgroupv2 "/sys/fs/cgroup/docker" with domain controllers -- it is in an invalid state: unknown.
""",
        "cgroup v2",
        "--dind-image",
        id="cgroup2-invalid-state",
    ),
    pytest.param(
        """\
docker: Error response from daemon: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: unable to apply cgroup configuration: cannot enter cgroupv2 "/sys/fs/cgroup/docker" with domain controllers -- it is in threaded mode: unknown.
""",
        "cgroup v2",
        "--dind-image",
        id="cgroup2-threaded-mode",
    ),
    pytest.param(
        """\
/certs/client/cert.pem: OK
sed: write error
""",
        "cgroup v2",
        "--dind-image",
        id="cgroup2-wrapper-race",
    ),
    pytest.param(
        """\
time="2021-05-26T11:55:11.408302913+02:00" level=warning msg="failed to cleanup netns" name=containerd-shim-v2
time="2021-05-26T11:56:35.54570016+02:00" level=error msg="container create failed" error="Could not create cgroup for /default/kata_test-kata: cgroups: cgroup mountpoint does not exist" name=containerd-shim-v2
""",
        "cgroup hierarchy",
        "mount -t cgroup",
        id="no-cgroup-mountpoint",
    ),
    pytest.param(
        """\
docker: Error response from daemon: cgroups: cannot find cgroup mount destination: unknown.
""",
        "cgroup hierarchy",
        "mount -t cgroup",
        id="no-cgroup-destination",
    ),
    pytest.param(
        """\
docker: Error response from daemon: cgroups: cannot found cgroup mount destination: unknown.
""",
        "cgroup hierarchy",
        "mount -t cgroup",
        id="no-cgroup-destination-17.12",
    ),
    pytest.param(
        """\
mkdir: can't create directory '/sys/fs/cgroup/init': Permission denied
""",
        "write to its cgroups",
        "DOCKER_HOST",
        id="cgroup-mkdir-denied",
    ),
    pytest.param(
        """\
mkdir: can't create directory '/sys/fs/cgroup/init': Read-only file system
""",
        "write to its cgroups",
        "DOCKER_HOST",
        id="cgroup-mkdir-read-only",
    ),
    pytest.param(
        """\
INFO[0000] containerd successfully booted in 0.004178s   module=containerd
INFO[2018-04-05T20:17:41.760459158+02:00] [graphdriver] using prior storage driver: aufs
Error starting daemon: error while opening volume store metadata database: timeout
""",
        "Another daemon",
        "--dind-mount",
        id="volume-store-locked",
    ),
    pytest.param(
        """\
time="2023-05-02T06:36:05.833422717Z" level=info msg="Starting up"
panic: invalid page type: 11: 10
""",
        "damaged",
        "docker ps --filter volume=",
        id="damaged-database",
    ),
    pytest.param(
        """\
failed to create fsnotify watcher: too many open files
""",
        "inotify",
        "fs.inotify.max_user_instances=1024",
        id="inotify-instances",
    ),
    pytest.param(
        """\
inotify_add_watch /sys/fs/cgroup/cpu,cpuacct/docker: no space left on device
""",
        "inotify",
        "fs.inotify.max_user_watches=524288",
        id="inotify-watches",
    ),
    pytest.param(
        """\
failed to start containerd: fork/exec /usr/bin/containerd: resource temporarily unavailable
""",
        "pids limit",
        "--dind-pids",
        id="fork-exec",
    ),
    pytest.param(
        """\
Error starting daemon: Error initializing network controller: fork/exec /usr/sbin/iptables: cannot allocate memory
""",
        "out of memory",
        "--dind-memory",
        id="fork-memory",
    ),
    pytest.param(
        """\
failed to start daemon: Error initializing network controller: error obtaining controller instance: failed to register "bridge" driver: failed to find nft tool: exec: "nft": executable file not found in $PATH
""",
        "no nft",
        "--firewall-backend=nftables",
        id="no-nft",
    ),
    pytest.param(
        """\
docker: Error response from daemon: failed to set up container networking: driver failed programming external connectivity on endpoint 1Panel-mysql-m1f5: Unable to enable LOOPBACK FILTERING - DROP rule: (iptables failed: iptables --wait -t raw -A PREROUTING -p tcp -d 127.0.0.1 --dport 3306 ! -i lo -j DROP: iptables v1.8.4 (legacy): can't initialize iptables table `raw': Table does not exist (do you need to insmod?) Perhaps iptables or your kernel needs to be upgraded. (exit status 3))
""",
        "table raw",
        "modprobe -a iptable_raw",
        id="iptables-raw",
    ),
    pytest.param(
        """\
failed to start daemon: Error initializing network controller: error obtaining controller instance: failed to register "bridge" driver: failed to create NAT chain DOCKER: iptables failed: ip6tables --wait -t nat -N DOCKER: modprobe: can't change directory to '/lib/modules': No such file or directory
ip6tables v1.8.10 (legacy): can't initialize ip6tables table `nat': Table does not exist (do you need to insmod?)
Perhaps ip6tables or your kernel needs to be upgraded.
 (exit status 3)
""",
        "ip6tables",
        "--ip6tables=false",
        id="ip6tables-nat",
    ),
    pytest.param(
        """\
failed to start daemon: Error initializing network controller: error obtaining controller instance: failed to create NAT chain DOCKER: iptables failed: iptables -t nat -N DOCKER: modprobe: can't change directory to '/lib/modules': No such file or directory
iptables v1.8.7 (legacy): can't initialize iptables table `nat': Table does not exist (do you need to insmod?)
Perhaps iptables or your kernel needs to be upgraded.
 (exit status 3)
""",
        "modules of the image's iptables",
        "modprobe -a nf_tables",
        id="iptables-nat-legacy",
    ),
    pytest.param(
        """\
failed to start daemon: Error initializing network controller: error obtaining controller instance: failed to register "bridge" driver: failed to create NAT chain DOCKER: iptables failed: iptables --wait -t nat -N DOCKER: iptables v1.8.10 (nf_tables): TABLE_ADD failed (Not supported): table nat
 (exit status 4)
""",
        "modules of the image's iptables",
        "modprobe -a nf_tables",
        id="iptables-table-add",
    ),
    pytest.param(
        """\
failed to start daemon: Error initializing network controller: error obtaining controller instance: unable to add return rule in DOCKER-ISOLATION-STAGE-1 chain:  (iptables failed: iptables --wait -A DOCKER-ISOLATION-STAGE-1 -j RETURN: iptables v1.8.7 (nf_tables):  RULE_APPEND failed (No such file or directory): rule in chain DOCKER-ISOLATION-STAGE-1
 (exit status 4))
""",
        "modules of the image's iptables",
        "--iptables=false",
        id="iptables-rule-append",
    ),
    pytest.param(
        """\
failed to start daemon: Error initializing network controller: error obtaining controller instance: failed to create NAT chain DOCKER: iptables failed: iptables -t nat -N DOCKER: iptables: Failed to initialize nft: Protocol not supported
 (exit status 1)
""",
        "modules of the image's iptables",
        "--iptables=false",
        id="iptables-nft-protocol",
    ),
    pytest.param(
        """\
time="2019-03-29T08:11:20.103Z" level=error msg="'overlay2' is not supported over overlayfs" storage-driver=overlay2
failed to start daemon: error initializing graphdriver: driver not supported
""",
        "overlay on top of another",
        "--storage-driver=vfs",
        id="overlay-over-overlayfs",
    ),
    pytest.param(
        """\
docker: Error response from daemon: error creating overlay mount to /var/lib/docker/overlay2/1a501aab5208707a74ed2f8005f996bbddefe1d618b21f36bc47b8b25a1c2bfe-init/merged: invalid argument.
""",
        "overlay on top of another",
        "--data-root",
        id="overlay-at-run",
    ),
    pytest.param(
        """\
time="2019-10-23T01:41:41.626767272Z" level=info msg="Starting up"
time="2019-10-23T01:41:41.627847760Z" level=warning msg="could not change group /var/run/docker.sock to docker: group docker not found"
time="2019-10-23T01:41:41.630761059Z" level=info msg="libcontainerd: containerd is still running" pid=52
failed to start containerd: timeout waiting for containerd to start
""",
        "containerd of the nested daemon",
        "--dind-cpus",
        id="containerd-timeout",
    ),
    pytest.param(
        """\
Failed to connect to containerd: failed to dial "/var/run/docker/containerd/docker-containerd.sock": context deadline exceeded
""",
        "containerd of the nested daemon",
        "--dind-cpus",
        id="containerd-dial",
    ),
]

#: What a daemon says that comes up; two had to take vfs, because their data root lay on overlay.
HEALTHY = [
    pytest.param(
        r"""
time="2026-11-24T03:55:02.350Z" level=info msg="Starting up"
time="2026-11-24T03:55:02Z" level=warning msg="containerd config version `1` has been deprecated and will be removed in containerd v2.0, please switch to version `2`, see https://github.com/containerd/containerd/blob/main/docs/PLUGINS.md#version-header"
time="2026-11-24T03:55:02.673Z" level=info msg="skip loading plugin \"io.containerd.snapshotter.v1.aufs\"..." error="aufs is not supported (modprobe aufs failed: exit status 1 \"modprobe: FATAL: Module aufs not found in directory /lib/modules/6.18.44-fc-v669\\n\"): skip plugin" type=io.containerd.snapshotter.v1
time="2026-11-24T03:55:02.673Z" level=info msg="skip loading plugin \"io.containerd.snapshotter.v1.btrfs\"..." error="path /var/lib/docker/containerd/daemon/io.containerd.snapshotter.v1.btrfs (ext4) must be a btrfs filesystem to be used with the btrfs snapshotter: skip plugin" type=io.containerd.snapshotter.v1
time="2026-11-24T03:55:02.673Z" level=warning msg="failed to load plugin io.containerd.snapshotter.v1.devmapper" error="devmapper not configured"
time="2026-11-24T03:55:02.674Z" level=warning msg="could not use snapshotter devmapper in metadata plugin" error="devmapper not configured"
time="2026-11-24T03:55:02.679Z" level=info msg="containerd successfully booted in 0.029607s"
time="2026-11-24T03:55:02.719Z" level=warning msg="Your kernel does not support cgroup blkio weight"
time="2026-11-24T03:55:02.719Z" level=warning msg="Your kernel does not support cgroup blkio weight_device"
time="2026-11-24T03:55:02.719Z" level=info msg="Loading containers: start."
time="2026-11-24T03:55:02.911Z" level=info msg="Loading containers: done."
time="2026-11-24T03:55:02.929Z" level=info msg="Docker daemon" commit=5d6db84 graphdriver(s)=overlay2 version=20.10.24+dfsg1
time="2026-11-24T03:55:02.929Z" level=info msg="Daemon has completed initialization"
time="2026-11-24T03:55:02.939Z" level=info msg="API listen on /var/run/docker.sock"
time="2026-11-24T03:55:07.813Z" level=info msg="Daemon shutdown complete"
""",
        id="20.10",
    ),
    pytest.param(
        r"""
time="2026-11-24T03:45:53.403Z" level=info msg="Starting up"
time="2026-11-24T03:45:53.462Z" level=info msg="skip loading plugin \"io.containerd.snapshotter.v1.btrfs\"..." error="path /var/lib/docker/containerd/daemon/io.containerd.snapshotter.v1.btrfs (ext4) must be a btrfs filesystem to be used with the btrfs snapshotter: skip plugin" type=io.containerd.snapshotter.v1
time="2026-11-24T03:45:53.471Z" level=info msg="skip loading plugin \"io.containerd.snapshotter.v1.aufs\"..." error="aufs is not supported (modprobe aufs failed: exit status 1 \"modprobe: FATAL: Module aufs not found in directory /lib/modules/6.18.44-fc-v669\\n\"): skip plugin" type=io.containerd.snapshotter.v1
time="2026-11-24T03:45:53.477Z" level=info msg="containerd successfully booted in 0.028028s"
time="2026-11-24T03:45:54.446Z" level=info msg="Loading containers: start."
time="2026-11-24T03:45:54.592Z" level=info msg="Loading containers: done."
time="2026-11-24T03:45:54.601Z" level=info msg="Docker daemon" commit=411e817 containerd-snapshotter=false storage-driver=overlay2 version=26.1.5+dfsg1
time="2026-11-24T03:45:54.601Z" level=info msg="Daemon has completed initialization"
time="2026-11-24T03:45:54.610Z" level=info msg="API listen on /var/run/docker.sock"
time="2026-11-24T03:46:01.155Z" level=info msg="Daemon shutdown complete"
""",
        id="26",
    ),
    pytest.param(
        """\
time="2026-11-24T03:56:08.516Z" level=info msg="Starting up"
time="2026-11-24T03:56:08.571Z" level=warning msg="Configuration migrated from version 2, use `containerd config migrate` to avoid migration" t="3.245µs"
time="2026-11-24T03:56:08.573Z" level=info msg="skip loading plugin" error="path /var/lib/docker/containerd/daemon/io.containerd.snapshotter.v1.btrfs (ext4) must be a btrfs filesystem to be used with the btrfs snapshotter: skip plugin" id=io.containerd.snapshotter.v1.btrfs type=io.containerd.snapshotter.v1
time="2026-11-24T03:56:08.582Z" level=info msg="containerd successfully booted in 0.016913s"
time="2026-11-24T03:56:08.616Z" level=info msg="Loading containers: start."
time="2026-11-24T03:56:08.784Z" level=info msg="Loading containers: done."
time="2026-11-24T03:56:08.795Z" level=info msg="Docker daemon" commit=3ef3c07c883be49a2e8097bcf6d2952fce1d70eb containerd-snapshotter=false storage-driver=overlay2 version=28.5.2+dfsg4
time="2026-11-24T03:56:08.806Z" level=info msg="Daemon has completed initialization"
time="2026-11-24T03:56:08.806Z" level=info msg="API listen on /var/run/docker.sock"
time="2026-11-24T03:56:15.263Z" level=info msg="Daemon shutdown complete"
""",
        id="28",
    ),
    pytest.param(
        r"""
time="2026-11-24T03:54:10.555Z" level=info msg="Starting up"
time="2026-11-24T03:54:10.589Z" level=info msg="skip loading plugin \"io.containerd.snapshotter.v1.btrfs\"..." error="path /var/lib/docker/containerd/daemon/io.containerd.snapshotter.v1.btrfs (ext4) must be a btrfs filesystem to be used with the btrfs snapshotter: skip plugin" type=io.containerd.snapshotter.v1
time="2026-11-24T03:54:10.595Z" level=info msg="skip loading plugin \"io.containerd.snapshotter.v1.aufs\"..." error="aufs is not supported (modprobe aufs failed: exit status 1 \"modprobe: can't change directory to '/lib/modules': No such file or directory\\n\"): skip plugin" type=io.containerd.snapshotter.v1
time="2026-11-24T03:54:10.601Z" level=info msg="containerd successfully booted in 0.025882s"
time="2026-11-24T03:54:11.635Z" level=info msg="Loading containers: start."
time="2026-11-24T03:54:11.755Z" level=info msg="Loading containers: done."
time="2026-11-24T03:54:11.771Z" level=info msg="Docker daemon" commit=411e817 containerd-snapshotter=false storage-driver=overlay2 version=26.1.5+dfsg1
time="2026-11-24T03:54:11.771Z" level=info msg="Daemon has completed initialization"
time="2026-11-24T03:54:11.782Z" level=info msg="API listen on /var/run/docker.sock"
""",
        id="26-official-image",
    ),
    pytest.param(
        """\
time="2026-11-24T04:00:32.849Z" level=info msg="Starting up"
time="2026-11-24T04:00:32.884Z" level=info msg="Loading containers: start."
time="2026-11-24T04:00:33.008Z" level=info msg="Loading containers: done."
time="2026-11-24T04:00:33.021Z" level=info msg="Docker daemon" commit=411e817 containerd-snapshotter=false storage-driver=overlay2 version=26.1.5+dfsg1
time="2026-11-24T04:00:33.021Z" level=info msg="Daemon has completed initialization"
time="2026-11-24T04:00:33.043Z" level=info msg="API listen on /var/run/docker.sock"
time="2026-11-24T04:00:33.043Z" level=info msg="API listen on /run/docker.sock"
""",
        id="26-boot",
    ),
    pytest.param(
        r"""
time="2026-11-24T03:46:04.941Z" level=info msg="Starting up"
time="2026-11-24T03:46:04.968Z" level=info msg="skip loading plugin \"io.containerd.snapshotter.v1.btrfs\"..." error="path /x/containerd/daemon/io.containerd.snapshotter.v1.btrfs (overlay) must be a btrfs filesystem to be used with the btrfs snapshotter: skip plugin" type=io.containerd.snapshotter.v1
time="2026-11-24T03:46:04.972Z" level=info msg="skip loading plugin \"io.containerd.snapshotter.v1.aufs\"..." error="aufs is not supported (modprobe aufs failed: exit status 1 \"modprobe: FATAL: Module aufs not found in directory /lib/modules/6.18.44-fc-v669\\n\"): skip plugin" type=io.containerd.snapshotter.v1
time="2026-11-24T03:46:04.977Z" level=info msg="containerd successfully booted in 0.020300s"
time="2026-11-24T03:46:05.961Z" level=error msg="failed to mount overlay: invalid argument" storage-driver=overlay2
time="2026-11-24T03:46:05.961Z" level=error msg="exec: \"fuse-overlayfs\": executable file not found in $PATH" storage-driver=fuse-overlayfs
time="2026-11-24T03:46:05.963Z" level=info msg="Loading containers: start."
time="2026-11-24T03:46:06.084Z" level=info msg="Loading containers: done."
time="2026-11-24T03:46:06.090Z" level=info msg="Docker daemon" commit=411e817 containerd-snapshotter=false storage-driver=vfs version=26.1.5+dfsg1
time="2026-11-24T03:46:06.090Z" level=info msg="Daemon has completed initialization"
time="2026-11-24T03:46:06.101Z" level=info msg="API listen on /var/run/docker.sock"
time="2026-11-24T03:46:49.735Z" level=info msg="Daemon shutdown complete"
""",
        id="26-vfs-after-overlay",
    ),
    pytest.param(
        r"""
time="2026-11-24T03:56:19.520Z" level=info msg="Starting up"
time="2026-11-24T03:56:19.541Z" level=warning msg="Configuration migrated from version 2, use `containerd config migrate` to avoid migration" t="2.804µs"
time="2026-11-24T03:56:19.543Z" level=info msg="skip loading plugin" error="path /x/containerd/daemon/io.containerd.snapshotter.v1.btrfs (overlay) must be a btrfs filesystem to be used with the btrfs snapshotter: skip plugin" id=io.containerd.snapshotter.v1.btrfs type=io.containerd.snapshotter.v1
time="2026-11-24T03:56:19.550Z" level=info msg="containerd successfully booted in 0.014829s"
time="2026-11-24T03:56:19.575Z" level=error msg="failed to mount overlay: invalid argument" storage-driver=overlay2
time="2026-11-24T03:56:19.575Z" level=error msg="exec: \"fuse-overlayfs\": executable file not found in $PATH" storage-driver=fuse-overlayfs
time="2026-11-24T03:56:19.575Z" level=error msg="Failed to GetDriver graph" driver=zfs home-dir=/x
time="2026-11-24T03:56:19.577Z" level=info msg="Loading containers: start."
time="2026-11-24T03:56:19.758Z" level=info msg="Loading containers: done."
time="2026-11-24T03:56:19.770Z" level=info msg="Docker daemon" commit=3ef3c07c883be49a2e8097bcf6d2952fce1d70eb containerd-snapshotter=false storage-driver=vfs version=28.5.2+dfsg4
time="2026-11-24T03:56:19.798Z" level=info msg="Daemon has completed initialization"
time="2026-11-24T03:56:19.798Z" level=info msg="API listen on /var/run/docker.sock"
time="2026-11-24T03:56:25.495Z" level=info msg="Daemon shutdown complete"
""",
        id="28-vfs-after-overlay",
    ),
]


@pytest.mark.parametrize(("log", "cause", "cure"), PROVOKED + REPORTED)
def test_known_failure_is_explained(log: str, cause: str, cure: str) -> None:
    found = diagnose(log)
    assert found is not None
    assert cause in found.cause
    assert cure in found.cure


@pytest.mark.parametrize("log", HEALTHY)
def test_healthy_log_has_no_diagnosis(log: str) -> None:
    assert diagnose(log) is None


@pytest.mark.parametrize("log", [param for param in HEALTHY if "vfs" not in str(param.id)])
def test_healthy_log_has_no_diagnosis_however_early_it_is_read(log: str) -> None:
    lines = log.splitlines()
    for end in range(len(lines)):
        assert diagnose("\n".join(lines[:end])) is None, lines[end - 1]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("cat: can't open '/proc/net/arp_tables_names': No such file or directory", id="arp-tables"),
        pytest.param("modprobe: can't change directory to '/lib/modules': No such file or directory", id="modprobe"),
        pytest.param("Could not mount /sys/kernel/security.", id="securityfs"),
        pytest.param(
            'time="2024-07-02T09:14:27.718Z" level=warning msg="ip6tables is enabled, but cannot set up ip6tables chains" error="failed to create NAT chain DOCKER: iptables failed: ip6tables --wait -t nat -N DOCKER: ip6tables v1.8.10 (nf_tables): Could not fetch rule set generation id: Invalid argument"',
            id="ip6tables",
        ),
        pytest.param(
            'time="2021-03-19T15:02:24.741Z" level=error msg="AUFS was not found in /proc/filesystems" storage-driver=aufs',
            id="aufs",
        ),
        pytest.param(
            'time="2023-02-11T10:00:00.101Z" level=warning msg="Your kernel does not support swap memory limit"',
            id="swap",
        ),
        pytest.param(
            'time="2026-11-24T03:57:10.729Z" level=warning msg="git source cannot be enabled: failed to find git binary: exec: \\"git\\": executable file not found in $PATH"',
            id="buildkit-git",
        ),
        pytest.param(
            'time="2026-11-24T03:51:30.540Z" level=warning msg="unable to disable IPv6 router advertisement" error="open /proc/sys/net/ipv6/conf/docker0/accept_ra: read-only file system"',
            id="read-only-proc",
        ),
        pytest.param(
            'time="2026-11-24T03:51:31.125Z" level=error msg="Handler for POST /v1.45/networks/create returned error: Pool overlaps with other one on this address space"',
            id="answer-to-a-test",
        ),
    ],
)
def test_harmless_line_has_no_diagnosis(line: str) -> None:
    assert diagnose(line) is None


STARTING = 'time="2026-11-24T03:46:51.194Z" level=info msg="Starting up"\n'
NO_OVERLAY = 'time="2026-11-24T03:46:52.194Z" level=error msg="failed to mount overlay: invalid argument" storage-driver=overlay2\n'
LOADING = 'time="2026-11-24T03:46:52.201Z" level=info msg="Loading containers: start."\n'
READY = 'time="2026-11-24T03:46:52.313Z" level=info msg="Daemon has completed initialization"\n'
NO_IPTABLES = "failed to start daemon: Error initializing network controller: failed to create NAT chain DOCKER: iptables not found\n"


def explain(*lines: str) -> Diagnosis:
    found = diagnose("".join(lines))
    assert found is not None
    return found


def test_fatal_line_wins_over_an_earlier_error() -> None:
    assert "no iptables" in explain(STARTING, NO_OVERLAY, NO_IPTABLES).cause


def test_fatal_line_nobody_knows_is_not_explained_by_an_earlier_error() -> None:
    fatal = "failed to start daemon: Error initializing network controller: invalid CIDR address: 300.1.1.1/24\n"
    assert diagnose(STARTING + NO_OVERLAY + fatal) is None


def test_fatal_line_that_only_follows_from_an_error_yields_to_it() -> None:
    fatal = "failed to start daemon: error initializing graphdriver: driver not supported: overlay2\n"
    assert "overlay on top of another" in explain(STARTING, NO_OVERLAY, fatal).cause
    assert "storage driver is unknown" in explain(STARTING, fatal).cause


def test_error_is_forgotten_once_the_daemon_has_got_past_it() -> None:
    assert "overlay on top of another" in explain(STARTING, NO_OVERLAY).cause
    assert diagnose(STARTING + NO_OVERLAY + LOADING) is None


def test_daemon_that_was_ready_and_died_is_explained_by_what_came_after() -> None:
    died = "Killed\npytest-dind: dockerd ended with exit code 137\n"
    assert "out of memory" in explain(STARTING, NO_OVERLAY, LOADING, READY, died).cause


def test_last_of_two_errors_wins() -> None:
    full = 'time="2026-11-24T03:46:52.300Z" level=error msg="mkdir /var/lib/docker/image: no space left on device"\n'
    assert "is full" in explain(NO_OVERLAY, full).cause
    assert "overlay on top of another" in explain(full, NO_OVERLAY).cause


def test_warning_counts_only_without_an_error() -> None:
    warning = 'time="2026-11-24T03:49:38.721Z" level=warning msg="Failed to run [runc features]" error="pipe2: too many open files"\n'
    assert "inotify" in explain(STARTING, warning).cause
    assert "overlay on top of another" in explain(STARTING, NO_OVERLAY, warning).cause


def test_log_in_json_is_read_alike() -> None:
    noise = (
        '{"level":"info","msg":"unable to detect if iptables supports xlock: Permission denied (you must be root)"}\n'
    )
    assert diagnose(noise) is None
    assert (
        "is full"
        in explain(noise, '{"level":"error","msg":"write /var/lib/docker/x: no space left on device"}\n').cause
    )


def test_empty_log_has_no_diagnosis() -> None:
    assert diagnose("") is None
