# Sourced by the launchers with the number of processes on this node: the project's Python, and threads for each process.
venv=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv
if [ -d "$venv" ]; then
    export PATH="$venv/bin:$PATH"
fi
if [[ $1 =~ ^[0-9]+$ ]]; then
    threads=$(($(nproc) / $1))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
fi
# The library's own notices would push the progress line off the screen.
export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}
