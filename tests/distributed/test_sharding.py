"""Sharded equals unsharded: scores, loss and one training step, for every sharding, optimizer and world size."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torchrec.distributed import DistributedModelParallel
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.core.batch import Batch
from dist_rec.core.head import Inputs, Sequence
from dist_rec.core.process import Process, this_process
from dist_rec.core.table_name import by_table
from dist_rec.embedding.layer import embedding_layer
from dist_rec.embedding.sharded_tensors import parts
from dist_rec.embedding.sharding import column_parts
from dist_rec.embedding.tables import EmbeddingTable, TableSettings, embedding_tables
from dist_rec.train.config import RunConfig
from dist_rec.train.model import build_model, build_optimizer
from dist_rec.train.spec import resolve
from tests.processes import ProcessFailure, run_distributed
from tests.small_head import MANIFEST, SmallHead

ROWS = 23
LR = 0.1
EPS = 1e-4  # the default would make a step of rounding errors where a gradient is all but 0
SHARDINGS = ["table_wise", "row_wise", "column_wise", "table_row_wise", "grid", "data_parallel"]
WITH_SEQUENCE = ["table_wise", "row_wise", "column_wise"]


def config(sharding: str, optimizer: str, **settings: float) -> RunConfig:
    return RunConfig.parse(
        {
            "data": {"path": "unused"},
            "head": {"name": "tests.small_head", "with_sequence": sharding in WITH_SEQUENCE},
            "embedding": {"sharding": sharding, "optimizer": optimizer, "lr": LR, **settings},
            "optimizer": {"name": "sgd", "lr": LR},
            "train": {"precision": "fp32", "batch": ROWS},
        }
    )


def make_batch(start: int, stop: int, world: int, padded: int, seed: int = 5) -> Batch:
    """Rows [start, stop) of one global batch, the same whatever the dealing; then empty rows up to `padded`."""
    rng = np.random.default_rng(seed)
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


def my_batch(process: Process, seed: int, empty_rank: bool = False) -> Batch:
    """This process's uneven share of a global batch; with `empty_rank` the last process has no row."""
    bounds = [0] + [ROWS * (rank + 1) // process.world + 1 for rank in range(process.world - 1)] + [ROWS]
    if empty_rank:
        bounds[-2] = ROWS
    padded = int(np.diff(bounds).max())
    return make_batch(bounds[process.rank], bounds[process.rank + 1], process.world, padded, seed)


def train(run: RunConfig, steps: int, empty_rank: bool) -> tuple[list[float], Tensor, list]:
    """Returns the global losses, this process's scores in the first step and its parts of the tables at the end."""
    process = this_process("cpu")
    model = build_model(resolve(run, MANIFEST), process)
    optimizer = build_optimizer(run, model)
    embedding_layer(model).is_local = process.world == 1
    losses = []
    scores = scores_of(model, my_batch(process, 5, empty_rank))
    for step in range(steps):
        optimizer.zero_grad()
        loss, _ = model(my_batch(process, 5 + step, empty_rank))
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(float(total) / process.world)
    return losses, scores, tables_of(model)


@torch.no_grad()
def scores_of(model: DistributedModelParallel, batch: Batch) -> Tensor:
    model.eval()
    scores = model.module.scores(batch)
    model.train()
    return scores


def tables_of(model: DistributedModelParallel) -> list[tuple[str, int, int, Tensor]]:
    """This process's parts of the tables: name, first row, first column, weights."""
    return [
        (str(table), part.row, part.column, part.tensor.detach().clone())
        for table, value in by_table(model.state_dict().items()).items()
        for part in parts(value)
    ]


class Reference:
    """The same model in plain PyTorch."""

    def __init__(self, run: RunConfig) -> None:
        head_config = run.head_config()
        lookups = SmallHead.lookups(head_config, MANIFEST)
        torch.manual_seed(run.seed)
        self.head = SmallHead(head_config, MANIFEST)
        self.tables = embedding_tables(lookups, MANIFEST, run.embedding)
        self.weights = {
            str(table.name): torch.from_numpy(table.initial_rows(run.seed, 0, table.rows)).requires_grad_()
            for table in self.tables
        }
        self.state = {
            name: {slot: torch.zeros_like(weights) for slot in ("s", "n", "v")}
            for name, weights in self.weights.items()
        }
        self.steps = 0

    def lookup(self, batch: Batch, table: EmbeddingTable, feature: str) -> Tensor:
        column = (batch.weighted_ids if table.weighted else batch.ids)[feature]
        per_row = functional.embedding(column.values(), self.weights[str(table.name)])
        if table.pooling == "none":
            return per_row
        if table.weighted:
            per_row = per_row * column.weights().unsqueeze(1)
        rows = torch.repeat_interleave(torch.arange(ROWS), column.lengths())
        pooled = torch.zeros(ROWS, table.padded_dim).index_add(0, rows, per_row)
        return pooled / column.lengths().clamp(min=1).unsqueeze(1) if table.pooling == "mean" else pooled

    def step(self, seed: int, column_groups: int) -> tuple[float, Tensor]:
        """One training step; returns the loss and the scores."""
        self.steps += 1
        batch = make_batch(0, ROWS, 1, ROWS, seed)
        by_feature = {(t.name.lookup, f): self.lookup(batch, t, f) for t in self.tables for f in t.features}
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
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter -= LR * parameter.grad
                parameter.grad = None
            for table in self.tables:
                self.update(table, batch, column_groups)
        return loss.item(), scores.detach()

    def update(self, table: EmbeddingTable, batch: Batch, column_groups: int) -> None:
        """The formulas on whole tables; rows that are not in the batch keep weights and state."""
        weights, state, settings = self.weights[str(table.name)], self.state[str(table.name)], table.settings
        columns = [(batch.weighted_ids if table.weighted else batch.ids)[feature] for feature in table.features]
        rows = torch.cat([column.values() for column in columns]).unique()
        old = weights.detach()[rows]
        gradient = weights.grad[rows] + settings.weight_decay * old
        before = {name: value[rows] for name, value in state.items()}
        new, after = stepped(settings, old, gradient, before, self.steps, column_groups)
        weights[rows], weights.grad = new, None
        for name, value in after.items():
            state[name][rows] = value


def stepped(
    settings: TableSettings, w: Tensor, g: Tensor, state: dict[str, Tensor], step: int, column_groups: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step of rows by the papers' formulas: the new weights and state."""
    s, n, v = state["s"], state["n"], state["v"]
    match settings.optimizer:
        case "sgd":
            v = settings.momentum * v - LR * g
            return w + v, {"v": v}
        case "rowwise_adagrad":  # column-wise shards each have their own mean square
            n = n + g.square().unflatten(1, (column_groups, -1)).mean(2).repeat_interleave(8 // column_groups, 1)
            return w - LR * g / (n.sqrt() + settings.eps), {"n": n}
        case "adagrad":
            n = n + g.square()
            v = settings.momentum * v - LR * g / (n.sqrt() + settings.eps)
            return w + v, {"n": n, "v": v}
        case "adam":
            s, n = 0.9 * s + 0.1 * g, 0.999 * n + 0.001 * g.square()
            return w - LR * s / (1 - 0.9**step) / ((n / (1 - 0.999**step)).sqrt() + settings.eps), {"s": s, "n": n}
    assert settings.optimizer == "ftrl"
    l1, l2 = settings.l1, settings.l2
    s = torch.where(n == 0, -(1 / LR + l2) * w - w.sign() * l1, s)  # which is where the initial weights come from
    s = s + g - ((n + g.square()).sqrt() - n.sqrt()) / LR * w
    n = n + g.square()
    return torch.where(s.abs() <= l1, 0, -(s - s.sign() * l1) / ((1 + n.sqrt()) / LR + l2)), {"s": s, "n": n}


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "sgd"])
def test_sharded_equals_unsharded(sharding: str, world: int, optimizer: str) -> None:
    check(config(sharding, optimizer), world)


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_one_process_that_calls_the_kernels_itself(sharding: str) -> None:
    check(config(sharding, "sgd" if sharding == "data_parallel" else "adam"), 1, steps=2)


@pytest.mark.parametrize("sharding", SHARDINGS[:-1])
@pytest.mark.parametrize(("optimizer", "momentum"), [("adam", 0.0), ("ftrl", 0.0), ("adagrad", 0.5)])
def test_row_rules(sharding: str, optimizer: str, momentum: float) -> None:
    check(config(sharding, optimizer, eps=EPS, l1=0.01, l2=0.1, momentum=momentum), 2, steps=3)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "adam", "sgd", "ftrl"])
@pytest.mark.parametrize("sharding", ["row_wise", "column_wise"])
def test_weight_decay(sharding: str, optimizer: str) -> None:
    check(config(sharding, optimizer, eps=EPS, weight_decay=0.1), 2, steps=2)


def test_adagrad() -> None:
    check(config("row_wise", "adagrad", eps=EPS), 2, steps=2)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adam"])
@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "data_parallel"])
def test_a_process_without_rows(sharding: str, optimizer: str) -> None:
    if (sharding, optimizer) != ("data_parallel", "adam"):
        check(config(sharding, optimizer), 3, empty_rank=True)


@pytest.mark.parametrize(
    "settings", [{"optimizer": "adam"}, {"optimizer": "ftrl"}, {"weight_decay": 0.1}, {"momentum": 0.5}]
)
def test_data_parallel_refuses_what_moves_other_rows(settings: dict) -> None:
    with pytest.raises(ProcessFailure, match="data_parallel takes sgd, adagrad"):
        run_distributed(train, 1, config("data_parallel", **{"optimizer": "sgd", **settings}), 1, False)


def check(run: RunConfig, world: int, steps: int = 1, empty_rank: bool = False) -> None:
    reference = Reference(run)
    groups = column_parts(8, world) if run.embedding.sharding == "column_wise" else 1
    losses, scores = zip(*[reference.step(5 + step, groups) for step in range(steps)], strict=True)
    results = run_distributed(train, world, run, steps, empty_rank)
    for result in results:
        np.testing.assert_allclose(result[0], losses, atol=1e-5)
    torch.testing.assert_close(torch.cat([result[1] for result in results]), scores[0], atol=1e-5, rtol=1e-5)
    seen = {name: torch.zeros(weights.shape) for name, weights in reference.weights.items()}
    for _, _, shards in results:
        for name, row, column, part in shards:
            place = (slice(row, row + part.shape[0]), slice(column, column + part.shape[1]))
            torch.testing.assert_close(part, reference.weights[name].detach()[place], atol=1e-5, rtol=1e-5)
            seen[name][place] += 1
    copies = world if run.embedding.sharding == "data_parallel" else 1
    assert all((count == copies).all() for count in seen.values())
