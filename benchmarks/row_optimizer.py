"""Speed of lookup and update alone: FBGEMM's fused optimizers beside the rules of `RowOptimizer`.

    python benchmarks/row_optimizer.py --rows 100000 --dim 16

One process, Criteo's 26 tables, ids by a power law, batches in memory. The optimizers take turns and the median step
counts, so that other load on the machine weighs on all of them alike.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.core.batch import Batch
from dist_rec.core.head import Lookup
from dist_rec.core.process import Process, process_group, this_process
from dist_rec.core.schema import Column, Manifest, Table
from dist_rec.embedding.layer import EmbeddingLayer
from dist_rec.embedding.row_optimizer import RowOptimizer
from dist_rec.embedding.sharding import shard
from dist_rec.embedding.tables import EmbeddingConfig, embedding_tables

TABLES = 26
SKEW = 4.0  # of the ids: uniform numbers in [0, 1) to this power
CHOICES: dict[str, dict[str, object]] = {
    "fused rowwise_adagrad": {"optimizer": "rowwise_adagrad"},
    "fused adagrad": {"optimizer": "adagrad"},
    "fused sgd": {"optimizer": "sgd"},
    "adam": {"optimizer": "adam"},
    "ftrl, l1": {"optimizer": "ftrl", "l1": 1e-6},
    "rowwise_adagrad, weight_decay": {"optimizer": "rowwise_adagrad", "weight_decay": 1e-6},
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="of each table")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=40, help="of each optimizer")
    arguments = parser.parse_args()
    process = this_process()
    with process_group(process):
        batches = [make_batch(arguments.rows, arguments.batch, seed).to(process.device) for seed in range(8)]
        runs = {name: stepper(settings, arguments, process, batches) for name, settings in CHOICES.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(arguments.steps):
            for name, step in runs.items():
                seconds[name].append(timed(step, process.device))
    rates = {name: arguments.batch / statistics.median(times) for name, times in seconds.items()}
    print(f"{process.device}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; {vars(arguments)}")
    for name, rate in rates.items():
        print(f"{name:<32}{rate:>12,.0f} examples/s{rate / rates['fused rowwise_adagrad']:>8.2f}")


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def stepper(
    settings: dict[str, object], arguments: argparse.Namespace, process: Process, batches: list[Batch]
) -> Callable[[], None]:
    """A function that looks one batch up and updates its rows."""
    config = EmbeddingConfig.parse({**settings, "sharding": "table_wise"})
    names = tuple(f"c{number}" for number in range(TABLES))
    manifest = Manifest(
        columns=tuple(Column(name=name, kind="categorical", table=name) for name in names),
        tables={name: Table(rows=arguments.rows) for name in names},
        splits={},
    )
    lookups = (Lookup("factors", names, arguments.dim),)
    tables = embedding_tables(lookups, manifest, config)
    layer = EmbeddingLayer(lookups, tables)
    model = shard(nn.Sequential(layer), layer, tables, process, seed=0)
    optimizer = RowOptimizer(model)
    gradient = torch.randn(arguments.batch, TABLES, arguments.dim, device=process.device)
    endless: Iterator[Batch] = cycle(batches)

    def step() -> None:
        model(next(endless)).pooled["factors"].backward(gradient)
        optimizer.step()

    step()
    return step


def make_batch(rows: int, batch: int, seed: int) -> Batch:
    """One id a table and row."""
    random = torch.Generator().manual_seed(seed)
    ids = (torch.rand(TABLES * batch, generator=random) ** SKEW * rows).long()
    ones: Tensor = torch.ones(TABLES * batch, dtype=torch.int32)
    return Batch(
        dense=torch.empty(batch, 0),
        ids=KeyedJaggedTensor.from_lengths_sync([f"c{number}" for number in range(TABLES)], ids, ones),
        weighted_ids=KeyedJaggedTensor.empty(),
        labels=torch.zeros(batch),
        weights=torch.ones(batch),
        scale=torch.tensor(1.0),
    )


if __name__ == "__main__":
    main()
