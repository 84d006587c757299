# The entrypoint of every daemon's container, under the host engine's init. POSIX sh: dash, ash, bash.
#   $1 daemon.json, or empty          $2 the daemon's directory, gone when this ends; empty if it is reached over TLS
#   $3 UID:GID of an owner that is not root, or empty      $4 dockerd's flags that network.sh decides on
#   $5… arguments for dockerd
set -u
config=$1 directory=$2 owner=$3 undecided=$4
shift 4
state=/run/pytest-dind
data=/var/lib/docker
root=containerd/daemon # containerd's data, in the data directory
store=/pytest-dind-store

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
    [ -z "$directory" ] || rm -rf "$directory"
}

# run NAME COMMAND…: whatever ends first ends the container; a daemon without its containerd would hang and not fail.
run() {
    name=$1
    shift
    "$@" &
    echo $! >$state/"$name"-pid # docker:dind's entrypoint deletes docker*.pid
    wait $!
    code=$?
    [ ! -f $state/closing ] || return "$code"
    echo "pytest-dind: $name ended with exit code $code" >&2
    finish
    kill -KILL $$
}

# Images out of a store (see store.py): small files, and links that lead into it. What cannot be taken over as a whole is
# not taken over at all; whoever asked for the images looks whether they are there.
snapshotter=$root/io.containerd.snapshotter.v1.overlayfs
content=$root/io.containerd.content.v1.content/blobs/sha256

# summary DIRECTORY: its files with their contents, and its links, in one line.
summary() {
    (cd "$1" && { find . -type f -exec cksum {} +; find . -type l; } | LC_ALL=C sort | cksum)
}

# Not whole would be missed only when a container is to read a layer, or never: the images' names may all be there.
whole() {
    if [ "$(summary $store/adopt)" != "$(cat $store/sealed)" ]; then
        echo "pytest-dind: the image store is not what was sealed" >&2
        return 1
    fi
    for link in $store/adopt/overlay2/*/diff $store/adopt/$snapshotter/snapshots/*/fs $store/adopt/$content/*; do
        if [ -L "$link" ] && [ ! -e "$link" ]; then
            echo "pytest-dind: the image store has lost $link" >&2
            return 1
        fi
    done
}

adopt() {
    [ -d $store/adopt ] || return 0
    whole && cp -a $store/adopt/. $data/ && return
    echo "pytest-dind: the image store cannot be adopted" >&2
    for part in $store/adopt/*; do rm -rf "${data:?}/${part##*/}"; done
}

# seal DRIVER: makes, in the data of daemons that have ended, what others adopt: the files that those write to, as they
# are, and for the content of each layer, which is only read, a link to where the store will be mounted.
seal() {
    cd $data
    rm -rf adopt
    mkdir adopt
    case $1 in
    overlay2)
        cp -a image adopt/
        rm -rf adopt/image/overlay2/layerdb/tmp adopt/image/overlay2/layerdb/mounts
        seal_layers overlay2 diff
        cp -a overlay2/l adopt/overlay2/
        # By this file dockerd knows a layer that is only read; it makes it when the first container or layer is on top.
        for layer in adopt/overlay2/*/link; do
            [ ! -e "$layer" ] || : >"${layer%link}committed"
        done
        ;;
    overlayfs)
        metadata=$root/io.containerd.metadata.v1.bolt
        mkdir -p adopt/$metadata adopt/$content
        cp -a $metadata/meta.db adopt/$metadata/
        seal_layers $snapshotter/snapshots fs
        cp -a $snapshotter/metadata.db adopt/$snapshotter/
        for blob in $content/*; do ln -s "$store/$blob" "adopt/$blob"; done
        ;;
    *) return 1 ;;
    esac
    summary adopt >sealed
    # Before it counts as complete, which the engine writes down at once: this machine may lose its power.
    sync
}

# seal_layers DIRECTORY CONTENT: for each layer in DIRECTORY its small files and a link to CONTENT; no place to work in,
# which only what is written to needs. Each file less counts: on ext4 without a journal, making one takes 0.2 ms for
# minutes after many were deleted (recently_deleted in https://github.com/torvalds/linux/blob/v6.12/fs/ext4/ialloc.c).
seal_layers() {
    mkdir -p "adopt/$1"
    for layer in "$1"/*; do
        [ -e "$layer" ] || continue            # no image here has any
        [ "$layer" != overlay2/l ] || continue # links to the layers, under shorter names
        mkdir "adopt/$layer"
        for part in "$layer"/*; do
            case ${part##*/} in
            "$2") ln -s "$store/$part" "adopt/$part" ;;
            *) [ ! -f "$part" ] || cp -a "$part" "adopt/$part" ;;
            esac
        done
    done
}

# The clean end, after which other daemons can go on with the data: each writes what it holds.
close_data() {
    : >$state/closing
    kill -TERM "$(cat $state/dockerd-pid)" && wait "$dockerd" || return
    kill -TERM "$(cat $state/containerd-pid)" && wait "$containerd"
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
# What is containerd's must be there before it starts; what is dockerd's is taken over meanwhile.
[ ! -d $store/adopt/containerd ] || adopt
run containerd containerd --config $state/containerd.toml --log-level warn &
containerd=$!
[ -d $store/adopt/containerd ] || adopt

. /pytest-dind-network.sh
# shellcheck disable=SC2086 # flags of our own
set -- $network "$@"
[ -z "$config" ] || printf '%s' "$config" >$state/daemon.json
[ -z "$config" ] || set -- --config-file=$state/daemon.json "$@"
if [ -n "$directory" ]; then
    set -- --host="unix://$directory/docker.sock" "$@"
else
    set -- --host=tcp://0.0.0.0:2376 --tlsverify \
        --tlscacert=$state/ca.pem --tlscert=$state/cert.pem --tlskey=$state/key.pem "$@"
fi
set -- dockerd --containerd=$state/containerd.sock --host=unix:///var/run/docker.sock "$@"

# serve COMMAND…: start dockerd.
serve() {
    if command -v dockerd-entrypoint.sh >/dev/null; then
        run dockerd dockerd-entrypoint.sh "$@" &
    else
        mount --make-rshared / 2>/dev/null
        run dockerd "$@" &
    fi
    dockerd=$!
}
[ -z "$directory" ] || serve "$@"

# The lifeline: the owner holds this stream open for as long as the daemon is to live.
while IFS= read -r line; do
    case $line in
    "tls "*) # AUTHORITY CERTIFICATE KEY, in base64: known only now, as they are for the address that is dialled
        for name in ca cert key; do
            line=${line#* }
            (umask 077 && printf '%s' "${line%% *}" | base64 -d >$state/$name.pem)
        done
        serve "$@"
        ;;
    keep) wait ;; # outlive the owner, until somebody stops the container
    close)
        close_data && echo "pytest-dind: closed, $(du -sk $data | cut -f 1) KiB"
        break
        ;;
    "seal "*)
        close_data || break
        # Not before an `&&` or in an `if`: all that runs there runs without `set -e`, whatever it says itself.
        (set -e; seal "${line#seal }")
        if [ $? = 0 ]; then
            echo "pytest-dind: sealed, $(du -sk $data | cut -f 1) KiB"
        else
            echo "pytest-dind: not sealed: the data is not laid out as expected, or could not be written" >&2
        fi
        break
        ;;
    "watch "*) # NUMBER DATA_ROOT: from now on there may be questions
        . /pytest-dind-fit.sh
        watch "${line#watch }"
        ;;
    note) note_config ;;
    suspect) suspect ;;
    "fit "*) fit "${line#fit }" ;;
    "own "*) printf '%s' "${line#own }" >$state/own ;; # a directory of the owner's; containers leave root's files there
    esac
done

kill -KILL -1 2>/dev/null # in a daemon that was shut there is nothing left to kill
finish
