#!/usr/bin/env bash
# Trains on this machine: launch/local.sh PROCESSES CONFIG [key=value …] [--run-dir DIR] [--resume] [--json]
# PROCESSES is a number, or `gpu` for one process on each GPU.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 2 ]; then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
processes=$1
shift
# shellcheck source=launch/env.sh
source "$here/env.sh" "$processes"
exec torchrun --standalone --nproc-per-node "$processes" -m dist_rec.cli.main train "$@"
