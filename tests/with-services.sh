#!/usr/bin/env bash
# Runs a command with a PostgreSQL server of its own, in a scratch directory and on a free port, and stops it afterwards.
# The command finds it in SAWMILL_TEST_POSTGRES. A server that cannot be started fails the run. Its commits are not durable, for
# the tests' sake, unless SAWMILL_TEST_FSYNC=on asks for what a measurement needs.
# Docker is this host's where it answers; else one is started beside it, with its own socket, which the command finds in
# SAWMILL_TEST_DOCKER. It keeps its images in a directory that lasts, so that the next run need not make them again.
set -euo pipefail

bin=$(dirname "$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1 || command -v initdb)")
dir=$(mktemp -d "${TMPDIR:-/tmp}/sawmill-test.XXXXXX")

# PostgreSQL refuses to run as root: it gets its own user there, as its package makes one.
as_postgres() {
    if [ "$(id -u)" -eq 0 ]; then
        runuser -u postgres -- "$@"
    else
        "$@"
    fi
}

stop() {
    if [ -n "${dockerd:-}" ]; then
        kill "$dockerd" 2>/dev/null && wait "$dockerd" 2>/dev/null || true
        # It leaves the mount of its network namespace.
        awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount
    fi
    as_postgres "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap stop EXIT

# Daemons of other users get to the sockets in it.
chmod 711 "$dir"
if [ "$(id -u)" -eq 0 ]; then
    chown postgres "$dir"
fi
# A free port: bound, noted and let go. Another program could take it in between; then the start fails, loudly.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' 2>/dev/null || echo $((20000 + RANDOM % 20000)))
as_postgres "$bin/initdb" -D "$dir/data" -A trust -U postgres --no-sync >/dev/null
as_postgres "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 \
    -o "-p $port -k $dir -c listen_addresses=127.0.0.1 -c max_connections=400 -c fsync=${SAWMILL_TEST_FSYNC:-off}" start >/dev/null || {
    cat "$dir/log" >&2
    exit 1
}
as_postgres "$bin/psql" -q -h 127.0.0.1 -p "$port" -U postgres -c 'CREATE DATABASE sawmill' >/dev/null
export SAWMILL_TEST_POSTGRES="postgres://postgres@127.0.0.1:$port/sawmill"

answers() {
    perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or exit 1; print $s "GET /_ping HTTP/1.0\r\n\r\n"; exit(<$s> !~ / 200 /)' "$1"
}

docker_socket=${SAWMILL_TEST_DOCKER:-/var/run/docker.sock}
if ! answers "$docker_socket"; then
    docker_socket=$dir/docker.sock
    dockerd --host "unix://$docker_socket" --pidfile "$dir/dockerd.pid" --exec-root "$dir/docker-exec" \
        --data-root "${SAWMILL_TEST_DOCKER_DATA:-/var/lib/sawmill-test-docker}" --bridge none >"$dir/dockerd.log" 2>&1 &
    dockerd=$!
    for _ in $(seq 120); do
        if answers "$docker_socket" || ! kill -0 "$dockerd" 2>/dev/null; then break; fi
        sleep 0.25
    done
    answers "$docker_socket" || {
        echo "the test suite needs Docker; none answers, and dockerd cannot be started:" >&2
        tail -n 20 "$dir/dockerd.log" >&2
        exit 1
    }
fi
export SAWMILL_TEST_DOCKER="$docker_socket"

"$@"
