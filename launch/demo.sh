#!/usr/bin/env bash
# The whole pipeline on synthetic data: raw click logs → prepared shards → a trained and evaluated DLRM.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Each launcher divides the threads among its processes.
source launch/env.sh cpu
demo=runs/demo
rm -rf "$demo"
started=$SECONDS
if nvidia-smi -L >/dev/null 2>&1; then processes=gpu; else processes=2; fi

step() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@"
}
step dist-rec synthesize --rows 200000 --out "$demo/raw"
step dist-rec prepare criteo --train "$demo/raw/part_[0-7].tsv.gz" --valid "$demo/raw/part_8.tsv.gz" \
    --test "$demo/raw/part_9.tsv.gz" --out "$demo/data"
step launch/local.sh "$processes" configs/dlrm_criteo.toml "data.path=$demo/data" --run-dir "$demo/run"
step dist-rec evaluate "$demo/run" --split test
printf '\nDone in %d s. The first step printed the best AUC that any model can reach on these rows.\n' $((SECONDS - started))
cat <<'END'
Try next:
  dist-rec train configs/dlrm_criteo.toml data.path=runs/demo/data head.dim=8     the same on one process, smaller
  dist-rec train --help                                                           everything about training
  README.md, "Real Criteo in three commands"
END
