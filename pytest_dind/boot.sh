# The entrypoint of every daemon's container, under the host engine's init. POSIX sh: dash, ash, bash.
#   $1 daemon.json, or empty          $2 the daemon's directory, gone when this ends
#   $3 UID:GID of an owner that is not root, or empty      $4… arguments for dockerd
set -u
config=$1 directory=$2 owner=$3
shift 3
state=/run/pytest-dind

for tool in containerd dockerd; do
    command -v "$tool" >/dev/null || { echo "pytest-dind: sh: $tool: not found in this image" >&2; exit 127; }
done

# cgroup v2 lets a group with processes of its own pass no controllers on: move everything into a child group first.
# Before anything else forks; the official image's wrapper does the same and races with what forks meanwhile.
cgroup=/sys/fs/cgroup
if [ -f $cgroup/cgroup.controllers ]; then
    {
        mkdir -p $cgroup/init
        for pid in $(cat $cgroup/cgroup.procs); do echo "$pid" >$cgroup/init/cgroup.procs; done
        for name in $(cat $cgroup/cgroup.controllers); do echo "+$name" >$cgroup/cgroup.subtree_control; done
    } 2>/dev/null
fi

# On cgroup v1 what is frozen, as a paused container is, does not even die of SIGKILL, and nor would this container.
thaw() {
    [ ! -d $cgroup/freezer ] || find $cgroup/freezer -name freezer.state | while read -r state; do
        echo THAWED >"$state"
    done 2>/dev/null
}

# What is left to do when all ends: the owner may be dead.
finish() {
    thaw
    own=$(cat $state/own 2>/dev/null)
    if [ -n "$owner" ] && [ -n "$own" ]; then
        find "$own" -xdev ! -user "${owner%%:*}" -exec chown -h "$owner" {} +
    fi
    rm -rf "$directory"
}

# Whatever ends first ends the container: a daemon without its containerd would hang and not fail.
run() {
    "$@"
    echo "pytest-dind: $1 ended with exit code $?" >&2
    finish
    kill -KILL $$
}

# containerd of its own, beside dockerd: one that dockerd starts costs a second, since its first call comes too early
# and is tried again a second later. Its data lies where dockerd's own would, so in the volume.
mkdir -p $state /etc/docker
cat >$state/containerd.toml <<TOML
version = 2
root = "/var/lib/docker/containerd/daemon"
state = "$state/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
    "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "$state/containerd.sock"
TOML
run containerd --config $state/containerd.toml --log-level warn &

[ -z "$config" ] || printf '%s' "$config" >$state/daemon.json
[ -z "$config" ] || set -- --config-file=$state/daemon.json "$@"
set -- dockerd --containerd=$state/containerd.sock \
    --host="unix://$directory/docker.sock" --host=unix:///var/run/docker.sock "$@"
if command -v dockerd-entrypoint.sh >/dev/null; then
    run dockerd-entrypoint.sh "$@" &
else
    mount --make-rshared / 2>/dev/null
    run "$@" &
fi

# The lifeline: the owner holds this stream open for as long as the daemon is to live.
while IFS= read -r line; do
    case $line in
    keep) wait ;; # outlive the owner, until somebody stops the container
    "own "*) printf '%s' "${line#own }" >$state/own ;; # a directory of the owner's; containers leave root's files there
    esac
done

kill -KILL -1
finish
