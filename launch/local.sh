#!/usr/bin/env bash
# Trains on this machine: launch/local.sh PROCESSES CONFIG [key=value …] [--run-dir DIR] [--resume] [--json]
# PROCESSES is a number, or `gpu` for one process on each GPU. With PET_MAX_RESTARTS=N in the environment, processes
# that fail are restarted up to N times; give --run-dir and --resume, so that they go on from the newest checkpoint.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 2 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
processes=$1
shift
# shellcheck source=launch/env.sh
source "$here/env.sh" "$processes"
exec "$python" -m dist_rec.cli.launch --standalone --nproc-per-node "$processes" -m dist_rec.cli.main train "$@"
