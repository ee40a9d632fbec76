"""How long training stands still for a checkpoint: asynchronous beside synchronous, of a model of some gigabytes.

python benchmarks/checkpoint.py [--gigabytes 4] [--folder DIR]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from dist_rec.core.log import quiet_libraries
from dist_rec.core.process import process_group, this_process
from dist_rec.core.schema import Column, Manifest, Table
from dist_rec.train.checkpoint import Checkpoints
from dist_rec.train.config import CheckpointConfig, RunConfig
from dist_rec.train.model import build_model, build_optimizer
from dist_rec.train.saver import Saver
from dist_rec.train.spec import resolve

DIM, TABLES, SAVES = 64, 8, 3


def stalls(gigabytes: float, folder: Path, asynchronous: bool) -> list[float]:
    """Seconds that `save` takes away from training, for each of a few saves."""
    rows = int(gigabytes * 2**30 / 4 / (DIM + 1) / TABLES)
    names = [f"cat_{index}" for index in range(TABLES)]
    manifest = Manifest(
        columns=(Column(name="label", kind="label"), *(Column(name=n, kind="categorical", table=n) for n in names)),
        tables={name: Table(rows=rows) for name in names},
        splits={},
    )
    config = RunConfig.parse({"data": {"path": "none"}, "head": {"name": "dlrm", "dim": DIM, "top": (64,)}})
    process = this_process("cpu")
    with process_group(process):
        model = build_model(resolve(config, manifest), process)
        optimizer = build_optimizer(config, model)
        config_of_saves = CheckpointConfig(asynchronous=asynchronous, keep=1)
        saver = Saver(Checkpoints(folder, process), config_of_saves, process)
        saver.reserve(model, optimizer)
        found = []
        for step in range(SAVES):
            started = time.perf_counter()
            saver.save(step, model, optimizer, {"best_step": None})
            found.append(time.perf_counter() - started)
            saver.wait()
        saver.close()
    return found


def main() -> None:
    """Prints the stalls and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of weights and optimizer state")
    parser.add_argument("--folder", type=Path, help="where to save [default: a temporary folder]")
    arguments = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        synchronous = stalls(arguments.gigabytes, Path(temporary) / "synchronous", False)
        asynchronous = stalls(arguments.gigabytes, Path(temporary) / "asynchronous", True)
    ratio = statistics.median(asynchronous) / statistics.median(synchronous)
    print("synchronous saves ", " ".join(f"{seconds:.2f} s" for seconds in synchronous))
    print("asynchronous saves", " ".join(f"{seconds:.2f} s" for seconds in asynchronous), "(until training goes on)")
    print(json.dumps({"synchronous_s": synchronous, "asynchronous_s": asynchronous, "ratio": ratio}))


if __name__ == "__main__":
    main()
