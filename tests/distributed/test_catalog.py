"""A catalog on several processes equals the dense matrix: losses, gradients, a step, ranking, and what is saved."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.nn import functional
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardedTensor
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from dist_rec.core import head
from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.core.head import Ids
from dist_rec.core.process import this_process
from dist_rec.core.schema import Column, Manifest, Table
from dist_rec.embedding import ranking
from dist_rec.embedding import scores as scores_module
from dist_rec.embedding.catalog import build_catalog
from dist_rec.embedding.catalog_losses import (
    against_samples,
    bpr,
    bpr_max,
    cross_entropy,
    gaussian,
    logistic,
    sampled_logistic,
    sampled_softmax,
    squared_error,
    top1,
    top1_max,
)
from dist_rec.embedding.layer import EmbeddingLayer
from dist_rec.embedding.ranking import places, top_k
from dist_rec.embedding.row_optimizer import RowOptimizer
from dist_rec.embedding.scores import CatalogScores, TableShard
from dist_rec.embedding.sharding import shard
from dist_rec.embedding.tables import EmbeddingConfig, embedding_tables
from dist_rec.train.pipeline import SequentialPipeline
from dist_rec.train.state import state_of
from tests.distributed.test_sharding import ROWS as BATCH
from tests.distributed.test_sharding import make_batch, my_batch, stepped
from tests.processes import ProcessFailure, run_distributed
from tests.small_head import MANIFEST as SMALL_DATA

ROWS, DIM, QUERIES, INPUTS, LR = 37, 6, 11, 4, 0.1
WISH = head.Catalog("items", "item", DIM, bias=True, init=0.5)
SAMPLES = torch.tensor([3, 36, 3, 0, 18, 19, 7])
LOG_Q = torch.linspace(-3, -1, len(SAMPLES))


def manifest(rows: int = ROWS) -> Manifest:
    return Manifest(
        columns=(Column(name="item", kind="categorical", table="item"),), tables={"item": Table(rows=rows)}, splits={}
    )


class Rows(NamedTuple):
    """A part of the global batch: inputs of queries, targets, and rows that do not count in ranking."""

    inputs: Tensor
    targets: Ids
    seen: Ids


def batch(start: int = 0, stop: int = QUERIES, rows: int = ROWS) -> Rows:
    rng = np.random.default_rng(3)
    inputs = torch.from_numpy(rng.normal(size=(QUERIES, INPUTS)).astype(np.float32))
    targets = [rng.permutation(rows)[: rng.integers(0, 4)] for _ in range(QUERIES)]
    seen = [rng.permutation(rows)[: rng.integers(0, rows - 4)] for _ in range(QUERIES)]
    weights = [rng.random(len(ids)).astype(np.float32) for ids in targets]
    return Rows(inputs[start:stop], jagged(targets[start:stop], weights[start:stop]), jagged(seen[start:stop]))


def jagged(ids: list, weights: list | None = None) -> Ids:
    return Ids(
        torch.from_numpy(np.concatenate([np.empty(0, np.int64), *ids])),
        lengths=torch.tensor([len(row) for row in ids], dtype=torch.int32),
        weights=None if weights is None else torch.from_numpy(np.concatenate([np.empty(0, np.float32), *weights])),
    )


def my_rows(rows: int = ROWS) -> Rows:
    """An uneven share of the batch; of several processes the second has none."""
    rank, world = dist.get_rank(), dist.get_world_size()
    bounds = [0, *(QUERIES * (part + 1) // world - 1 for part in range(world - 1)), QUERIES]
    if world > 1:
        bounds[2 if world > 2 else 1] = bounds[1 if world > 2 else 2]
    return batch(bounds[rank], bounds[rank + 1], rows)


class Model(nn.Module):
    """Inputs → queries → scores → what a function makes of them: DDP has to see the loss."""

    def __init__(self, config: EmbeddingConfig, rows: int, cosine: bool = False) -> None:
        super().__init__()
        self.layer = EmbeddingLayer((), ())
        self.tower = nn.Linear(INPUTS, DIM)
        self.catalog = build_catalog(replace(WISH, cosine=cosine), manifest(rows), config)

    def forward(self, inputs: Tensor, use: Callable[[Any], Any] = lambda scores: scores) -> Any:
        return use(self.catalog(self.tower(inputs)))


def build(
    config: EmbeddingConfig, rows: int = ROWS, cosine: bool = False
) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    process = this_process("cpu")
    torch.manual_seed(1)
    model = Model(config, rows, cosine)
    model = shard(model, model.layer, (), process, seed=7)
    dense = dict(in_backward_optimizer_filter(model.named_parameters()))
    assert set(dense) == {"tower.weight", "tower.bias"}
    sgd = KeyedOptimizerWrapper(dense, lambda parameters: torch.optim.SGD(parameters, lr=LR))
    return model, CombinedOptimizer([model.fused_optimizer, sgd])


def settings(optimizer: str, **values: float | str) -> EmbeddingConfig:
    return EmbeddingConfig.parse({"optimizer": optimizer, "lr": LR, "eps": 1e-4, **values})


Loss = Callable[[Any, Ids], Tensor]


def sampled(kind: Callable[..., Tensor], *arguments: Tensor | float) -> Loss:
    def loss(scores: CatalogScores, targets: Ids) -> Tensor:
        return kind(*against_samples(scores, targets, SAMPLES), *arguments)

    return loss


def squared_error_of_sigmoids(scores: CatalogScores, targets: Ids) -> Tensor:
    scores.prediction = lambda scores, ids: scores.of_pairs(ids).sigmoid()
    return squared_error(scores, targets)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "logistic": logistic,
    "gaussian": lambda scores, targets: gaussian(scores, targets, confidence=2.0, background=0.3),
    "squared_error": squared_error,
    "squared_error sigmoid": squared_error_of_sigmoids,
    "sampled_logistic": lambda scores, targets: sampled_logistic(scores, targets, SAMPLES),
    "sampled_softmax": sampled(sampled_softmax, LOG_Q),
    "bpr": sampled(bpr),
    "top1": sampled(top1),
    "bpr_max": sampled(bpr_max, 0.5),
    "top1_max": sampled(top1_max),
    "cross_entropy of cosines": cross_entropy,
    "sampled_softmax of cosines": sampled(sampled_softmax, LOG_Q),
}
COSINES = " of cosines"
SAMPLED = tuple(name for name in LOSSES if not name.startswith(("cross_entropy", "logistic", "gaussian")))


def dense_loss(name: str, s_BR: Tensor, targets: Ids) -> Tensor:
    """The formulas on the whole matrix: the sum over all queries."""
    query_V = torch.arange(QUERIES).repeat_interleave(targets.lengths)
    ids_V, w_V = targets.values, targets.weights
    x_BR = torch.zeros_like(s_BR).index_put((query_V, ids_V), w_V)
    s_V = s_BR[query_V, ids_V]
    s_VS, other_VS = s_BR[query_V][:, SAMPLES], ids_V.unsqueeze(1) != SAMPLES
    mean_VS = other_VS / other_VS.sum(1, keepdim=True)
    match name.removesuffix(COSINES):
        case "cross_entropy":
            return -(x_BR * s_BR.log_softmax(1)).sum()
        case "logistic":
            return functional.binary_cross_entropy_with_logits(s_BR, x_BR, reduction="sum")
        case "gaussian":
            c_BR = torch.full_like(s_BR, 0.3).index_put((query_V, ids_V), torch.tensor(2.0))
            return (c_BR / 2 * (x_BR - s_BR).square()).sum()
        case "squared_error":
            return (w_V - s_V).square().sum()
        case "squared_error sigmoid":
            return (w_V - s_V.sigmoid()).square().sum()
        case "sampled_logistic":
            return -(s_V.sigmoid().log() + (mean_VS * (1 - s_VS.sigmoid()).log()).sum(1)).sum()
        case "sampled_softmax":
            stands_for_VS = other_VS / (len(SAMPLES) * LOG_Q.exp())
            return ((s_V.exp() + (s_VS.exp() * stands_for_VS).sum(1)).log() - s_V).sum()
        case "bpr":
            return -((s_V.unsqueeze(1) - s_VS).sigmoid().log() * mean_VS).sum()
    top1_VS = (s_VS - s_V.unsqueeze(1)).sigmoid() + s_VS.square().sigmoid()
    p_VS = s_VS.exp() * other_VS / (s_VS.exp() * other_VS).sum(1, keepdim=True)
    match name:
        case "top1":
            return (top1_VS * mean_VS).sum()
        case "top1_max":
            return (top1_VS * p_VS).sum()
    assert name == "bpr_max"
    beaten_V = (p_VS * (s_V.unsqueeze(1) - s_VS).sigmoid()).sum(1)
    return (0.5 * p_VS * s_VS.square()).sum() - beaten_V.log().sum()


def train(config: EmbeddingConfig, name: str, steps: int, rows: int = ROWS) -> tuple[list[float], dict[str, Tensor]]:
    """Global losses of the steps, and the parameters at the end, whole."""
    scores_module.CHUNK = 5 * QUERIES  # rows in chunks that no number of processes divides evenly
    model, optimizer = build(config, rows, name.endswith(COSINES))
    losses = []
    for _ in range(steps):
        loss = train_step(model, optimizer, my_rows(rows), LOSSES[name])
        dist.all_reduce(loss)
        losses.append(float(loss) / dist.get_world_size())
    return losses, whole(state_of(model, optimizer))


def train_step(model: nn.Module, optimizer: CombinedOptimizer, part: Rows, loss: Loss) -> Tensor:
    """One step; the mean over processes of what is differentiated is the mean over the global batch."""
    optimizer.zero_grad()
    total = model(part.inputs, lambda scores: loss(scores, part.targets).sum()) * (dist.get_world_size() / QUERIES)
    total.backward()
    optimizer.step()
    return total.detach()


def whole(state: dict[str, Tensor | ShardedTensor]) -> dict[str, Tensor]:
    """Every tensor, put together from the rows that the processes hold."""
    mine: dict[str, list] = {}
    for name, value in state.items():
        if isinstance(value, ShardedTensor):
            mine[name] = [(part.metadata.shard_offsets[0], part.tensor) for part in value.local_shards()]
    everyone: list = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    parts: dict[str, list] = {}
    for name, shards in (item for theirs in everyone for item in theirs.items()):
        parts.setdefault(name, []).extend(shards)
    gathered = {
        name: torch.cat([tensor for _, tensor in sorted(shards, key=lambda shard: shard[0])])
        for name, shards in parts.items()
    }
    assert all(gathered[name].shape == state[name].size() for name in mine)
    return {**state, **gathered}


def dense_train(config: EmbeddingConfig, name: str, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    """The same in plain PyTorch."""
    torch.manual_seed(1)
    model = Model(config, ROWS, name.endswith(COSINES))
    catalog = model.catalog
    catalog.to_empty(device="cpu")
    with torch.no_grad():
        catalog.weight.copy_(torch.from_numpy(catalog.table.initial_rows(7, 0, ROWS)))
        catalog.bias.zero_()
    matrices = {"weight": catalog.weight, "bias": catalog.bias}
    state = {key: {slot: torch.zeros_like(matrix) for slot in ("s", "n", "v")} for key, matrix in matrices.items()}
    targets, losses = batch().targets, []
    touched = torch.cat([targets.values, SAMPLES]).unique() if "squared" not in name else targets.values.unique()
    touched = touched if name in SAMPLED else torch.arange(ROWS)
    for step in range(1, steps + 1):
        loss = dense_loss(name, model(batch().inputs), targets) / QUERIES
        model.zero_grad()
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for parameter in model.tower.parameters():
                parameter -= LR * parameter.grad
            for key, matrix in matrices.items():
                decay = config.weight_decay if key == "weight" else 0
                gradient = matrix.grad[touched] + decay * matrix[touched]
                before = {slot: value[touched] for slot, value in state[key].items()}
                matrix[touched], after = row_step(config, matrix[touched], gradient, before, step)
                for slot, value in after.items():
                    state[key][slot][touched] = value
    return losses, {name: parameter.detach() for name, parameter in model.named_parameters()}


def row_step(config: EmbeddingConfig, w: Tensor, g: Tensor, state: dict[str, Tensor], step: int) -> tuple:
    if config.optimizer == "rowwise_adagrad":
        n = state["n"] + g.square().mean(1, keepdim=True)
        return w - LR * g / (n.sqrt() + config.eps), {"n": n}
    return stepped(config, w, g, state, step, column_groups=1)


def train_each(cases: list[tuple[EmbeddingConfig, str]], steps: int) -> list[tuple[list[float], dict[str, Tensor]]]:
    """All in the same processes, whose start takes longer."""
    return [train(config, name, steps) for config, name in cases]


def check(cases: list[tuple[EmbeddingConfig, str]], world: int, steps: int) -> None:
    results = run_distributed(train_each, world, cases, steps)
    for number, (config, name) in enumerate(cases):
        losses, parameters = dense_train(config, name, steps)
        for ours, state in (result[number] for result in results):
            case = f"{name} by {config.optimizer} on {world}"
            np.testing.assert_allclose(ours, losses, rtol=1e-5, atol=1e-5, err_msg=case)
            assert_close({key: state[f"model.{key}"] for key in parameters}, parameters, case)


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], case: str = "") -> None:
    for name, value in theirs.items():
        message = f"{case} {name}: "
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-5, msg=message.__add__)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_losses_and_gradients(world: int) -> None:
    check([(settings("sgd"), name) for name in LOSSES], world, steps=2)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_row_rules(weight_decay: float) -> None:
    optimizers = ("sgd", "rowwise_adagrad", "adagrad", "adam", "ftrl")
    configs = [settings(optimizer, weight_decay=weight_decay, l1=0.01, l2=0.1) for optimizer in optimizers]
    configs += [settings(optimizer, weight_decay=weight_decay, momentum=0.5) for optimizer in ("sgd", "adagrad")]
    check([(config, name) for config in configs for name in ("cross_entropy", "bpr")], world=2, steps=3)


def rank_all(rows: int) -> tuple[Tensor, ...]:
    ranking.CHUNK, ranking.QUERIES = 4 * QUERIES, 4
    model, _ = build(settings("sgd"), rows)
    mine = my_rows(rows)
    scores = model(mine.inputs)
    return (
        *top_k(scores, 5, mine.seen),
        places(scores, mine.targets, mine.seen),
        *top_k(scores, rows + 2),
        places(scores, mine.targets),
    )


@pytest.mark.parametrize(("world", "rows"), [(1, ROWS), (2, ROWS), (3, ROWS), (4, ROWS), (4, 5)])
def test_ranking(world: int, rows: int) -> None:
    torch.manual_seed(1)
    model, part = Model(settings("sgd"), rows), batch(rows=rows)
    weight = torch.from_numpy(model.catalog.table.initial_rows(7, 0, rows))
    s_BR = (model.tower(part.inputs) @ weight.t()).detach()
    left_BR = s_BR.clone()
    query_X = torch.arange(QUERIES).repeat_interleave(part.seen.lengths[:QUERIES])
    left_BR[query_X, part.seen.values] = -torch.inf
    query_V = torch.arange(QUERIES).repeat_interleave(part.targets.lengths)
    target_V = s_BR[query_V, part.targets.values].unsqueeze(1)
    best_BK, ids_BK, places_V2, all_BR, order_BR, places_of_all_V2 = (
        torch.cat(parts) for parts in zip(*run_distributed(rank_all, world, rows), strict=True)
    )
    k = min(5, rows)
    torch.testing.assert_close(best_BK[:, :k], left_BR.topk(k).values)
    expected_BK = left_BR.topk(k).indices.masked_fill(left_BR.topk(k).values == -torch.inf, -1)
    assert torch.equal(ids_BK[:, :k], expected_BK)
    ranks_V1 = (left_BR[query_V] > target_V).sum(1, keepdim=True).double()
    assert torch.equal(places_V2, ranks_V1.expand(-1, 2))
    torch.testing.assert_close(all_BR[:, :rows], s_BR.sort(descending=True).values)
    assert torch.equal(order_BR[:, :rows], s_BR.sort(descending=True).indices)
    assert (order_BR[:, rows:] == -1).all()
    assert (all_BR[:, rows:] == -torch.inf).all()
    assert torch.equal(places_of_all_V2, (s_BR[query_V] > target_V).sum(1, keepdim=True).double().expand(-1, 2))


def nobody_has_targets() -> list[float]:
    model, optimizer = build(settings("sgd"))
    part = Rows(torch.ones(3, INPUTS), jagged([[]] * 3, [[]] * 3), jagged([[]] * 3))
    assert len(places(model(part.inputs), part.targets)) == 0
    return [train_step(model, optimizer, part, loss).item() for loss in LOSSES.values()]


def test_a_batch_without_targets() -> None:
    for sums in run_distributed(nobody_has_targets, 2):
        losses = dict(zip(LOSSES, sums, strict=True))
        assert losses.pop("logistic") > 0
        assert losses.pop("gaussian") > 0
        assert all(loss == 0 for loss in losses.values())


def go_on(config: EmbeddingConfig, folder: Path, start: int, stop: int, rows: int) -> dict[str, Tensor]:
    """Loads what the run before saved, trains, saves."""
    model, optimizer = build(config, rows)
    optimizer.init_state()
    if start:
        dcp.load(state_of(model, optimizer), checkpoint_id=folder / str(start))
    for _ in range(start, stop):
        train_step(model, optimizer, my_rows(rows), cross_entropy)
    dcp.save(state_of(model, optimizer), checkpoint_id=folder / str(stop))
    return whole(state_of(model, optimizer))


@pytest.mark.parametrize(
    ("optimizer", "momentum", "rows"), [("adam", 0.0, ROWS), ("adagrad", 0.5, ROWS), ("rowwise_adagrad", 0.0, 5)]
)
def test_checkpoints_reshard(optimizer: str, momentum: float, rows: int, tmp_path: Path) -> None:
    config = settings(optimizer, momentum=momentum)
    run_distributed(go_on, 2, config, tmp_path, 0, 2, rows)
    run_distributed(go_on, 1, config, tmp_path, 2, 3, rows)
    run_distributed(go_on, 3, config, tmp_path, 3, 4, rows)
    resumed = run_distributed(go_on, 4, config, tmp_path, 4, 5, rows)[0]
    _, straight = run_distributed(train, 1, config, "cross_entropy", 5, rows)[0]
    assert resumed.keys() == straight.keys()
    assert_close(resumed, straight)


def copied() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state dict loaded into another model, by the modules' own methods."""
    model, optimizer = build(settings("adam"))
    train_step(model, optimizer, my_rows(), cross_entropy)
    other, other_optimizer = build(settings("adam"))
    before = whole(state_of(model, optimizer))
    other_optimizer.init_state()
    other_optimizer.load_state_dict(optimizer.state_dict())
    other.load_state_dict(model.state_dict())
    return before, whole(state_of(other, other_optimizer))


def test_state_dicts_load() -> None:
    for before, after in run_distributed(copied, 2):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


class Picker(nn.Module):
    """A recommender of the usual form: lookups → queries → scores → loss."""

    def __init__(self, config: EmbeddingConfig, tied: bool) -> None:
        super().__init__()
        lookups = (head.Lookup("inputs", ("user", "history"), DIM, init=0.5),)
        wish = replace(WISH, tied="inputs" if tied else None)
        self.tables = embedding_tables(lookups, SMALL_DATA, config, (wish,))
        self.embeddings = EmbeddingLayer(lookups, self.tables)
        self.tower = Tower()
        self.catalog = build_catalog(wish, SMALL_DATA, config)
        self.objective = PickerLoss()

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        scores = self.catalog(self.tower(self.embeddings(batch)))
        return self.objective(scores, batch)


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, DIM)

    def forward(self, inputs: head.Inputs) -> Tensor:
        return self.linear(inputs.dense) + inputs.pooled["inputs"].sum(1)


class PickerLoss(nn.Module):
    """Over all rows and over samples, so that gradients are dense and sparse."""

    def forward(self, scores: CatalogScores, batch: Batch) -> tuple[Tensor, Tensor]:
        targets = batch.column("item")
        compared = against_samples(scores, targets, SAMPLES % SMALL_DATA.tables["item"].rows)
        loss = (cross_entropy(scores, targets) + bpr(*compared)).sum() * batch.scale
        return loss, loss.detach()


STEPS = 3


def pick(config: EmbeddingConfig, tied: bool, pipelined: bool) -> dict[str, Tensor]:
    process = this_process("cpu")
    torch.manual_seed(1)
    model = Picker(config, tied)
    sharded = shard(model, model.embeddings, model.tables, process, seed=7)
    dense = dict(in_backward_optimizer_filter(sharded.named_parameters()))
    sgd = KeyedOptimizerWrapper(dense, lambda parameters: torch.optim.SGD(parameters, lr=LR))
    optimizer = CombinedOptimizer([sharded.fused_optimizer, RowOptimizer(sharded), sgd])
    overlapped = TrainPipelineSparseDist(sharded, optimizer, process.device, execute_all_batches=True)
    pipeline = overlapped if pipelined else SequentialPipeline(sharded, optimizer, skip_nonfinite=False)
    batches = iter([my_batch(process, seed, empty_rank=process.world > 1 and seed == 1) for seed in range(STEPS)])
    losses = torch.stack([pipeline.progress(batches) for _ in range(STEPS)])
    dist.all_reduce(losses)
    return {"losses": losses / process.world, **whole(state_of(pipeline.detach(), optimizer))}


@pytest.mark.parametrize("tied", [False, True])
def test_lookups_and_the_pipeline(tied: bool) -> None:
    """On any number of processes, pipelined or not, the same model comes out."""
    config = settings("adam", init=0.5)
    (alone,) = run_distributed(pick, 1, config, tied, False)
    assert alone["losses"].isfinite().all()
    assert ("model.catalog.weight" in alone) != tied
    for world, pipelined in [(2, False), (3, True)]:
        for ours in run_distributed(pick, world, config, tied, pipelined):
            missing = alone.keys() - ours.keys()  # counts of steps of tables that lie on another process
            assert all(name.startswith("optimizer.embeddings") and name.endswith(".step") for name in missing)
            assert_close(ours, {name: value for name, value in alone.items() if name in ours})


@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad"])
def test_a_tied_table_learns_from_both_faces(optimizer: str) -> None:
    config = settings(optimizer, init=0.5)
    ours = run_distributed(pick, 2, config, True, False)[0]
    torch.manual_seed(1)
    model = Picker(config, tied=True)
    rows = {str(table.name): torch.from_numpy(table.initial_rows(7, 0, table.rows)[:, :DIM]) for table in model.tables}
    user, item = (rows[f"inputs/{name}"].requires_grad_() for name in ("user", "item"))
    bias = torch.zeros(len(item), 1).requires_grad_()
    squares = {table: torch.zeros(len(table), 1) for table in (user, item, bias)}
    for step, loss in enumerate(ours["losses"]):
        batch = make_batch(0, BATCH, 1, BATCH, step)
        history, query_V = batch.ids["history"], torch.arange(BATCH).repeat_interleave(batch.ids["history"].lengths())
        inputs_BD = user[batch.ids["user"].values()].index_add(0, query_V, item[history.values()])
        scores = CatalogScores(TableShard(item, bias, 0), model.tower.linear(batch.dense) + inputs_BD)
        dense_loss, _ = model.objective(scores, batch)
        torch.testing.assert_close(loss, dense_loss.detach(), rtol=1e-5, atol=1e-5)
        dense_loss.backward()
        with torch.no_grad():
            for parameter in model.tower.parameters():
                parameter -= LR * parameter.grad
            for table, n in squares.items():
                gradient = table.grad
                if optimizer == "rowwise_adagrad":  # FBGEMM's mean is over the padding as well
                    n += gradient.square().sum(1, keepdim=True) / (1 if table is bias else 8)
                    gradient = gradient / (n.sqrt() + config.eps)
                table -= LR * gradient
        for parameter in (user, item, bias, *model.tower.parameters()):
            parameter.grad = None
    expected = {"model.embeddings.bags.embedding_bags.inputs/item.weight": item, "model.catalog.bias": bias}
    assert_close({name: ours[name][:, : value.shape[1]] for name, value in expected.items()}, expected)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ({}, {"tied": "other"}, "no lookup 'other' of 6 columns has the table 'item'"),
        ({}, {"tied": "inputs", "dim": 8}, "no lookup 'inputs' of 8 columns"),
        ({}, {"tied": "inputs", "feature": "tags"}, "no lookup 'inputs' of 6 columns has the table 'tag'"),
    ],
)
def test_what_cannot_be_tied(config: dict, change: dict, message: str) -> None:
    lookups = (head.Lookup("inputs", ("user", "history"), DIM),)
    with pytest.raises(UserError, match=message):
        embedding_tables(lookups, SMALL_DATA, EmbeddingConfig.parse(config), (replace(WISH, **change),))


def test_a_tied_table_is_cut_by_rows() -> None:
    with pytest.raises(ProcessFailure, match="a catalog is tied to it, which needs row_wise; remove sharding="):
        run_distributed(pick, 1, settings("sgd", sharding="table_wise"), True, False)
