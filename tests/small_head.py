"""A head that wants everything the layer has: pooled bags, weighted bags and sequences; used by tests of the layer."""

import torch
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Column, Manifest, Table


class SmallHead(head.Head):
    class Config(config.Config):
        dim: int = 8
        with_sequence: bool = True

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        pooled = head.Lookup("pooled", ("user", "item", "tags", "scores"), config.dim, init=0.5)
        mean = head.Lookup("mean", ("tags",), config.dim, pooling="mean", init=0.5)
        sequence = head.Lookup("history", ("history",), config.dim, pooling="none", init=0.5)
        return (pooled, mean, sequence) if config.with_sequence else (pooled, mean)

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.linear = nn.Linear(2 + 4 * config.dim, 1)

    def forward(self, inputs: head.Inputs) -> Tensor:
        score = self.linear(torch.cat([inputs.dense, inputs.pooled["pooled"].flatten(1)], dim=1)).squeeze(1)
        score = score + inputs.pooled["mean"].square().sum((1, 2))
        if "history" not in inputs.sequences:
            return score
        sequence = inputs.sequences["history"]["history"]
        rows = torch.repeat_interleave(torch.arange(len(score), device=score.device), sequence.lengths)
        return score.index_add(0, rows, sequence.values.sin().sum(1))


MANIFEST = Manifest(
    columns=(
        Column(name="label", kind="label"),
        Column(name="price", kind="dense"),
        Column(name="age", kind="dense"),
        Column(name="user", kind="categorical", table="user"),
        Column(name="item", kind="categorical", table="item"),
        Column(name="tags", kind="bag", table="tag"),
        Column(name="scores", kind="bag", table="word", weights="score_weights"),
        Column(name="score_weights", kind="weight"),
        Column(name="history", kind="sequence", table="item"),
    ),
    tables={"user": Table(rows=13), "item": Table(rows=29), "tag": Table(rows=7), "word": Table(rows=11)},
    splits={},
    # As many levels as words: to a machine they are one unit.
    transform={"labels": {"min": 0.0, "max": 1.0, "mean": 0.5}, "levels": list(range(11))},
)
