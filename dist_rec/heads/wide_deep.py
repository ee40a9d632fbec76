"""Wide & Deep: Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems" (equations 1 to 3).

The wide part is a linear model of id features, including the crosses that the data was prepared with; the deep part is
an MLP on embeddings and dense features. The paper trains the wide part with FTRL: `[embedding.lookups.wide]`. Without
crosses this is "LR & DNN" of the DeepFM paper. The two parts have their own tables even for the same features, since a
table has one optimizer: FTRL in the wide part, another in the deep part.

Departure: dense features, also those scaled to [0, 1] by quantiles, are standardised by batch normalisation and enter
the deep part as vectors (`dist_rec.nn.fields`).
"""

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import Fields, id_features
from dist_rec.nn.mlp import MLP


class WideDeep(head.Head):
    """A linear model plus an MLP."""

    class Config(config.Config):
        """Features and sizes of the model."""

        parts: Literal["both", "wide", "deep"] = "both"
        """Parts of the model; the paper compares both with each alone (table 1)."""
        wide: tuple[str, ...] = ()
        """Id features of the wide part; empty: all."""
        deep: tuple[str, ...] = ()
        """Id features of the deep part, beside the dense features; empty: all."""
        dim: int = Field(16, gt=0)
        """Embedding dimension of the deep part, D."""
        hidden: tuple[PositiveInt, ...] = (400, 400, 400)
        """Hidden layers of the MLP."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the hidden units."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """A weight for each id of the wide part, a vector for each of the deep part."""
        wide = head.Lookup("wide", id_features(manifest, config.wide), 1)
        deep = head.Lookup("deep", id_features(manifest, config.deep), config.dim)
        return {"both": (wide, deep), "wide": (wide,), "deep": (deep,)}[config.parts]

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.bias = nn.Parameter(torch.zeros(()))
        if config.parts == "wide":
            self.deep = None
            return
        self.fields = Fields(manifest, len(id_features(manifest, config.deep)), config.dim)
        inputs = self.fields.count * config.dim
        self.deep = MLP(inputs, (*config.hidden, 1), dropout=config.dropout, last_linear=True)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        scores_B = self.bias.expand(len(inputs.dense))
        if "wide" in inputs.pooled:
            scores_B = scores_B + inputs.pooled["wide"].sum((1, 2))
        if self.deep is not None:
            fields = self.fields.factored(inputs.dense, inputs.pooled["deep"])
            scores_B = scores_B + self.deep.of_fields(fields).squeeze(1)
        return scores_B
