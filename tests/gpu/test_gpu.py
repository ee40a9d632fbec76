"""What a GPU computes is what the CPU computes: one step, whole runs with evaluations between, resuming, metrics.

A GPU is fed by another pipeline than a CPU. TorchRec's runs on CPUs too, so its part is also tested without a GPU.
"""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from dist_rec.core.process import Process, process_group, this_process
from dist_rec.data.loader import Loader
from dist_rec.data.shards import Dataset
from dist_rec.embedding.sharded_tensors import parts
from dist_rec.embedding.tables import OptimizerName
from dist_rec.tasks.metrics import ClickMetrics
from dist_rec.train import trainer as trainer_module
from dist_rec.train.config import RunConfig
from dist_rec.train.interruption import SIGNALS
from dist_rec.train.model import build_model, build_optimizer
from dist_rec.train.pipeline import SkippingPipeline
from dist_rec.train.run_folder import RunFolder
from dist_rec.train.spec import resolve
from dist_rec.train.state import state_of
from dist_rec.train.trainer import Trainer
from tests.small_data import write_small_data

STEPS = 24
SGD = {"name": "sgd", "lr": 0.1}
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
HEADS: list[dict[str, Any]] = [
    {"name": "dlrm", "dim": 8, "bottom": [16], "top": [16]},
    {"name": "tests.small_head", "with_sequence": True},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A trainer takes over the signals to stop; the tests' own process gets them back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def config(
    data: Path, head: dict[str, Any] = HEADS[0], dense: dict[str, Any] | None = None, **embedding: Any
) -> RunConfig:
    return RunConfig.parse(
        {
            "data": {"path": str(data), "streams": 8, "window": 16},
            "head": head,
            "embedding": {"lr": 0.05, "init": 0.1, **embedding},
            "optimizer": dense or {},
            "schedule": {"warmup_steps": 5, "decay": "linear"},
            "train": {"precision": "fp32", "batch": 60, "steps": STEPS, "log_every": 1, "evaluate_every": 6},
            "checkpoint": {"every": 7, "keep": 10},
        }
    )


def one_step(run: RunConfig, process: Process) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Scores of the first batch, and all weights after one step on it."""
    dataset = Dataset(run.data.path)
    batch = next(Loader(dataset, "train", run.data, batch=run.train.batch).batches(0, 1)).to(process.device)
    with process_group(process):
        model = build_model(resolve(run, dataset.manifest), process)
        optimizer = build_optimizer(run, model)
        with torch.no_grad():
            model.eval()
            scores = model.module.scores(batch).cpu()
            model.train()
        optimizer.zero_grad()
        loss, _ = model(batch)
        loss.backward()
        optimizer.step()
        weights = {
            name: tensor.detach().cpu().clone()
            for name, value in state_of(model, None).items()
            for tensor, *_ in parts(value)
        }
    return scores, weights


def check_same_step(data: Path, head: dict[str, Any], sharding: str) -> None:
    # SGD moves a weight by what its gradient is; others' first step is the gradient's sign, however small it is.
    run = config(data, head, SGD, sharding=sharding, optimizer="sgd")
    scores, weights = one_step(run, this_process("cuda"))
    expected_scores, expected_weights = one_step(run, this_process("cpu"))
    torch.testing.assert_close(scores, expected_scores, rtol=0, atol=1e-4)
    assert weights.keys() == expected_weights.keys()
    for name, expected in expected_weights.items():
        torch.testing.assert_close(weights[name], expected, rtol=0, atol=1e-4, msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head["name"])
@pytest.mark.parametrize("sharding", ["auto", "table_wise", "row_wise", "column_wise"])
def test_one_step_is_that_of_the_cpu(data: Path, head: dict[str, Any], sharding: str) -> None:
    check_same_step(data, head, sharding)


@pytest.mark.gpu
def test_one_step_of_replicated_tables_is_that_of_the_cpu(data: Path) -> None:
    check_same_step(data, HEADS[0], "data_parallel")


class Run:
    """A trainer's whole life in a folder: train (from the newest checkpoint), keep losses and scores."""

    def __init__(self, run: RunConfig, folder: Path, device: str, stop: int = STEPS) -> None:
        folder.mkdir(exist_ok=True)
        process = this_process(device)
        with process_group(process):
            trainer = Trainer(run, process, RunFolder(folder))
            trainer.resume()
            trainer.lengths = replace(trainer.lengths, steps=stop)
            self.pipeline = trainer.pipeline
            self.scores = trainer.fit()["test"]
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        self.losses = {record["step"]: record["loss"] for record in records if record["kind"] == "train"}


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("pipeline", [TrainPipelineSparseDist, SkippingPipeline])
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head["name"])
def test_overlapped_steps_are_steps_in_order(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, pipeline: type, head: dict[str, Any]
) -> None:
    """With evaluations and checkpoints between, which empty the pipeline and take the model out of it."""
    run = config(data, head)
    in_order = Run(run, tmp_path / "in_order", "cpu")
    monkeypatch.setattr(
        trainer_module,
        "make_pipeline",
        lambda model, optimizer, device, skip_nonfinite: pipeline(model, optimizer, device),
    )
    overlapped = Run(run, tmp_path / "overlapped", device)
    assert type(overlapped.pipeline) is pipeline
    assert overlapped.losses.keys() == set(range(1, STEPS + 1))
    assert overlapped.losses == pytest.approx(in_order.losses, rel=0, abs=1e-6 if device == "cpu" else 1e-3)
    assert overlapped.scores == pytest.approx(in_order.scores, rel=0, abs=1e-6 if device == "cpu" else 5e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", get_args(OptimizerName))
def test_a_run_and_its_resumption_are_those_of_the_cpu(data: Path, tmp_path: Path, optimizer: str) -> None:
    run = config(data, optimizer=optimizer)
    expected = Run(run, tmp_path / "cpu", "cpu")
    whole = Run(run, tmp_path / "whole", "cuda")
    assert isinstance(whole.pipeline, TrainPipelineSparseDist)
    for stop in (7, 14, STEPS):
        parts = Run(run, tmp_path / "parts", "cuda", stop)
    for other in (whole, parts):
        assert other.losses == pytest.approx(expected.losses, rel=0, abs=2e-3)
    assert parts.losses == pytest.approx(whole.losses, rel=0, abs=1e-4)
    assert parts.scores == pytest.approx(whole.scores, rel=0, abs=1e-3)
    # What a GPU saved, a CPU goes on with.
    Run(run, tmp_path / "moved", "cuda", 14)
    moved = Run(run, tmp_path / "moved", "cpu")
    assert moved.losses == pytest.approx(expected.losses, rel=0, abs=2e-3)


@pytest.mark.gpu
def test_bf16_learns(data: Path, tmp_path: Path) -> None:
    run = config(data)
    train = run.train.model_copy(update={"precision": "bf16", "steps": 100, "log_every": 100})
    bf16 = Run(run.model_copy(update={"train": train}), tmp_path / "bf16", "cuda", 100)
    assert bf16.scores["auc"] > 0.7


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 4_097, 100_000])
def test_metrics_are_those_of_the_cpu(rows: int) -> None:
    random = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, generator=random).mul(4).round().div(4)  # many ties
    labels = (torch.rand(rows, generator=random) < logits.sigmoid()).float()
    weights = torch.rand(rows, generator=random)
    found = []
    for device in ("cpu", "cuda"):
        with process_group(this_process(device)):
            metrics = ClickMetrics(device)
            for part in range(0, rows, 1_000):
                columns = (column[part : part + 1_000].to(device) for column in (logits, labels, weights))
                metrics.update(*columns)
            found.append(metrics.compute())
    assert found[1] == pytest.approx(found[0], rel=1e-9, abs=1e-9, nan_ok=True)
