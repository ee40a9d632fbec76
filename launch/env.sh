# shellcheck shell=bash
# Sourced by the launchers with the number of processes on this node: the project's Python, and threads for each process.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -d "$root/.venv" ]; then
    export PATH="$root/.venv/bin:$PATH"
fi
# A host whose Python has the packages needs no .venv and no installed dist_rec.
python=${PYTHON:-python3}
export PYTHONPATH="$root:$root/kernels${PYTHONPATH:+:$PYTHONPATH}"
if ! [[ $1 =~ ^([1-9][0-9]*|gpu|cpu|auto)$ ]]; then
    echo "error: $1 processes: give a number from 1 on, or gpu for one process on each GPU" >&2
    exit 2
fi
if [[ $1 =~ ^[1-9][0-9]*$ ]]; then
    threads=$(($(nproc) / $1))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
fi
# The library's own notices would push the progress line off the screen.
export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}
