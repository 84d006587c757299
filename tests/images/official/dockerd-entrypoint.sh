#!/bin/sh
# What docker:dind's entrypoint is known to do, in the same order, written anew.
set -eu

# certificate DIR NAME EXTENSIONS: DIR/cert.pem for DIR/key.pem, signed by the authority in $certs/ca.
certificate() {
    openssl req -new -key "$1/key.pem" -subj "/CN=$2" -out "$1/csr.pem"
    printf '%s\n' "$3" >"$1/extensions.cnf"
    openssl x509 -req -in "$1/csr.pem" -CA "$certs/ca/cert.pem" -CAkey "$certs/ca/key.pem" -CAcreateserial \
        -days 825 -extfile "$1/extensions.cnf" -out "$1/cert.pem"
    cp "$certs/ca/cert.pem" "$1/ca.pem"
}

# The names and addresses that a client may use for this daemon.
alternatives() {
    {
        ip -oneline address | while read -r _ _ _ address _; do echo "IP:${address%/*}"; done
        for name in "$(cat /etc/hostname)" docker localhost "$(hostname -f)" "$(hostname -s)"; do
            [ -z "$name" ] || echo "DNS:$name"
        done
        [ -z "${DOCKER_TLS_SAN:-}" ] || echo "$DOCKER_TLS_SAN"
    } | sort -u | tr '\n' ',' | sed 's/,$//'
}

make_certificates() {
    certs=$1
    if [ -s "$certs/server/ca.pem" ] && [ -s "$certs/server/cert.pem" ] && [ -s "$certs/server/key.pem" ] &&
        [ ! -s "$certs/ca/key.pem" ]; then
        openssl verify -CAfile "$certs/server/ca.pem" "$certs/server/cert.pem" # the user's own; nothing to sign with
        return
    fi
    for owner in ca server client; do
        mkdir -p "$certs/$owner"
        [ -s "$certs/$owner/key.pem" ] || openssl genrsa -out "$certs/$owner/key.pem" 4096
    done
    chmod 0644 "$certs/client/key.pem"
    openssl req -new -x509 -key "$certs/ca/key.pem" -subj '/CN=docker:dind CA' -days 825 \
        -addext 'keyUsage = critical,digitalSignature,keyCertSign' -out "$certs/ca/cert.pem"
    certificate "$certs/server" 'docker:dind server' "extendedKeyUsage = serverAuth
subjectAltName = $(alternatives)"
    certificate "$certs/client" 'docker:dind client' 'extendedKeyUsage = clientAuth'
}

choose_iptables() {
    if [ -n "${DOCKER_IPTABLES_LEGACY+set}" ]; then
        [ -n "$DOCKER_IPTABLES_LEGACY" ] || return 0
        modprobe ip_tables || :
        modprobe ip6_tables || :
    elif [ -z "$(cat /proc/net/ip_tables_names /proc/net/ip6_tables_names /proc/net/arp_tables_names)" ]; then
        # Nobody uses the old tables here yet: the new ones, if the kernel has them.
        iptables -nL >/dev/null 2>&1 && return
        modprobe nf_tables || :
        iptables -nL >/dev/null 2>&1 && return
    fi
    export PATH="/usr/local/sbin/.iptables-legacy:$PATH"
}

case "${1:-}" in
'' | -*)
    socket=unix:///var/run/docker.sock
    case "${DOCKER_HOST:-}" in unix://*) socket=$DOCKER_HOST ;; esac
    if [ -n "${DOCKER_TLS_CERTDIR:-}" ]; then
        make_certificates "$DOCKER_TLS_CERTDIR"
        server=$DOCKER_TLS_CERTDIR/server
        set -- dockerd --host="$socket" --host=tcp://0.0.0.0:2376 --tlsverify \
            --tlscacert "$server/ca.pem" --tlscert "$server/cert.pem" --tlskey "$server/key.pem" "$@"
    else
        set -- dockerd --host="$socket" --host=tcp://0.0.0.0:2375 "$@"
    fi
    ;;
esac

if [ "$1" = dockerd ]; then
    find /run /var/run -iname 'docker*.pid' -exec rm -f {} + || : # Debian's busybox knows no -delete
    choose_iptables
    set -- dind docker-init -- "$@"
fi
exec "$@"
