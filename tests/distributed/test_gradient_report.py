"""What is told of a step beside its loss: learning rates, the norm of the dense gradient, how often it was clipped."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from dist_rec.core.process import this_process
from dist_rec.train.config import RunConfig
from dist_rec.train.dense_gradient import MeasuredOptimizer, gradient_report
from dist_rec.train.run_folder import RunFolder
from dist_rec.train.trainer import Trainer
from tests.processes import run_distributed
from tests.small_data import write_small_data


def train(config: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Trains; the records of the steps."""
    folder.mkdir(exist_ok=True)
    trainer = Trainer(RunConfig.parse(config), this_process("cpu"), RunFolder(folder))
    trainer.fit()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if '"train"' in line]


def settings(data: Path, **optimizer: Any) -> dict[str, Any]:
    return {
        "data": {"path": str(data)},
        "head": {"name": "tests.small_head"},
        "embedding": {"lr": 0.05},
        "optimizer": {"lr": 0.01, **optimizer},
        "schedule": {"warmup_steps": 4},
        "train": {"precision": "fp64", "batch": 60, "steps": 8, "log_every": 2},
    }


def test_every_record_has_rates_and_gradient_on_any_number_of_processes(tmp_path: Path) -> None:
    data = write_small_data(tmp_path / "data")
    (free,) = run_distributed(train, 1, settings(data), tmp_path / "free")
    assert [record["lr"] for record in free] == pytest.approx([0.005, 0.01, 0.01, 0.01])
    assert [record["embedding_lr"] for record in free] == pytest.approx([0.025, 0.05, 0.05, 0.05])
    assert all(record["grad_norm"] > 0 and "clipped" not in record for record in free)
    clipping = {"name": "sgd", "lr": 1e-9, "clip_norm": free[0]["grad_norm"] / 2}
    (one,) = run_distributed(train, 1, settings(data, **clipping), tmp_path / "one")
    two, _ = run_distributed(train, 2, settings(data, **clipping), tmp_path / "two")
    for records in (one, two):
        assert records[0]["grad_norm"] > clipping["clip_norm"] and records[0]["clipped"] > 0
    for name in ("grad_norm", "clipped", "lr"):
        assert [record[name] for record in two] == pytest.approx([record[name] for record in one], rel=1e-6)
    apart = settings(data)
    apart["embedding"] = {"lr": 0.05, "lookups": {"mean": {"lr": 0.5}}}
    (records,) = run_distributed(train, 1, apart, tmp_path / "apart")
    assert records[-1]["embedding_lr/mean/tag"] == 0.5 and records[-1]["embedding_lr/pooled/user"] == 0.05


def of_one(clip_norm: float | None) -> tuple[torch.nn.Parameter, CombinedOptimizer]:
    weight = torch.nn.Parameter(torch.zeros(2))
    keyed = KeyedOptimizerWrapper({"weight": weight}, lambda parameters: torch.optim.SGD(parameters, lr=1.0))
    return weight, CombinedOptimizer([MeasuredOptimizer(keyed, clip_norm)])


def test_how_often_is_counted_from_one_report_to_the_next() -> None:
    weight, optimizer = of_one(clip_norm=5.0)
    for scale in (1.0, 2.0, 0.5, 1.5):
        optimizer.zero_grad()
        weight.grad = scale * torch.tensor([3.0, 4.0])
        optimizer.step()
    assert gradient_report(optimizer) == {"grad_norm": 7.5, "clipped": 0.5}
    assert weight.grad.norm() == pytest.approx(5)
    optimizer.zero_grad()
    optimizer.step()  # of a skipped batch
    assert all(math.isnan(value) for value in gradient_report(optimizer).values())


def test_the_norm_is_measured_without_clipping_too() -> None:
    weight, optimizer = of_one(clip_norm=None)
    weight.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert gradient_report(optimizer) == {"grad_norm": 5.0}
    assert weight.tolist() == [-3.0, -4.0]
    assert gradient_report(CombinedOptimizer([])) == {}
