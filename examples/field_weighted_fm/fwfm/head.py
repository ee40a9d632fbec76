"""FwFM: Pan et al. 2018, "Field-weighted Factorization Machines for Click-Through Rate Prediction" (equation 6).

Departure: the linear term is FM's, a weight for each feature.

Shapes: B rows, F fields, D factors.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import Fields, id_features, split_weights


class FwFM(head.Head):
    """A factorization machine with a weight for each pair of fields."""

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(16, gt=0)
        """Factors of a feature, D."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """Weight and factors of each id in one row."""
        return (head.Lookup("fields", id_features(manifest), 1 + config.dim),)

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.fields = Fields(manifest, len(id_features(manifest)), 1 + config.dim)
        self.bias = nn.Parameter(torch.zeros(()))
        self.pairs_FF = nn.Parameter(torch.ones(self.fields.count, self.fields.count))

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Scores, [B]."""
        linear_B, v_BFD = split_weights(self.fields(inputs.dense, inputs.pooled["fields"]))
        # Σ_{i<j} r_ij <v_i, v_j> = Σ_j <Σ_{i<j} r_ij v_i, v_j>: one product with a triangle, and one with the fields.
        before_BFD = self.pairs_FF.tril(-1) @ v_BFD
        return self.bias + linear_B + (before_BFD * v_BFD).sum((1, 2))
