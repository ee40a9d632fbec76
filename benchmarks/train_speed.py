"""Training speed of DLRM beside the reference trainer: same model, data, batch, one process; runs in turn.

    python benchmarks/train_speed.py --data data/criteo --reference DLRM_CHECKOUT

The reference is `torchrec_dlrm/dlrm_main.py` of the public repository facebookresearch/dlrm, as it comes (float32);
ours runs in bf16 as it comes, and in float32 for comparison. The rates are of whole epochs, with loading, without
evaluation.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from dist_rec.data.loader import Loader, LoaderConfig
from dist_rec.data.shards import Dataset

ROOT = Path(__file__).parents[1]
BATCH, EPOCHS = 2048, 3


def save_as_npy(data: Path, folder: Path) -> tuple[int, str]:
    """Writes the training split in the reference's form; returns its rows and its table sizes."""
    dataset = Dataset(data)
    loader = Loader(dataset, "train", LoaderConfig(path=str(data)), batch=8192, shuffle=False)
    batches = list(loader.batches(0, loader.steps_per_epoch))
    features = len(loader.layout.categorical)
    arrays = {
        "dense": [batch.dense.numpy() for batch in batches],
        "sparse": [batch.ids.values().view(features, -1).t().int().numpy() for batch in batches],
        "labels": [batch.labels.int().unsqueeze(1).numpy() for batch in batches],
    }
    for name, parts in arrays.items():
        np.save(folder / f"train_{name}.npy", np.concatenate(parts))
    return loader.rows, ",".join(str(dataset.manifest.rows_of(name)) for name in loader.layout.categorical)


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


def our_rate(data: Path, folder: Path, precision: str) -> float:
    """Rows a second over all epochs."""
    command = [sys.executable, "-m", "dist_rec.cli.main", "train", str(ROOT / "configs" / "dlrm_criteo.toml")]
    command += [f"data.path={data}", f"train.batch={BATCH}", f"train.epochs={EPOCHS}", "optimizer.name=adagrad"]
    command += ["optimizer.lr=0.02", f"train.precision={precision}", "--json"]
    command += ["--run-dir", tempfile.mkdtemp(dir=folder) + "/run"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"our run failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])["train"]["rows_per_s"]


def main() -> None:
    """Prints the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder made by `dist-rec prepare criteo`")
    parser.add_argument("--reference", type=Path, required=True, help="a checkout of facebookresearch/dlrm")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {"reference fp32": [], "ours bf16": [], "ours fp32": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows, sizes = save_as_npy(arguments.data, folder)
        for _ in range(arguments.repeats):
            rates["reference fp32"].append(reference_rate(arguments.reference, folder, rows, sizes))
            rates["ours bf16"].append(our_rate(arguments.data.resolve(), folder, "bf16"))
            rates["ours fp32"].append(our_rate(arguments.data.resolve(), folder, "fp32"))
            print({name: round(values[-1]) for name, values in rates.items()}, flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        print(f"{name:<15} {median:>9,.0f} rows/s   {median / medians['reference fp32']:.2f}x the reference")
    print(json.dumps({"rows_per_s": medians, "ratio": medians["ours bf16"] / medians["reference fp32"]}))


if __name__ == "__main__":
    main()
