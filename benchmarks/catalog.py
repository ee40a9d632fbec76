"""A softmax step and exact top-K over a large catalog: memory of each process, time, and errors beside dense PyTorch.

    torchrun --nproc-per-node 2 benchmarks/catalog.py --rows 2000000 --dim 64

The table starts at random. The first process makes the dense comparison, from a whole table of its own, while the
others wait. No file or network is needed.
"""

import argparse
import os
import resource
import statistics
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel
from torchrec.sparse.jagged_tensor import JaggedTensor

from dist_rec.core import head
from dist_rec.core.process import Process, process_group, this_process
from dist_rec.core.schema import Column, Manifest, Table
from dist_rec.embedding.catalog import build_catalog
from dist_rec.embedding.catalog_losses import cross_entropy
from dist_rec.embedding.layer import EmbeddingLayer
from dist_rec.embedding.ranking import top_k
from dist_rec.embedding.sharded_tensors import parts
from dist_rec.embedding.sharding import shard
from dist_rec.embedding.tables import EmbeddingConfig, EmbeddingTable
from dist_rec.train.state import state_of

SEED = 0
# Queries of the dense comparison at a time: 2 GB of scores of 2 million rows.
DENSE_QUERIES = 250


class Softmax(nn.Module):
    """Inputs → queries → mean loss."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__()
        manifest = Manifest(
            columns=(Column(name="item", kind="categorical", table="item"),),
            tables={"item": Table(rows=arguments.rows)},
            splits={},
        )
        config = EmbeddingConfig.parse({"optimizer": arguments.optimizer, "lr": 0.001, "init": 0.1})
        self.layer = EmbeddingLayer((), ())
        self.tower = nn.Linear(arguments.dim, arguments.dim, bias=False)
        self.catalog = build_catalog(head.Catalog("items", "item", arguments.dim), manifest, config)

    def forward(self, inputs_BD: Tensor, target_B: Tensor, scale: float) -> Tensor:
        """The mean over processes is the mean over the global batch."""
        targets = JaggedTensor(target_B, lengths=torch.ones_like(target_B))
        return cross_entropy(self.catalog(self.tower(inputs_BD)), targets).sum() * scale


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64, help="global, of a step")
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--queries", type=int, default=1000, help="of top-K, on all processes together")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    process = this_process()
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    with process_group(process):
        torch.manual_seed(SEED)
        model = Softmax(arguments)
        model.tower.to(process.device)
        table, weight_DD = model.catalog.table, model.tower.weight.detach().clone()
        sharded = shard(model, model.layer, (), process, SEED)
        if process.first:
            print(f"{process.world} on {process.device}, {threads} threads each, load {load:.1f}; {vars(arguments)}")
            print(f"table and optimizer state of a process: {held(sharded) / 2**20:,.0f} MiB")
        ranking(arguments, process, sharded, table)
        softmax_steps(arguments, process, sharded, table, weight_DD)
        if process.first:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(f"peak memory of process 0 with the dense comparison: {peak / 2**10:,.0f} MiB")


def held(model: DistributedModelParallel) -> int:
    """Bytes of the catalog and its optimizer's state on this process."""
    state = state_of(model, model.fused_optimizer)
    return sum(part.tensor.nbytes for name, value in state.items() if "catalog" in name for part in parts(value))


def softmax_steps(
    arguments: argparse.Namespace,
    process: Process,
    model: DistributedModelParallel,
    table: EmbeddingTable,
    tower_DD: Tensor,
) -> None:
    """Time of a step, and the first loss beside the dense one in float64."""
    batch_BD, target_B = inputs(arguments.batch, arguments), torch.arange(arguments.batch) * 31 % arguments.rows
    mine = slice(process.rank, None, process.world)
    seconds, losses = [], []
    for _ in range(arguments.steps):
        started = synchronised(process)
        model.fused_optimizer.zero_grad()
        scale = process.world / arguments.batch
        loss = model(batch_BD[mine].to(process.device), target_B[mine].to(process.device), scale)
        loss.backward()
        model.fused_optimizer.step()
        seconds.append(synchronised(process) - started)
        dist.all_reduce(total := loss.detach().clone())
        losses.append(total.item() / process.world)
    if process.first:
        query_BD = (batch_BD.to(tower_DD.device) @ tower_DD.t()).double()
        logits_BR = query_BD @ whole(table, process).double().t()
        dense = nn.functional.cross_entropy(logits_BR, target_B.to(process.device)).item()
        print(f"softmax step: {statistics.median(seconds):.2f} s; losses {', '.join(f'{loss:.6f}' for loss in losses)}")
        print(f"first loss {losses[0]:.7f}, dense in float64 {dense:.7f}: {abs(losses[0] / dense - 1):.1e} apart")


def ranking(
    arguments: argparse.Namespace, process: Process, model: DistributedModelParallel, table: EmbeddingTable
) -> None:
    """Time and result of exact top-K beside `torch.topk` on the whole matrix."""
    queries_BD = inputs(arguments.queries, arguments).to(process.device)
    share = -(-arguments.queries // process.world)
    mine_BD = queries_BD[process.rank * share : (process.rank + 1) * share]
    started = synchronised(process)
    with torch.no_grad():
        scores_BK, ids_BK = top_k(model.module.catalog(mine_BD), arguments.k)
    seconds = synchronised(process) - started
    if process.first:
        weight_RD = whole(table, process)
        started = time.perf_counter()
        parts = [(part_BD @ weight_RD.t()).topk(arguments.k + 1) for part_BD in mine_BD.split(DENSE_QUERIES)]
        dense_seconds = time.perf_counter() - started
        expected_BK, expected_ids_BK = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        equal_BK = (expected_BK.unsqueeze(2) == expected_BK.unsqueeze(1)).sum(2)[:, : arguments.k] > 1
        expected_BK, expected_ids_BK = expected_BK[:, : arguments.k], expected_ids_BK[:, : arguments.k]
        error = (scores_BK - expected_BK).abs().max()
        different = int(((ids_BK != expected_ids_BK) & ~equal_BK).sum())
        print(f"top {arguments.k} of {arguments.queries} queries: {seconds:.2f} s on {process.world}")
        print(
            f"torch.topk on the whole matrix, {len(mine_BD)} queries on one process alone, {DENSE_QUERIES} at a time: "
            f"{dense_seconds:.2f} s; largest difference of scores {error:.1e}, other ids than ties {different}"
        )
    dist.barrier()


def inputs(rows: int, arguments: argparse.Namespace) -> Tensor:
    """The same on all processes."""
    return torch.randn(rows, arguments.dim, generator=torch.Generator().manual_seed(SEED))


def whole(table: EmbeddingTable, process: Process) -> Tensor:
    """The initial weights of all rows."""
    return torch.from_numpy(table.initial_rows(SEED, 0, table.rows)).to(process.device)


def synchronised(process: Process) -> float:
    """The time when all processes and the device are here."""
    if process.device.type == "cuda":
        torch.cuda.synchronize()
    dist.barrier()
    return time.perf_counter()


if __name__ == "__main__":
    main()
