"""Trains a tiny sharded model on all processes: lookup, exchange, update. `dist-rec doctor` runs it."""

import torch
import torch.distributed as dist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.core.batch import Batch
from dist_rec.core.process import process_group, this_process
from dist_rec.core.schema import Column, Manifest, Table
from dist_rec.train.config import RunConfig
from dist_rec.train.model import build_model, build_optimizer
from dist_rec.train.spec import resolve

ROWS = 8


def train_tiny_model() -> None:
    """Raises AssertionError unless the loss is finite and falls."""
    manifest = Manifest(
        columns=(
            Column(name="label", kind="label"),
            Column(name="x", kind="dense"),
            Column(name="user", kind="categorical", table="user"),
            Column(name="item", kind="categorical", table="item"),
        ),
        tables={"user": Table(rows=100), "item": Table(rows=50)},
        splits={},
    )
    head = {"name": "dlrm", "dim": 4, "bottom": (8,), "top": (8,)}
    config = RunConfig.parse({"data": {"path": "none"}, "head": head, "train": {"device": "cpu"}})
    process = this_process("cpu")
    with process_group(process):
        model = build_model(resolve(config, manifest), process)
        optimizer = build_optimizer(config, model)
        random = torch.Generator().manual_seed(process.rank)
        ids = KeyedJaggedTensor.from_lengths_sync(
            ["user", "item"],
            torch.randint(0, 50, (2 * ROWS,), generator=random),
            torch.ones(2 * ROWS, dtype=torch.int32),
        )
        labels = torch.rand(ROWS, generator=random).round()
        batch = Batch(
            dense=torch.rand(ROWS, 1, generator=random),
            ids=ids,
            weighted_ids=KeyedJaggedTensor.empty(),
            labels=labels,
            weights=torch.ones(ROWS),
            scale=torch.tensor(1 / ROWS),
        )
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss, output = model(batch)
            loss.backward()
            optimizer.step()
            losses.append(output.loss)
        curve = torch.stack(losses)
        dist.all_reduce(curve)
    assert torch.isfinite(curve).all() and curve[-1] < curve[0], f"the loss does not fall: {curve.tolist()}"
