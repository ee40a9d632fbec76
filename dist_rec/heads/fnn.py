"""FNN: Zhang et al. 2016, "Deep Learning over Multi-field Categorical Data" (section 3.1, equations 2 to 4).

The weights and factors of the first layer are random at the start or, as in the paper, those of a factorization
machine: `pretrained.runs` = a run of head `fm` with the same `dim` on the same data.

Departure: ReLU in place of tanh.
"""

from pydantic import Field, PositiveInt
from torch import Tensor

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import FieldsHead
from dist_rec.nn.mlp import MLP


class FNN(FieldsHead):
    """An MLP on the first-order weight and the factors of every field."""

    first_order = True

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(16, gt=0)
        """Factors of a feature, D."""
        hidden: tuple[PositiveInt, ...] = (400, 400, 400)
        """Hidden layers of the MLP."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the hidden units."""

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        inputs = self.fields.count * (1 + config.dim)
        self.deep = MLP(inputs, (*config.hidden, 1), dropout=config.dropout, last_linear=True)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        return self.deep.of_fields(self.fields.factored(inputs.dense, inputs.pooled["fields"])).squeeze(1)
