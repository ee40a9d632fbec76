# shellcheck shell=bash
# Sourced by the launchers with the number of processes on this node. Sets Python and the threads of each process.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -d "$root/.venv" ]; then
    export PATH="$root/.venv/bin:$PATH"
fi
# If the host's Python has the packages, neither .venv nor an installed dist_rec is needed.
python=${PYTHON:-python3}
export PYTHONPATH="$root:$root/kernels${PYTHONPATH:+:$PYTHONPATH}"
if ! [[ $1 =~ ^([1-9][0-9]*|gpu|cpu|auto)$ ]]; then
    echo "error: $1 processes: give a number of at least 1, or gpu for one process on each GPU" >&2
    exit 2
fi
if [[ $1 =~ ^[1-9][0-9]*$ ]]; then
    threads=$(($(nproc) / $1))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
fi
# torch's notices would interrupt the progress line.
export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}
