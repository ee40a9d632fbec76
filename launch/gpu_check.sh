#!/usr/bin/env bash
# Checks the GPUs of this machine: runs tests/gpu, compares the losses of a short DLRM training on the CPU, on one GPU and
# on all GPUs, and measures the speed in bf16. Needs no .venv if python3 has the packages (see launch/env.sh).
#   ROWS     rows of the synthetic data                         (default: 100000)
#   BATCH    rows of a global batch in the measurement of speed (default: 16384)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/env.sh
source launch/env.sh gpu
gpus=$("$python" -c 'import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)')
if [ "$gpus" = 0 ]; then
    echo "no CUDA device: nothing to check"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dist_rec() { "$python" -m dist_rec.cli.main "$@"; }
step() { printf '\n\033[1m%s\033[0m\n' "$*"; }

step "Tests on the GPU"
"$python" -m pytest -m gpu tests/gpu -q

step "Data of ${ROWS:=100000} rows"
dist_rec synthesize --rows "$ROWS" --out "$work/raw"
dist_rec prepare criteo --train "$work/raw/part_[0-7].tsv.gz" --valid "$work/raw/part_8.tsv.gz" \
    --test "$work/raw/part_9.tsv.gz" --out "$work/data"

common=(configs/dlrm_criteo.toml "data.path=$work/data")
exact=("${common[@]}" train.precision=fp32 train.log_every=10)
step "The same training on the CPU, on one GPU and on $gpus"
dist_rec train "${exact[@]}" train.device=cpu --run-dir "$work/cpu"
dist_rec train "${exact[@]}" train.device=cuda --run-dir "$work/cuda"
runs=("$work/cuda")
if [ "$gpus" -gt 1 ]; then
    launch/local.sh gpu "${exact[@]}" train.device=cuda --run-dir "$work/all"
    runs+=("$work/all")
fi
"$python" launch/compare_runs.py "$work/cpu" "${runs[@]}"

step "Speed in bf16, global batch ${BATCH:=16384}"
launch/local.sh gpu "${common[@]}" train.device=cuda "train.batch=$BATCH" train.epochs=20 train.evaluate_every=1000000 \
    --run-dir "$work/speed"
"$python" - "$work/speed/result.json" "$gpus" "$BATCH" <<'END'
import json, sys, torch
from pathlib import Path

trained = json.loads(Path(sys.argv[1]).read_text())["train"]
speed = {"device": torch.cuda.get_device_name(), "gpus": int(sys.argv[2]), "batch": int(sys.argv[3])}
print(json.dumps({**speed, "precision": "bf16", "examples_per_s": round(trained["rows_per_s"])}))
END
