"""DeepFM: Guo et al. 2017, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction" (eq. 1 to 4).

FM and MLP share their factors. `shared = false` is the paper's "FM & DNN", in which each part has its own.
"""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import Fields, id_features
from dist_rec.nn.mlp import MLP


class DeepFM(head.Head):
    """A factorization machine plus an MLP."""

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(16, gt=0)
        """Factors of a feature, D."""
        hidden: tuple[PositiveInt, ...] = (400, 400, 400)
        """Hidden layers of the MLP; without any the model is a factorization machine."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the hidden units."""
        shared: bool = True
        """Whether FM and MLP share one set of factors."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """First-order weight and factors of each id in one row, and the MLP's own factors if they are not shared."""
        features = id_features(manifest)
        fields = head.Lookup("fields", features, 1 + config.dim)
        return (fields,) if config.shared else (fields, head.Lookup("deep", features, config.dim))

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        ids = len(id_features(manifest))
        self.fields = Fields(manifest, ids, 1 + config.dim)
        self.deep_fields = None if config.shared else Fields(manifest, ids, config.dim)
        self.bias = nn.Parameter(torch.zeros(()))
        sizes = (*config.hidden, 1)
        inputs = self.fields.count * config.dim
        self.deep = MLP(inputs, sizes, dropout=config.dropout, last_linear=True) if config.hidden else None

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        linear_B, fields = self.fields.factored(inputs.dense, inputs.pooled["fields"]).split_weights()
        scores_B = self.bias + linear_B + fields.bi_interaction().sum(1)
        if self.deep is None:
            return scores_B
        if self.deep_fields is not None:
            fields = self.deep_fields.factored(inputs.dense, inputs.pooled["deep"])
        return scores_B + self.deep.of_fields(fields).squeeze(1)
