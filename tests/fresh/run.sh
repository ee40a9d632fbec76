#!/usr/bin/env bash
# The README's two commands on minimal Debian systems, each in a folder of its own: tests/fresh/run.sh [RELEASE…]
# Then what may go wrong with an installation, on the last of them. Needs root, debootstrap, unshare and overlayfs.
#   CACHE  where minimal systems and pip's downloads are kept for the next time  (default: ~/.cache/dist_rec)
#   BIND   folders of this machine that the systems see, too, such as a local package index
#   TRY    `commands`, `troubles` or both                                        (default: both)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
releases=("$@")
[ $# -gt 0 ] || releases=(bookworm trixie forky)
CACHE=${CACHE:-$HOME/.cache/dist_rec}

skip() {
    echo "skipped: $*"
    exit 0
}
[ "$(id -u)" = 0 ] || skip "only root can make a system in a folder"
command -v debootstrap >/dev/null || skip "debootstrap is not installed"
unshare --mount true 2>/dev/null || skip "this machine allows no mounts"

# What README.md says that a machine needs, but for the venv module, whose absence is one of the troubles.
system() {
    [ -e "$CACHE/$1/done" ] && return
    rm -rf "${CACHE:?}/$1"
    mkdir -p "$CACHE/$1"
    # A release that this debootstrap does not know yet is made as the unstable one.
    local mirror script=/usr/share/debootstrap/scripts/$1
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
    debootstrap --variant=minbase --include=git,make,python3,ca-certificates "$1" "$CACHE/$1" "$mirror" "$script" \
        >"$CACHE/$1.log" 2>&1 ||
        { tail -n 3 "$CACHE/$1.log" && exit 1; }
    touch "$CACHE/$1/done"
}

# Runs inside.sh in a copy of the system that goes away with it, as all its mounts and processes do.
inside() {
    local release=$1 work
    work=$(mktemp -d)
    unshare --mount --pid --uts --fork --kill-child bash -euo pipefail -c '
        base=$1 work=$2 cache=$3 checkout=$4
        shift 4
        mkdir "$work/upper" "$work/scratch" "$work/root"
        mount -t overlay overlay -o "lowerdir=$base,upperdir=$work/upper,workdir=$work/scratch" "$work/root"
        cd "$work/root"
        mkdir -p checkout root/.cache/pip proc dev
        mount -t proc proc proc
        mount --rbind /dev dev
        mount --bind "$checkout" checkout
        mount --bind "$cache/pip" root/.cache/pip
        for folder in ${BIND:-}; do
            mkdir -p "./$folder"
            mount --bind "$folder" "./$folder"
        done
        # How this machine reaches its package index.
        cp /etc/hosts /etc/resolv.conf etc/
        cp -L /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/
        for settings in /etc/pip.conf /etc/xdg/pip; do [ ! -e "$settings" ] || cp -r --parents "$settings" .; done
        command -v uv >/dev/null && cp "$(command -v uv)" opt/uv
        hostname fresh
        echo "127.0.1.1 fresh" >>etc/hosts
        HOME=/root chroot . bash /checkout/tests/fresh/inside.sh "$@"
    ' - "$CACHE/$release" "$work" "$CACHE" "$(dirname "$(dirname "$here")")" "${@:2}" || failed=1
    rm -rf "$work"
}

failed=0
mkdir -p "$CACHE/pip"
for release in "${releases[@]}"; do
    system "$release"
    [ "${TRY:-commands}" != commands ] || inside "$release" commands "$release"
done
[ "${TRY:-troubles}" != troubles ] || inside "${releases[-1]}" troubles
exit "$failed"
