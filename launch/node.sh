#!/usr/bin/env bash
# Trains as one node of several; start it on each: launch/node.sh HOST:PORT NODES PROCESSES CONFIG [key=value …]
#   HOST:PORT  of the rendezvous: one of the nodes and a free port, the same on all of them
#   NODES      how many nodes
#   PROCESSES  on this node: a number, or `gpu` for one on each GPU
# Variables:
#   GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME   network interface, such as eth0, where there is more than one
#   NODE_ADDRESS        address of this node that the others reach, where its host name does not resolve to that
#   RUN_ID              tells this run from others at the same HOST:PORT                            (default: dist_rec)
#   PET_MAX_RESTARTS    how often processes that died are started again; give --run-dir and --resume  (default: 0)
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
# Each start of the processes gets a new store: the old one remembers addresses of processes that are gone.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# A scheduler's warning that time is short goes on to the processes, which then save and end.
export PET_SIGNALS_TO_HANDLE=${PET_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1}
# The job is the run at that rendezvous: restarted, on whatever nodes, it takes its run folder's lock over.
exec "$python" -m dist_rec.cli.launch --nnodes "$nodes" --nproc-per-node "$processes" \
    --rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id "${RUN_ID:-dist_rec}@$endpoint" \
    ${NODE_ADDRESS:+--local-addr "$NODE_ADDRESS"} -m dist_rec.cli.main train "$@"
