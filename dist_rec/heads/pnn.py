"""PNN: Qu et al. 2016, "Product-based Neural Networks for User Response Prediction" (sections III-A to III-C).

`product` = "inner" is IPNN, "outer" OPNN by superposition (the outer product of the fields' sum with itself), "both"
PNN*. Departure: the first hidden layer has a full weight matrix on the products, not a factorised one.
"""

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import FieldsHead
from dist_rec.nn.interactions import PairwiseDots, summed_outer
from dist_rec.nn.mlp import MLP


class PNN(FieldsHead):
    """An MLP on the vectors of all fields and their products."""

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(16, gt=0)
        """Embedding dimension, D."""
        product: Literal["inner", "outer", "both"] = "inner"
        """Product of the fields' vectors."""
        hidden: tuple[PositiveInt, ...] = (400, 400, 400)
        """Hidden layers of the MLP."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the hidden units."""

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.inner = PairwiseDots(self.fields.count) if config.product != "outer" else None
        self.outer = config.product != "inner"
        products = (self.inner.outputs if self.inner else 0) + (config.dim**2 if self.outer else 0)
        inputs = self.fields.count * config.dim + products
        self.deep = MLP(inputs, (*config.hidden, 1), dropout=config.dropout, last_linear=True)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        x_BFD = self.fields(inputs.dense, inputs.pooled["factors"])
        signals = [x_BFD.flatten(1)]
        if self.inner is not None:
            signals.append(self.inner(x_BFD))
        if self.outer:
            signals.append(summed_outer(x_BFD))
        return self.deep(torch.cat(signals, dim=1)).squeeze(1)
