"""DCN: Wang et al. 2017, "Deep & Cross Network for Ad Click Predictions" (equations 1 to 5).

Departure: dense features are embedded as fields.
"""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import FieldsHead
from dist_rec.nn.interactions import CrossNet
from dist_rec.nn.mlp import MLP


class DCN(FieldsHead):
    """Cross layers beside an MLP."""

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(16, gt=0)
        """Embedding dimension, D."""
        cross: int = Field(3, ge=0)
        """Number of cross layers."""
        hidden: tuple[PositiveInt, ...] = (400, 400, 400)
        """Hidden layers of the MLP."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the hidden units."""

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        inputs = self.fields.count * config.dim
        self.cross = CrossNet(inputs, config.cross)
        self.deep = MLP(inputs, config.hidden, dropout=config.dropout, last_linear=False)
        self.last = nn.Linear(inputs + self.deep.outputs, 1)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        x_BI = self.fields(inputs.dense, inputs.pooled["factors"]).flatten(1)
        return self.last(torch.cat([self.cross(x_BI), self.deep(x_BI)], dim=1)).squeeze(1)
