"""DCN-v2: Wang et al. 2021, "DCN V2: Improved Deep & Cross Network and Practical Lessons" (eq. 1 and 2, figure 1).

Departure: dense features are embedded as fields. The mixture of low-rank experts (equation 3) is left out.
"""

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import FieldsHead
from dist_rec.nn.interactions import CrossNetV2
from dist_rec.nn.mlp import MLP


class DCNV2(FieldsHead):
    """Cross layers before an MLP (stacked) or beside it (parallel)."""

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(16, gt=0)
        """Embedding dimension, D."""
        cross: int = Field(3, ge=0)
        """Number of cross layers."""
        rank: int | None = Field(None, gt=0)
        """Rank of the cross layers' weights; full by default."""
        structure: Literal["stacked", "parallel"] = "parallel"
        """Input of the MLP: the cross layers' output ("stacked") or their input ("parallel")."""
        hidden: tuple[PositiveInt, ...] = (400, 400, 400)
        """Hidden layers of the MLP."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the hidden units."""

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        inputs = self.fields.count * config.dim
        self.cross = CrossNetV2(inputs, config.cross, config.rank)
        self.deep = MLP(inputs, config.hidden, dropout=config.dropout, last_linear=False)
        self.stacked = config.structure == "stacked"
        self.last = nn.Linear(self.deep.outputs + (0 if self.stacked else inputs), 1)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        x_BI = self.fields(inputs.dense, inputs.pooled["factors"]).flatten(1)
        crossed_BI = self.cross(x_BI)
        if self.stacked:
            return self.last(self.deep(crossed_BI)).squeeze(1)
        return self.last(torch.cat([crossed_BI, self.deep(x_BI)], dim=1)).squeeze(1)
