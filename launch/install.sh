#!/usr/bin/env bash
# Makes .venv with the matched set of torch, torchrec and FBGEMM: CUDA builds where there is an NVIDIA GPU, CPU builds
# elsewhere. Settings, as environment variables:
#   PYTHON       interpreter, 3.11 or 3.12              (default: the first of python3.11, python3.12, python3)
#   TORCH        torch version, 2.11.0 to 2.13.0        (default: 2.13.0)
#   ACCELERATOR  cuda or cpu                            (default: cuda if nvidia-smi lists a GPU)
#   TORCH_INDEX  package index to take torch from; set it to an index of CPU wheels where plain pip would fetch the
#                CUDA build (gigabytes) for a machine without a GPU
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or 3.12 found; set PYTHON" >&2
    exit 2
}

python=$(find_python)
torch=${TORCH:-2.13.0}
case $torch in
2.11.*) matched=1.6 ;;
2.12.*) matched=1.7 ;;
2.13.*) matched=1.8 ;;
*)
    echo "error: TORCH=$torch; known: 2.11, 2.12, 2.13" >&2
    exit 2
    ;;
esac
if [ -z "${ACCELERATOR:-}" ]; then
    if nvidia-smi -L >/dev/null 2>&1; then ACCELERATOR=cuda; else ACCELERATOR=cpu; fi
fi
if [ "$ACCELERATOR" = cuda ]; then fbgemm=fbgemm-gpu; else fbgemm=fbgemm-gpu-cpu; fi

echo "installing torch $torch, torchrec $matched and $fbgemm $matched for $("$python" --version) into .venv"
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==$torch"
# torchrec names the CUDA build of FBGEMM as a dependency, which would overwrite the CPU build: so --no-deps.
"${pip[@]}" "$fbgemm==$matched.*" tensordict torchmetrics==1.0.3 pyre-extensions iopath setuptools
"${pip[@]}" --no-deps "torchrec==$matched.*"
"${pip[@]}" --editable '.[test]'
echo "installed in $SECONDS s"
