#!/bin/sh
# Creates .venv with matching versions of torch, torchrec and FBGEMM: CUDA builds if there is an NVIDIA GPU, otherwise CPU
# builds if an index has them. Settings, as environment variables:
#   PYTHON       interpreter, 3.11 to 3.14     (default: the first of python3, python3.14, … python3.11 in this range)
#   TORCH        torch version, 2.11 to 2.14   (default: the newest; without a GPU the newest that has a CPU build)
#   ACCELERATOR  cuda or cpu                   (default: cuda if nvidia-smi lists a GPU)
#   TORCH_INDEX  package index for torch, such as one of CPU builds; by default pip installs the CUDA build (gigabytes)
# This script is POSIX shell, to report missing programs on any machine; launch/install.py installs.
set -eu
cd "$(dirname "$(readlink -f "$0" || echo "$0")")/.."

fail() {
    echo "error: $*" >&2
    exit 2
}

system=$(uname -s) machine=$(uname -m)
if ldd --version 2>&1 | grep -qi musl; then libc="musl "; else libc=; fi
case "$libc$system $machine" in
"Linux x86_64" | "Linux aarch64") ;;
*) fail "FBGEMM has no builds for $libc$system $machine; use a container:" \
    "docker build --tag dist_rec . && docker run --rm -it dist_rec make demo" ;;
esac

# Free-threaded builds have no wheels of FBGEMM.
fits='import sys, sysconfig; sys.exit(not (3, 11) <= sys.version_info < (3, 15) or sysconfig.get_config_var("Py_GIL_DISABLED") == 1)'
if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.14 python3.13 python3.12 python3.11; fi
for candidate; do
    if "$candidate" -c "$fits" >/dev/null 2>&1; then
        exec "$candidate" launch/install.py
    fi
done
[ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON does not run, or is not Python 3.11 to 3.14"
if command -v uv >/dev/null; then
    uv python install --quiet 3.13 || fail "no Python 3.11 to 3.14 found, and uv could not install one"
    exec "$(uv python find --managed-python 3.13)" launch/install.py
fi
fail "no Python 3.11 to 3.14 found; install one, or uv (which installs one), or set PYTHON"
