"""Sharded equals unsharded: scores, loss and one training step, for every sharding, optimizer and world size."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.core.batch import Batch
from dist_rec.core.head import Inputs, Sequence
from dist_rec.core.process import this_process
from dist_rec.embedding.sharding import column_parts, local_shards
from dist_rec.embedding.tables import EmbeddingTable, embedding_tables
from dist_rec.train.config import RunConfig
from dist_rec.train.model import build_model, build_optimizer
from tests.processes import run_distributed
from tests.small_head import MANIFEST, SmallHead

ROWS = 23
LR = 0.1
SHARDINGS = ["table_wise", "row_wise", "column_wise", "table_row_wise", "grid", "data_parallel"]
WITH_SEQUENCE = ["table_wise", "row_wise", "column_wise"]


def config(sharding: str, optimizer: str) -> RunConfig:
    return RunConfig.parse(
        {
            "data": {"path": "unused"},
            "head": {"name": "tests.small_head", "with_sequence": sharding in WITH_SEQUENCE},
            "embedding": {"sharding": sharding, "optimizer": optimizer, "lr": LR},
            "optimizer": {"name": "sgd", "lr": LR},
            "train": {"precision": "fp32", "batch": ROWS},
        }
    )


def make_batch(start: int, stop: int, world: int, padded: int) -> Batch:
    """Rows [start, stop) of one global batch, the same whatever the dealing; then empty rows up to `padded`."""
    rng = np.random.default_rng(5)
    dense = torch.from_numpy(rng.random((ROWS, 2), np.float32))
    columns = {}
    for name in ("user", "item", "tags", "history", "scores"):
        rows = MANIFEST.rows_of(name)
        lengths = np.ones(ROWS, np.int64) if name in ("user", "item") else rng.integers(0, 4, ROWS)
        columns[name] = [rng.integers(0, rows, length) for length in lengths]
    weights = [rng.random(len(ids), np.float32) for ids in columns["scores"]]
    labels = torch.from_numpy(rng.integers(0, 2, ROWS).astype(np.float32))
    mine = slice(start, stop)
    return Batch(
        dense=dense[mine],
        ids=keyed({name: columns[name][mine] for name in ("user", "item", "tags", "history")}, padded),
        weighted_ids=keyed({"scores": columns["scores"][mine]}, padded, weights[mine]),
        labels=labels[mine],
        weights=torch.ones(stop - start),
        scale=torch.tensor(world / ROWS),
    )


def keyed(columns: dict, padded: int, weights: list | None = None) -> KeyedJaggedTensor:
    rows = [ids for column in columns.values() for ids in [*column, *[[]] * (padded - len(column))]]
    return KeyedJaggedTensor(
        keys=list(columns),
        values=torch.tensor([id for ids in rows for id in ids], dtype=torch.int64),
        lengths=torch.tensor([len(ids) for ids in rows], dtype=torch.int32),
        weights=None if weights is None else torch.from_numpy(np.concatenate([np.empty(0, np.float32), *weights])),
    )


def train_one_step(sharding: str, optimizer_name: str, empty_rank: bool) -> tuple[float, Tensor, list]:
    """Returns the global loss, this process's scores and its parts of the tables after the step."""
    process = this_process("cpu")
    run = config(sharding, optimizer_name)
    model = build_model(run, MANIFEST, process)
    optimizer = build_optimizer(run, model)
    bounds = [0] + [ROWS * (rank + 1) // process.world + 1 for rank in range(process.world - 1)] + [ROWS]
    if empty_rank:
        bounds[-2] = ROWS
    padded = int(np.diff(bounds).max())
    batch = make_batch(bounds[process.rank], bounds[process.rank + 1], process.world, padded)
    loss, output = model(batch)
    loss.backward()
    optimizer.step()
    total = loss.detach().clone()
    dist.all_reduce(total)
    shards = [
        (name.rsplit(".", 2)[-2], part.row, part.column, part.tensor.detach().clone())
        for name, part in local_shards(model.state_dict())
        if "/" in name
    ]
    return float(total) / process.world, output.scores, shards


class Reference:
    """The same model in plain PyTorch."""

    def __init__(self, run: RunConfig) -> None:
        head_config = run.head_config()
        lookups = SmallHead.lookups(head_config, MANIFEST)
        torch.manual_seed(run.seed)
        self.head = SmallHead(head_config, MANIFEST)
        self.tables = embedding_tables(lookups, MANIFEST, run.embedding)
        self.weights = {
            table.name: torch.from_numpy(table.initial_rows(run.seed, 0, table.rows)).requires_grad_()
            for table in self.tables
        }

    def lookup(self, batch: Batch, table: EmbeddingTable, feature: str) -> Tensor:
        column = (batch.weighted_ids if table.weighted else batch.ids)[feature]
        per_row = functional.embedding(column.values(), self.weights[table.name])
        if table.pooling == "none":
            return per_row
        if table.weighted:
            per_row = per_row * column.weights().unsqueeze(1)
        rows = torch.repeat_interleave(torch.arange(ROWS), column.lengths())
        pooled = torch.zeros(ROWS, table.padded_dim).index_add(0, rows, per_row)
        return pooled / column.lengths().clamp(min=1).unsqueeze(1) if table.pooling == "mean" else pooled

    def step(self, batch: Batch) -> tuple[float, Tensor]:
        by_feature = {(t.name.split("/")[0], f): self.lookup(batch, t, f) for t in self.tables for f in t.features}
        inputs = Inputs(
            dense=batch.dense,
            pooled={
                "pooled": torch.stack([by_feature["pooled", f] for f in ("user", "item", "tags", "scores")], dim=1),
                "mean": by_feature["mean", "tags"].unsqueeze(1),
            },
        )
        if ("history", "history") in by_feature:
            lengths = batch.ids["history"].lengths()
            inputs.sequences = {"history": {"history": Sequence(by_feature["history", "history"], lengths)}}
        scores = self.head(inputs)
        loss = functional.binary_cross_entropy_with_logits(scores, batch.labels)
        loss.backward()
        return loss.item(), scores.detach()


def updated(weights: Tensor, optimizer: str, column_groups: int) -> Tensor:
    """One step by the formulas: column-wise shards of row-wise Adagrad each have their own mean square."""
    gradient = weights.grad
    weights = weights.detach()
    if optimizer == "sgd":
        return weights - LR * gradient
    if optimizer == "rowwise_adagrad":
        groups = gradient.unflatten(1, (column_groups, -1))
        return weights - LR * (groups / (groups.square().mean(2, keepdim=True).sqrt() + 1e-8)).flatten(1)
    touched = (gradient != 0).any(1, keepdim=True)
    # The first step of Adagrad, and of Adam after its bias correction, is the sign of the gradient.
    return weights - LR * touched * gradient / (gradient.abs() + 1e-8)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "sgd"])
def test_sharded_equals_unsharded(sharding: str, world: int, optimizer: str) -> None:
    check(sharding, world, optimizer)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_other_optimizers(optimizer: str) -> None:
    check("row_wise", 2, optimizer)


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "data_parallel"])
def test_a_process_without_rows(sharding: str) -> None:
    check(sharding, 3, "rowwise_adagrad", empty_rank=True)


def check(sharding: str, world: int, optimizer: str, empty_rank: bool = False) -> None:
    reference = Reference(config(sharding, optimizer))
    loss, scores = reference.step(make_batch(0, ROWS, 1, ROWS))
    results = run_distributed(train_one_step, world, sharding, optimizer, empty_rank)
    assert all(abs(result[0] - loss) < 1e-5 for result in results)
    torch.testing.assert_close(torch.cat([result[1] for result in results]), scores, atol=1e-5, rtol=1e-5)
    seen = {name: torch.zeros(weights.shape) for name, weights in reference.weights.items()}
    for _, _, shards in results:
        for name, row, column, part in shards:
            groups = column_parts(8, world) if sharding == "column_wise" else 1
            expected = updated(reference.weights[name], optimizer, groups)
            place = (slice(row, row + part.shape[0]), slice(column, column + part.shape[1]))
            torch.testing.assert_close(part, expected[place], atol=1e-5, rtol=1e-5)
            seen[name][place] += 1
    copies = world if sharding == "data_parallel" else 1
    assert all((count == copies).all() for count in seen.values())
