"""xDeepFM: Lian et al. 2018, "xDeepFM: Combining Explicit and Implicit Feature Interactions" (equations 6, 7 and 9)."""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import FieldsHead, split_weights
from dist_rec.nn.interactions import CompressedInteractions
from dist_rec.nn.mlp import MLP


class XDeepFM(FieldsHead):
    """First-order weights, a compressed interaction network (CIN) and an MLP."""

    first_order = True

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(16, gt=0)
        """Factors of a feature, D."""
        maps: tuple[PositiveInt, ...] = Field((32, 32), min_length=1)
        """Feature maps of each layer of the CIN."""
        hidden: tuple[PositiveInt, ...] = (400, 400, 400)
        """Hidden layers of the MLP."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the hidden units."""

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        fields = self.fields.count
        self.cin = CompressedInteractions(fields, config.maps)
        self.deep = MLP(fields * config.dim, config.hidden, dropout=config.dropout, last_linear=False)
        self.last = nn.Linear(self.cin.outputs + self.deep.outputs, 1)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        linear_B, factors_BFD = split_weights(self.fields(inputs.dense, inputs.pooled["fields"]))
        hidden_BH = torch.cat([self.cin(factors_BFD), self.deep(factors_BFD.flatten(1))], dim=1)
        return linear_B + self.last(hidden_BH).squeeze(1)
