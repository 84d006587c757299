# Whether this daemon is as good as it was at its start: what it does not say itself when it is asked for a ping. boot.sh
# reads this file in, with dockerd's arguments in "$@" and $state as there. POSIX sh: dash, ash, bash. It is done between
# tests, so all but one thing is done without starting a process.

config_file=/etc/docker/daemon.json
for argument in "$@"; do
    case $argument in --config-file=*) config_file=${argument#*=} ;; esac
done
accepted=
newline='
'
tab='	'

# watch NUMBER DATA_ROOT: what is found now is how it is to be; what is the matter from the start, no test has to answer
# for. Answered like fit, for nobody is to change anything before.
watch() {
    data_root=${1#* }
    dockerd_found=$(find_process dockerd) containerd_found=$(find_process containerd)
    links=$(up_links)
    programs=$(for part in containerd-shim-runc-v2 docker-init docker-proxy runc; do command -v $part; done)
    present=$(vital | while read -r part; do [ ! -e "$part" ] || echo "$part"; done)
    routed=$(! has_default_route || echo yes)
    # docker:dind's entrypoint has dockerd use the old iptables where it must. Of the rules, those of single containers
    # come and go.
    chains='FORWARD|PREROUTING|OUTPUT|POSTROUTING|DOCKER[^ ]*'
    for save in iptables-save /usr/local/sbin/.iptables-legacy/iptables-save; do
        rules=$($save 2>/dev/null | grep -E "^-A ($chains) .*(docker0|-j DOCKER)" | grep -Ev '/32|DNAT')
        [ -z "$rules" ] || break
    done
    read -r forwards </proc/sys/net/ipv4/ip_forward
    much=$newline
    while [ ${#much} -lt 65536 ]; do much=$much$much; done
    suspected=
    note_config
    accepted=
    look
    accepted=$found
    make_room
    printf 'pytest-dind: fit %s \n' "${1%% *}"
}

# Of these, what there is at the start must be there later.
vital() {
    for part in containers image network volumes buildkit plugins swarm overlay2 overlay2/l; do
        echo "$data_root/$part"
    done
    for part in "$data_root"/image/*/imagedb "${data:?}/${root:?}"/*.bolt/meta.db "${state:?}"/containerd.sock*; do
        echo "$part"
    done
    echo /var/run/docker.sock
    echo "$programs"
    echo "$links"
}

# Of containers and networks, the others come and go.
up_links() {
    for part in /sys/class/net/*; do
        case ${part##*/} in veth* | br-*) ;; *) ! is_up "$part" || echo "$part" ;; esac
    done
}

# A daemon.json that is another now counts as soon as dockerd reads it again, which may have been: as it is now, it is
# to be. So are programs, the way out, and what room there is: whoever outlasts tests may have taken it, or given it back.
note_config() {
    [ -z "$suspected" ] || return 0
    read_config
    noted=$content
    empty "$state/noted" # For its time.
    found=
    look_at_network
    look_at_room
    for check in $accepted; do
        case $check in link | route | forward | pids | disk) ;; *) found="$found $check" ;; esac
    done
    accepted=$found
    make_room
} 2>/dev/null

# Before something that outlasts tests may change it: what a test has done to it is not taken for wanted.
suspect() {
    read_config
    [ "$content" = "$noted" ] || suspected=yes
    for part in $programs; do
        ! is_newer "$part" || suspected=yes
    done
    trouble=
    look_at_network
    look_at_room
    make_room
    [ -z "$trouble" ] || suspected=yes
} 2>/dev/null

# By a builtin of dash, ash and bash, to the second in some.
is_newer() {
    # shellcheck disable=SC3013 # POSIX has it since 2024.
    [ "$1" -nt "$state/noted" ]
}

# empty FILE: without starting a process, and without an end of this shell where that cannot be.
empty() {
    printf '' >"$1"
} 2>/dev/null

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
    suspected=
    printf 'pytest-dind: fit %s %s\n' "$1" "$trouble"
    make_room # Only now: nobody waits for it.
}

# Sets `trouble` to what is the matter, or to nothing.
look() {
    trouble=
    found=
    set -f
    IFS=$newline
    look_at_all
    unset IFS
    set +f
} </dev/null 2>/dev/null

# complain CHECK TROUBLE
complain() {
    found="$found $1"
    case " $accepted " in *" $1 "*) ;; *) trouble=${trouble:-$2} ;; esac
}

# look_at NAME PID
look_at() {
    [ -n "$2" ] || return 0
    state_of "$1" "$2"
    case $run in
    "" | Z* | X*) complain "$1" "its $1 process has ended" ;;
    T* | t*) complain "$1" "its $1 process is stopped, as by SIGSTOP" ;;
    esac
}

look_at_all() {
    look_at dockerd "$dockerd_found"
    look_at containerd "$containerd_found"
    for part in $present; do
        [ -e "$part" ] || complain part "$part is missing in its container"
    done
    for part in $programs; do
        [ -x "$part" ] || complain program "$part cannot be run in its container any more"
        ! is_newer "$part" || complain program "$part in its container is not what it was"
    done
    look_at_network
    read_config
    [ "$content" = "$noted" ] || complain config "its $config_file is not what it was"
    look_at_room
    # For want of a process the shell would end.
    case $found in *pids*) return ;; esac
    [ -z "$rules" ] || has_rules || complain rules "it lacks iptables rules that dockerd made at its start"
}

look_at_room() {
    can_fork || complain pids "no process can be started in its container: $pids of at most $pids_limit are there"
    can_write || complain disk "its $data_root is full, or cannot be written to"
}

look_at_network() {
    for part in $links; do
        is_up "$part" || complain link "its network interface ${part##*/} is down"
    done
    [ -z "$routed" ] || has_default_route || complain route "its container has no default route any more"
    read -r forwards_now </proc/sys/net/ipv4/ip_forward
    [ "$forwards" != 1 ] || [ "$forwards_now" = 1 ] || complain forward "net.ipv4.ip_forward in its container is off"
}

# find_process NAME: prints the id of the process that has that name, or nothing; docker:dind's entrypoint starts it as
# the child of an init.
find_process() {
    read -r pids <"${state:?}/$1-pid"
    read -r children </proc/"$pids"/task/"$pids"/children # it has no end of line
    for pid in $pids $children; do
        read -r stat </proc/"$pid"/stat || continue
        case $stat in *"($1)"*) echo "$pid" && return ;; esac
    done
} 2>/dev/null

# state_of NAME PID: sets `run` to the state of the process, or to nothing if there is no such process.
state_of() {
    run=
    read -r stat </proc/"$2"/stat || return 0
    case $stat in *"($1)"*) ;; *) return 0 ;; esac
    IFS=' '
    # shellcheck disable=SC2086 # Into fields, from the third on: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    set -- ${stat##*) }
    IFS=$newline
    run=$1
    [ $((${29} & 256 | ${7} & 4)) = 0 ] || run=X # SIGKILL is on its way, or the process is on its way out (PF_EXITING)
}

is_up() {
    read -r flags <"$1/flags" && [ $((flags & 1)) = 1 ]
}

has_default_route() {
    while read -r route; do
        case ${route#*"$tab"} in 00000000*) return ;; esac
    done </proc/net/route
    return 1
}

has_rules() {
    rules_now=$($save) || return 0
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

# make_room is its undo.
can_write() {
    printf %s "$much" >"$data_root/.pytest-dind"
}

make_room() {
    empty "$data_root/.pytest-dind"
}
