"""Training speed of DLRM beside the reference trainer: same model, data, batch, one process; runs in turn.

    python benchmarks/train_speed.py --data data/criteo --reference DLRM_CHECKOUT

The reference is `torchrec_dlrm/dlrm_main.py` of the public repository facebookresearch/dlrm, as it comes (float32);
ours runs in bf16 as it comes, and in float32 for comparison. The rates are of whole epochs, with loading, without
evaluation.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from side_by_side import compare, our_rate, training_arrays

BATCH, EPOCHS = 2048, 3
SETTINGS = (f"train.batch={BATCH}", f"train.epochs={EPOCHS}", "optimizer.name=adagrad", "optimizer.lr=0.02")


def save_as_npy(data: Path, folder: Path) -> tuple[int, str]:
    """Writes the training split in the reference's form; returns its rows and its table sizes."""
    arrays = training_arrays(data)
    for name, dtype in (("dense", np.float32), ("sparse", np.int32), ("labels", np.int32)):
        np.save(folder / f"train_{name}.npy", arrays[name].astype(dtype))
    return len(arrays["labels"]), ",".join(map(str, arrays["sizes"]))


def reference_rate(checkout: Path, folder: Path, rows: int, sizes: str) -> float:
    """Rows a second of the last epoch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    command += [str(checkout / "torchrec_dlrm" / "dlrm_main.py"), "--dataset_name", "criteo_kaggle"]
    command += ["--in_memory_binary_criteo_path", str(folder), "--num_embeddings_per_feature", sizes]
    command += ["--embedding_dim", "16", "--dense_arch_layer_sizes", "512,256,16"]
    command += ["--over_arch_layer_sizes", "512,512,256,1", "--adagrad", "--learning_rate", "0.02"]
    command += ["--batch_size", str(BATCH), "--epochs", str(EPOCHS), "--shuffle_batches"]
    command += ["--limit_val_batches", "1", "--limit_test_batches", "1"]
    threads = {"OMP_NUM_THREADS": str(os.cpu_count())}
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads}, check=False)
    rates = re.findall(rf"Epoch {EPOCHS - 1}:[^\r\n]*?\[[^\]]*?, *([\d.]+)(it/s|s/it)\]", run.stderr)
    if not rates:
        sys.exit(f"the reference did not run:\n{run.stderr[-2000:]}")
    rate, unit = float(rates[-1][0]), rates[-1][1]
    return (rate if unit == "it/s" else 1 / rate) * min(BATCH, rows)


def main() -> None:
    """Prints the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder made by `dist-rec prepare criteo`")
    parser.add_argument("--reference", type=Path, required=True, help="a checkout of facebookresearch/dlrm")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        rows, sizes = save_as_npy(data, Path(temporary))
        compare(
            {
                "reference fp32": lambda: reference_rate(arguments.reference, Path(temporary), rows, sizes),
                "ours bf16": partial(our_rate, "dlrm_criteo", data, *SETTINGS),
                "ours fp32": partial(our_rate, "dlrm_criteo", data, *SETTINGS, "train.precision=fp32"),
            },
            arguments.repeats,
        )


if __name__ == "__main__":
    main()
