"""FM: Rendle 2010, "Factorization Machines" (equation 1, computed as in lemma 3.1).

Departure: the ids of one bag do not interact with each other, since the bag's vectors are summed first.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.dropout import Dropout
from dist_rec.nn.fields import FieldsHead, split_weights
from dist_rec.nn.interactions import bi_interaction


class FM(FieldsHead):
    """First-order weights and the dot products of all pairs of factors."""

    first_order = True

    class Config(config.Config):
        """Size of the model."""

        dim: int = Field(16, gt=0)
        """Factors of a feature, D."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the bi-interaction, D sums of products, as He and Chua 2017 regularise FM."""

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.bias = nn.Parameter(torch.zeros(()))
        self.dropout = Dropout(config.dropout)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        linear_B, factors_BFD = split_weights(self.fields(inputs.dense, inputs.pooled["fields"]))
        return self.bias + linear_B + self.dropout(bi_interaction(factors_BFD)).sum(1)
