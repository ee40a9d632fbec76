#!/usr/bin/env bash
# Trains on one of several nodes; start it on each: launch/node.sh HOST:PORT NODES PROCESSES CONFIG [key=value …]
#   HOST:PORT  rendezvous: one of the nodes and a free port, the same on all nodes
#   NODES      number of nodes
#   PROCESSES  processes on this node: a number, or `gpu` for one on each GPU
# Variables:
#   GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME   network interface, such as eth0, if there are several
#   NODE_ADDRESS        address of this node for the others, if its host name does not resolve to it
#   RUN_ID              identifier of this run among others at the same HOST:PORT                   (default: dist_rec)
#   PET_MAX_RESTARTS    number of restarts after a process has failed; give --run-dir and --resume  (default: 0)
# The run folder must be on a file system that all nodes share; each node reads the data under the same path.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 4 ]; then
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
fi
endpoint=$1 nodes=$2 processes=$3
shift 3
# shellcheck source=launch/env.sh
source "$here/env.sh" "$processes"
# Each start of the processes gets a new store: the old one holds addresses of processes that have ended.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# Signals by which a scheduler warns of the end are forwarded to the processes, which then save and end.
export PET_SIGNALS_TO_HANDLE=${PET_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1}
# Run id and rendezvous identify the job. After a restart, also on other nodes, it may take over its run folder's lock.
exec "$python" -m dist_rec.cli.launch --nnodes "$nodes" --nproc-per-node "$processes" \
    --rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id "${RUN_ID:-dist_rec}@$endpoint" \
    ${NODE_ADDRESS:+--local-addr "$NODE_ADDRESS"} -m dist_rec.cli.main train "$@"
