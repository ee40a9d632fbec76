"""Every head learns the same on several processes as on one, also when one of them has no rows."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from dist_rec.core.head import CatalogHead, find_head
from dist_rec.core.noise import noise
from dist_rec.core.process import this_process
from dist_rec.embedding.sharded_tensors import parts
from dist_rec.train.config import RunConfig
from dist_rec.train.model import build_model, build_optimizer
from dist_rec.train.spec import resolve
from tests.distributed.test_sharding import ROWS, make_batch
from tests.heads import CASES
from tests.processes import run_distributed
from tests.small_head import MANIFEST

State = dict[tuple[str, int, int], Tensor]
"""Parts of the model by name and place (row, column)."""


def run_config(name: str, settings: dict[str, Any], precision: str = "fp32") -> RunConfig:
    return RunConfig.parse(
        {
            "data": {"path": "unused"},
            "head": {"name": name, **settings},
            "task": {"name": "rating" if issubclass(find_head(name), CatalogHead) else "click"},
            "embedding": {"init": 0.5, "sharding": "row_wise"},
            "optimizer": {"name": "sgd", "lr": 0.1},
            "train": {"precision": precision, "batch": ROWS},
        }
    )


def train_one_step(name: str, settings: dict[str, Any], bounds: list[int]) -> tuple[float, State]:
    """The global loss, and the model's state on this process after the step."""
    process, run = this_process("cpu"), run_config(name, settings)
    model = build_model(resolve(run, MANIFEST), process)
    optimizer = build_optimizer(run, model)
    start, stop = bounds[process.rank : process.rank + 2]
    noise.begin(0, 0, start, stop - start)
    loss, _ = model(make_batch(start, stop, process.world, int(np.diff(bounds).max())))
    loss.backward()
    optimizer.step()
    total = loss.detach().clone()
    dist.all_reduce(total)
    state = {
        (name, part.row, part.column): part.tensor.clone()
        for name, value in model.state_dict().items()
        for part in parts(value)
    }
    return float(total) / process.world, state


def train_all(bounds: list[int]) -> list[tuple[float, State]]:
    """One process group for all heads: starting processes is what takes the time."""
    torch.set_num_threads(1)
    return [train_one_step(name, settings, bounds) for name, settings in CASES]


@pytest.fixture(scope="module")
def alone() -> list[tuple[float, State]]:
    return run_distributed(train_all, 1, [0, ROWS])[0]


@pytest.mark.parametrize("bounds", [[0, 9, ROWS], [0, 11, ROWS, ROWS]], ids=["2 processes", "3, one without rows"])
def test_sharded_equals_unsharded(alone: list[tuple[float, State]], bounds: list[int]) -> None:
    for rank in run_distributed(train_all, len(bounds) - 1, bounds):
        for (name, settings), expected, result in zip(CASES, alone, rank, strict=True):
            assert result[0] == pytest.approx(expected[0], abs=1e-5), (name, settings)
            for (key, row, column), part in result[1].items():
                whole = expected[1][key, 0, 0]
                if part.dim() == 2:
                    whole = whole[row : row + part.shape[0], column : column + part.shape[1]]
                difference = (part - whole).abs().max() if part.numel() else 0
                assert difference < 1e-5, (name, settings, key)


def loss_and_predictions(name: str, settings: dict[str, Any], precision: str) -> tuple[Tensor, Tensor]:
    """The loss in training, whose gradients are computed, and the predictions in evaluation."""
    batch = make_batch(0, ROWS, 1, ROWS)
    spec = resolve(run_config(name, settings, precision), MANIFEST)
    model = build_model(spec, this_process("cpu"))
    with torch.no_grad():
        predictions = spec.task.evidence(model.eval().module.scores(batch), batch)[0]
    noise.begin(0, 0, 0, ROWS)
    loss, _ = model.train()(batch)
    loss.backward()
    return loss.detach(), predictions


def in_both_precisions() -> list[list[tuple[Tensor, Tensor]]]:
    torch.set_num_threads(1)
    return [[loss_and_predictions(*case, precision) for precision in ("fp32", "fp64")] for case in CASES]


def test_fp64_is_close_to_fp32() -> None:
    (found,) = run_distributed(in_both_precisions, 1)
    for (name, settings), (single, double) in zip(CASES, found, strict=True):
        for expected, value in zip(single, double, strict=True):
            torch.testing.assert_close(value.float(), expected.float(), rtol=1e-4, atol=1e-5, msg=f"{name} {settings}")
