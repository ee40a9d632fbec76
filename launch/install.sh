#!/bin/sh
# Makes .venv with the matched set of torch, torchrec and FBGEMM: CUDA builds where there is an NVIDIA GPU, CPU builds
# elsewhere if an index has them. Settings, as environment variables:
#   PYTHON       interpreter, 3.11 to 3.14     (default: the first that fits of python3, python3.14, … python3.11)
#   TORCH        torch version, 2.11 to 2.14   (default: the newest, or the newest that a CPU build is found of)
#   ACCELERATOR  cuda or cpu                   (default: cuda if nvidia-smi lists a GPU)
#   TORCH_INDEX  package index to take torch from, such as one of CPU builds; plain pip brings the CUDA build (gigabytes)
# This part is POSIX shell, so that it can say what is missing on any machine; launch/install.py does the work.
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
*) fail "FBGEMM has no builds for $libc$system $machine; use a container, whose Dockerfile is here:" \
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
[ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is no Python 3.11 to 3.14 that runs"
if command -v uv >/dev/null; then
    uv python install --quiet 3.13 || fail "no Python 3.11 to 3.14 found, and uv could not bring one"
    exec "$(uv python find --managed-python 3.13)" launch/install.py
fi
fail "no Python 3.11 to 3.14 found; install one, or uv (which brings one), or set PYTHON"
