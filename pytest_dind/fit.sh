# Whether this daemon is as good as it was at its start: what it does not say itself when it is asked for a ping. boot.sh
# reads this file in, with dockerd's arguments in "$@" and $state as there. POSIX sh: dash, ash, bash. It is done between
# tests, so all but one thing is done without starting a process.

config_file=/etc/docker/daemon.json
for argument in "$@"; do
    case $argument in --config-file=*) config_file=${argument#*=} ;; esac
done
bridge=/sys/class/net/docker0
newline='
'

# watch DATA_ROOT: what is found now is how it is to be; what is the matter from the start, no test has to answer for.
watch() {
    data_root=$1
    processes=
    for name in dockerd containerd; do
        find_process $name 2>/dev/null
        [ -z "$run" ] || processes=$processes$name$newline
    done
    unset IFS
    present=$(vital | while read -r part; do [ ! -e "$part" ] || echo "$part"; done)
    rules=$(iptables-save 2>/dev/null | grep -E '^-A (FORWARD|PREROUTING|OUTPUT|POSTROUTING) .*(docker0|DOCKER)')
    read -r forwards </proc/sys/net/ipv4/ip_forward
    note_config
    much=$newline
    while [ ${#much} -lt 262144 ]; do much=$much$much; done
    look
    known=$trouble
    rm -f "$data_root/.pytest-dind"
}

# Of these, what there is at the start must be there later.
vital() {
    for part in containers image network volumes buildkit; do echo "$data_root/$part"; done
    for part in containerd-shim-runc-v2 docker-init docker-proxy runc; do command -v $part; done
    echo /var/run/docker.sock
    echo $bridge
}

# A daemon.json that is another now counts as soon as dockerd reads it again, which may have been: as it is now, it is
# to be.
note_config() {
    read_config
    noted=$content
}

read_config() {
    content=
    [ -r "$config_file" ] || return 0
    while IFS= read -r part || [ -n "$part" ]; do
        content=$content$part$newline
    done <"$config_file"
}

# fit NUMBER: the answer to the question with that number; the owner takes it out of the log.
fit() {
    look
    [ "$trouble" != "$known" ] || trouble=
    printf 'pytest-dind: fit %s %s\n' "$1" "$trouble"
    rm -f "$data_root/.pytest-dind"
}

# Sets `trouble` to what is the matter, or to nothing.
look() {
    trouble=
    set -f
    IFS=$newline
    look_at_all
    unset IFS
    set +f
} </dev/null 2>/dev/null

look_at_all() {
    for name in $processes; do
        find_process "$name"
        case $run in
        "" | Z* | X*) trouble="its $name process has ended" ;;
        T* | t*) trouble="its $name process is stopped, as by SIGSTOP" ;;
        esac
    done
    can_fork || trouble="no process can be started in its container: $pids of at most $pids_limit are there"
    for part in $present; do
        [ -e "$part" ] || trouble="$part is missing in its container"
    done
    [ ! -e $bridge ] || bridge_is_up || trouble="its bridge docker0 is down"
    read -r forwards_now </proc/sys/net/ipv4/ip_forward
    [ "$forwards_now" = "$forwards" ] || trouble="net.ipv4.ip_forward in its container is $forwards_now"
    read_config
    [ "$content" = "$noted" ] || trouble="its $config_file is not what it was"
    can_write || trouble="its $data_root is full, or cannot be written to"
    # For want of a process the shell would end.
    [ -n "$trouble" ] || [ -z "$rules" ] || has_rules || trouble="it lacks iptables rules that dockerd made at its start"
}

# find_process NAME: sets `run` to the state of the process that has that name, or to nothing; docker:dind's entrypoint
# starts it as the child of an init.
find_process() {
    run=
    IFS=' '
    read -r pids <"${state:?}/$1-pid"
    read -r stat </proc/"$pids"/stat || stat=
    case $stat in *"($1)"*) ;; *) read -r pids </proc/"$pids"/task/"$pids"/children ;; esac # it has no end of line
    for pid in $pids; do
        read -r stat </proc/"$pid"/stat || continue
        case $stat in *"($1)"*) run=${stat##*) } ;; esac
    done
    IFS=$newline
}

bridge_is_up() {
    read -r flags <$bridge/flags && [ $((flags & 1)) = 1 ]
}

has_rules() {
    rules_now=$(iptables-save)
    for rule in $rules; do
        case $rules_now in *"$rule"*) ;; *) return 1 ;; esac
    done
}

can_fork() {
    for group in /sys/fs/cgroup/pids /sys/fs/cgroup; do
        read -r pids_limit <$group/pids.max || continue
        read -r pids <$group/pids.current
        [ "$pids_limit" = max ] || [ $((pids_limit - pids)) -ge 8 ]
        return
    done
    return 0
}

can_write() {
    printf %s "$much" >"$data_root/.pytest-dind"
}
