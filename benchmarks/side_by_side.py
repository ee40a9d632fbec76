"""What the benchmarks beside a peer share: our rate, the peer's data, and medians of runs in turn."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.loader import Loader, LoaderConfig
from dist_rec.data.shards import Dataset

ROOT = Path(__file__).parents[1]


def training_arrays(data: Path, features: tuple[str, ...] | None = None) -> dict[str, NDArray[Any]]:
    """The training split in memory: dense [R, N], sparse [R, C], labels [R, 1], and the sizes of the tables [C]."""
    dataset = Dataset(data)
    loader = Loader(dataset, "train", LoaderConfig(path=str(data)), batch=8192, features=features, shuffle=False)
    batches = list(loader.batches(0, loader.steps_per_epoch))
    names = loader.layout.categorical
    arrays = {
        "dense": [batch.dense.numpy() for batch in batches],
        "sparse": [batch.ids.values().view(len(names), -1).t().numpy() for batch in batches],
        "labels": [batch.labels.unsqueeze(1).numpy() for batch in batches],
    }
    joined = {name: np.concatenate(parts) for name, parts in arrays.items()}
    return {**joined, "sizes": np.array([dataset.manifest.rows_of(name) for name in names])}


def our_rate(config: str, data: Path, *settings: str) -> float:
    """Training rows a second of `dist-rec train configs/CONFIG.toml`, one process, with loading, without evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dist_rec.cli.main", "train", str(ROOT / "configs" / f"{config}.toml")]
        command += [f"data.path={data}", *settings, "--json", "--run-dir", f"{folder}/run"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"our run failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])["train"]["rows_per_s"]


def peer_rate(script: str, folder: Path, *arguments: str | Path) -> float:
    """Training rows a second that a script prints as `rate …`; it imports the peer from the folder."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(os.cpu_count())}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    found = re.search(r"^rate ([\d.]+)$", run.stdout, re.MULTILINE)
    if not found:
        sys.exit(f"the peer did not run:\n{run.stderr[-2000:]}")
    return float(found[1])


def beside(
    description: str | None,
    rates: Callable[[Path, Path, Path], dict[str, Callable[[], float]]],
    features: tuple[str, ...] | None = None,
) -> None:
    """The command of a benchmark beside a peer in Python.

    Args:
        description: for `--help`.
        rates: of the prepared folder, the peer's folder and the file of `training_arrays`.
        features: id columns of the arrays; all if nothing is said.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder made by `dist-rec prepare`")
    parser.add_argument("--peer", type=Path, required=True, help="the folder of the peer's code")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        arrays = Path(temporary) / "train.npz"
        np.savez(arrays, **training_arrays(data, features))
        compare(rates(data, arguments.peer, arrays), arguments.repeats)


def compare(rates: dict[str, Callable[[], float]], repeats: int) -> None:
    """Measures each in turn, several times; prints the medians and their ratios to the first one, the peer's."""
    found: dict[str, list[float]] = {name: [] for name in rates}
    for _ in range(repeats):
        for name, rate in rates.items():
            found[name].append(rate())
        print({name: round(values[-1]) for name, values in found.items()}, flush=True)
    medians = {name: statistics.median(values) for name, values in found.items()}
    peer = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"{name:<28} {median:>11,.0f} rows/s   {median / peer:.2f}x")
    print(json.dumps({"rows_per_s": medians, "ratios": {name: median / peer for name, median in medians.items()}}))
