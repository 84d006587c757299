# What dockerd must know of the container's own network; boot.sh reads this file in. POSIX sh: dash, ash, bash.
# `undecided` has the flags of dockerd that nobody has said: one that is said twice is refused, or overrules the user.
undecided() {
    case " ${undecided-} " in *" $1 "*) ;; *) return 1 ;; esac
}

# Bridges have 1500 bytes whatever is outside. Where that is less, as in an overlay network or a VPN, what is too long
# is lost without a word, and connections of inner containers hang: https://github.com/moby/moby/issues/20178
smallest_mtu() {
    smallest=1500
    while read -r interface _; do
        [ -r "/sys/class/net/$interface/mtu" ] || continue # the heading
        read -r mtu <"/sys/class/net/$interface/mtu"
        [ "$mtu" -ge "$smallest" ] || smallest=$mtu
    done </proc/net/route
}

# On a network that somebody made, the host engine resolves names at 127.0.0.11, which is the container's own loopback:
# dockerd gives its containers on the default bridge 8.8.8.8 instead, and no name of that network or of a company's is
# known there. So there is a second name server, at an address that nobody has, and what comes for it from inner
# containers goes on to the first. kind does the like: enable_network_magic in
# https://github.com/kubernetes-sigs/kind/blob/7568bf728147/images/base/files/usr/local/bin/entrypoint
resolver=169.254.53.53

# find_port FILE: where 127.0.0.11 listens, in a table of the kernel's; there only the host engine does.
find_port() {
    port=
    while read -r _ address _; do
        case $address in 0B00007F:* | 7F00000B:*) port=$((0x${address#*:})) && return ;; esac
    done <"$1"
}

hand_on_names() {
    find_port /proc/net/udp
    [ -n "$port" ] || return 0
    udp=$port
    find_port /proc/net/tcp
    tcp=$port
    # Loopback is to be reached from outside for this alone, and not for whatever else listens there.
    rules="*filter
-A INPUT ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
COMMIT
*nat
-A PREROUTING -d $resolver -p udp --dport 53 -j DNAT --to-destination 127.0.0.11:$udp
-A PREROUTING -d $resolver -p tcp --dport 53 -j DNAT --to-destination 127.0.0.11:$tcp
COMMIT"
    for restore in iptables-restore iptables-legacy-restore; do
        echo "$rules" | $restore --noflush && echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet && break
    done 2>/dev/null || return
    # With ndots:0, dockerd asks nobody outside for names without a dot, such as that of a service on that network:
    # https://github.com/moby/moby/issues/53104
    found=$(sed 's/ndots:0//' /etc/resolv.conf)
    printf '%s\nnameserver %s\n' "$found" $resolver >/etc/resolv.conf
}

hand_on_names || echo "pytest-dind: names of the outer network will not resolve on the inner default bridge" >&2

# Sets `network` to flags for dockerd.
network=
if undecided mtu || undecided default-network-opt; then
    smallest_mtu
    if [ "$smallest" -lt 1500 ]; then
        ! undecided mtu || network="--mtu=$smallest"
        # Docker 24 and newer: for networks that are made without saying it, as by compose.
        if undecided default-network-opt && dockerd --help | grep -q default-network-opt; then
            network="$network --default-network-opt=bridge=com.docker.network.driver.mtu=$smallest"
        fi
    fi
fi
