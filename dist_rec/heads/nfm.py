"""NFM: He and Chua 2017, "Neural Factorization Machines for Sparse Predictive Analytics" (equations 2 to 8).

Without hidden layers it is NFM-0; if all of its h are 1, it is a factorization machine (equation 8).
"""

from typing import Annotated

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.dropout import Dropout
from dist_rec.nn.fields import FieldsHead, split_weights
from dist_rec.nn.interactions import bi_interaction
from dist_rec.nn.mlp import MLP
from dist_rec.nn.norm import BatchNorm


class NFM(FieldsHead):
    """First-order weights and an MLP on the bi-interaction of all factors."""

    first_order = True

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(16, gt=0)
        """Factors of a feature, D."""
        hidden: tuple[PositiveInt, ...] = (400, 400)
        """Hidden layers of the MLP on the bi-interaction."""
        dropout: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.0, 0.0, 0.0)
        """Dropout probability of the bi-interaction, then of the units of each hidden layer."""
        batch_norm: bool = True
        """Whether the bi-interaction and each hidden layer are batch-normalised."""

        @model_validator(mode="after")
        def _one_dropout_a_layer(self) -> "NFM.Config":
            if len(self.dropout) != 1 + len(self.hidden):
                raise ValueError(f"head.dropout needs {1 + len(self.hidden)} values, it has {len(self.dropout)}")
            return self

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.bias = nn.Parameter(torch.zeros(()))
        self.norm = BatchNorm(config.dim) if config.batch_norm else nn.Identity()
        self.dropout = Dropout(config.dropout[0])
        norm, dropout = config.batch_norm, config.dropout[1:]
        self.deep = MLP(config.dim, config.hidden, dropout=dropout, batch_norm=norm, last_linear=False)
        self.h = nn.Linear(self.deep.outputs, 1, bias=False)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Scores, [B]."""
        linear_B, factors_BFD = split_weights(self.fields(inputs.dense, inputs.pooled["fields"]))
        pooled_BD = self.dropout(self.norm(bi_interaction(factors_BFD)))
        return self.bias + linear_B + self.h(self.deep(pooled_BD)).squeeze(1)
