#!/usr/bin/env bash
# Runs in a minimal system that run.sh made, with the checkout at /checkout.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
log=/tmp/log
git config --global --add safe.directory '*'
git clone --quiet /checkout /root/dist_rec
cd /root/dist_rec

# Seconds that a command takes; its output is shown if it fails.
seconds() {
    local began=$SECONDS
    "$@" >"$log" 2>&1 || { tail -n 40 "$log" >&2 && exit 1; }
    echo $((SECONDS - began))
}

add_venv() {
    # A copy of the archive may be older than its signature is valid.
    apt-get -qq -o Acquire::Check-Valid-Until=false update >/dev/null
    apt-get -qq install --yes --no-install-recommends python3-venv >/dev/null 2>&1
}

commands() {
    add_venv
    local setup demo tests
    setup=$(seconds make setup)
    # Nobody knows the name of this machine, and nothing names localhost.
    mv /etc/hosts /etc/resolv.conf /tmp
    hostname no-such-name
    demo=$(seconds make demo)
    hostname fresh
    mv /tmp/hosts /tmp/resolv.conf /etc
    tests=$(seconds make test)
    echo "| $1 | $(.venv/bin/python --version) | $(.venv/bin/python -c 'import torch; print(torch.__version__)') |" \
        "$setup | $demo | $tests | $(grep -E '[0-9]+ passed' "$log") |"
}

# A command that must fail with one line of its own (make adds another) and leave no environment behind.
fails() {
    local what=$1 code=0
    shift
    "$@" >"$log" 2>&1 || code=$?
    local said
    said=$(grep -cE '^(error: |interrupted)' "$log" || true)
    if [ "$code" = 0 ] || [ "$said" != 1 ] || grep -q Traceback "$log" || [ -e .venv ]; then
        printf 'BAD  %s: exit code %s\n' "$what" "$code"
        tail -n 20 "$log"
        exit 1
    fi
    printf 'ok   %s: exit code %s, %s\n' "$what" "$code" "$(grep -E '^(error: |interrupted)' "$log")"
}

works() {
    printf 'ok   %s: installed in %s s\n' "$1" "$(seconds "${@:2}" make setup)"
    .venv/bin/dist-rec doctor >"$log" 2>&1 || { cat "$log" && exit 1; }
    rm -r .venv
}

troubles() {
    fails "a folder that cannot be written to" unshare --mount sh -c \
        'mount --bind . . && mount -o remount,bind,ro . && cd . && cd /root/dist_rec && make setup'
    fails "no venv module" make setup
    fails "no Python that fits" make setup PYTHON=/bin/false
    if [ -e /opt/uv ]; then
        works "uv, no venv module" env PATH="/opt:$PATH"
    else
        echo "skipped: uv is not installed"
    fi
    add_venv
    fails "no network" unshare --net make setup
    fails "interrupted" timeout --signal TERM 25 make setup
    works "after all of these"
}

"$@"
