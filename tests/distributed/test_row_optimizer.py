"""Row rules in a run: mixed with fused ones, pipelined, interrupted, accumulated, saved and resharded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer

from dist_rec.core.batch import Batch
from dist_rec.core.process import Process, this_process
from dist_rec.embedding.tables import EmbeddingConfig, embedding_tables
from dist_rec.train.config import RunConfig
from dist_rec.train.model import build_model, build_optimizer
from dist_rec.train.spec import resolve
from dist_rec.train.state import state_of
from tests.distributed.test_sharding import LR, ROWS, my_batch, tables_of
from tests.processes import run_distributed
from tests.small_head import MANIFEST, SmallHead


def mixed(sharding: str, optimizer: str = "adam", history: str = "sgd", **settings: float) -> RunConfig:
    """FTRL for one lookup, by default fused SGD for another, the rest as said; vectors of 6 columns, padded to 8."""
    return RunConfig.parse(
        {
            "data": {"path": "unused"},
            "head": {"name": "tests.small_head", "dim": 6},
            "embedding": {
                "sharding": sharding,
                "optimizer": optimizer,
                "lr": LR,
                "eps": 1e-4,
                **settings,
                "lookups": {
                    "mean": {"optimizer": "ftrl", "l1": 0.01, "weight_decay": 0.1, "momentum": 0.0},
                    "history": {"optimizer": history},
                },
            },
            "optimizer": {"name": "sgd", "lr": LR},
            "train": {"precision": "fp32", "batch": ROWS},
        }
    )


def build(run: RunConfig) -> tuple[Process, DistributedModelParallel, CombinedOptimizer]:
    process = this_process("cpu")
    model = build_model(resolve(run, MANIFEST), process)
    return process, model, build_optimizer(run, model)


def train(run: RunConfig, seeds: range, pipelined: bool) -> list:
    process, model, optimizer = build(run)
    if not pipelined:
        for seed in seeds:
            train_step(model, optimizer, my_batch(process, seed))
        return tables_of(model)
    pipeline = TrainPipelineSparseDist(model, optimizer, process.device, execute_all_batches=True)
    batches = iter([my_batch(process, seed) for seed in seeds])
    for _ in seeds:
        pipeline.progress(batches)
    pipeline.detach()
    return tables_of(model)


def train_step(
    model: DistributedModelParallel, optimizer: CombinedOptimizer, *batches: Batch, factor: float = 1
) -> None:
    """A step on the sum of the batches' losses, each with its own backward pass."""
    optimizer.zero_grad()
    for batch in batches:
        loss, _ = model(batch)
        (factor * loss).backward()
    optimizer.step()


def whole(results: list[list]) -> dict[str, Tensor]:
    """The tables, put together from all processes' parts."""
    lookups = SmallHead.lookups(SmallHead.Config(dim=6), MANIFEST)
    tables = embedding_tables(lookups, MANIFEST, EmbeddingConfig())
    weights = {str(table.name): torch.full((table.rows, table.padded_dim), torch.nan) for table in tables}
    for shards in results:
        for name, row, column, part in shards:
            weights[name][row : row + part.shape[0], column : column + part.shape[1]] = part
    return weights


def assert_same(results: list[list], expected: list[list], lookup: str = "") -> None:
    ours, theirs = whole(results), whole(expected)
    for name in (name for name in ours if name.startswith(lookup)):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5, rtol=1e-5, err_msg=name)
        assert (ours[name][:, 6:] == 0).all(), f"{name}: padding"


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise"])
def test_the_pipeline_trains_the_same(sharding: str) -> None:
    run = mixed(sharding)
    assert_same(run_distributed(train, 2, run, range(4), True), run_distributed(train, 2, run, range(4), False))


def go_on(run: RunConfig, folder: Path, seeds: range) -> tuple[list, dict[str, int]]:
    """Loads what the run before saved, trains on batches of these seeds, saves; returns the tables and step counts."""
    process, model, optimizer = build(run)
    if seeds.start:
        optimizer.init_state()
        dcp.load(state_of(model, optimizer), checkpoint_id=folder / str(seeds.start))
    for seed in seeds:
        train_step(model, optimizer, my_batch(process, seed))
    dcp.save(state_of(model, optimizer), checkpoint_id=folder / str(seeds.stop))
    counts = {
        key: int(value)
        for state in optimizer.state_dict()["state"].values()
        for key, value in state.items()
        if key.endswith(".step")
    }
    return tables_of(model), counts


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        (["table_wise", "row_wise", "column_wise"], {}),
        (["column_wise", "table_wise", "row_wise"], {}),
        (["column_wise", "row_wise", "table_wise"], {"optimizer": "adagrad", "history": "adagrad", "momentum": 0.5}),
    ],
    ids=["to column_wise", "from column_wise", "momentum"],
)
def test_checkpoints_reshard(path: list[str], settings: dict[str, Any], tmp_path: Path) -> None:
    for world, sharding, seeds in zip((1, 2, 4), path, (range(2), range(2, 4), range(4, 6)), strict=True):
        results = run_distributed(go_on, world, mixed(sharding, **settings), tmp_path, seeds)
    assert all(count == 6 for _, counts in results for count in counts.values())
    assert {key for _, counts in results for key in counts} >= {"mean/tag.step", "pooled/user.step"}
    straight = run_distributed(train, 1, mixed("table_wise", **settings), range(6), False)
    assert_same([tables for tables, _ in results], straight)


def interrupted(run: RunConfig, twice: bool) -> tuple[list, list, list]:
    """Tables: at the start, after lookups that end without a step, and after a step of 2 × the gradient."""
    process, model, optimizer = build(run)
    start = tables_of(model)
    batch = my_batch(process, 0)
    model.eval()
    model(my_batch(process, 7))
    with torch.no_grad():
        model(my_batch(process, 8))
    model.train()
    model(my_batch(process, 9))
    optimizer.init_state()
    before = tables_of(model)
    if twice:
        train_step(model, optimizer, batch, batch)
    else:
        train_step(model, optimizer, batch, factor=2)
    once = tables_of(model)
    optimizer.step()
    for (_, _, _, now), (_, _, _, then) in zip(tables_of(model), once, strict=True):
        assert torch.equal(now, then), "a step without a backward pass moved weights"
    return start, before, once


def test_only_a_step_moves_weights_and_gradients_accumulate() -> None:
    run = mixed("row_wise", history="adam")
    twice, once = (run_distributed(interrupted, 2, run, twice) for twice in (True, False))
    assert_same([result[0] for result in twice], [result[1] for result in twice])
    assert_same([result[2] for result in twice], [result[2] for result in once])


def halved(run: RunConfig) -> list:
    """One step at half of the learning rate."""
    process, model, optimizer = build(run)
    for group in optimizer.param_groups:
        group["lr"] /= 2
    train_step(model, optimizer, my_batch(process, 0))
    return tables_of(model)


def test_param_groups_hold_the_learning_rate() -> None:
    settings = {"optimizer": "sgd", "weight_decay": 0.1}
    ours = run_distributed(halved, 1, mixed("table_wise", **settings))
    plain = run_distributed(train, 1, mixed("table_wise", **settings, lr=LR / 2), range(1), False)
    assert_same(ours, plain, lookup="pooled")
