"""FinalMLP: Mao et al. 2023, "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction" (sections 3.2 and 3.3).

The input of a stream's gate is the features that the config names, or a learned vector if it names none.
"""

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import FieldsHead, id_features
from dist_rec.nn.mlp import MLP


class Gate(nn.Module):
    """Stream-specific feature selection: 2 sigmoid(MLP(context)), one factor for each of I inputs.

    Args:
        fields: positions of the context among the fields; if empty the context is learned.
        dim: D.
        hidden: hidden units of the MLP.
        inputs: I.
    """

    def __init__(self, fields: list[int], dim: int, hidden: int, inputs: int) -> None:
        super().__init__()
        self.fields = fields
        self.context_D = None if fields else nn.Parameter(torch.randn(dim))
        self.mlp = MLP(dim * max(len(fields), 1), (hidden, inputs), last_linear=True)

    def forward(self, x_BFD: Tensor) -> Tensor:
        """[B, F, D] → [B, I], or [I] if the context is learned."""
        context = x_BFD[:, self.fields].flatten(1) if self.context_D is None else self.context_D
        return 2 * self.mlp(context).sigmoid()


class BilinearFusion(nn.Module):
    """Score of two streams: a linear form of each, and a bilinear form of both for each of k chunks (heads)."""

    def __init__(self, first: int, second: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(first, 1), nn.Linear(second, 1, bias=False)
        bound = (first // heads) ** -0.5
        self.weights_HIJ = nn.Parameter(torch.empty(heads, first // heads, second // heads).uniform_(-bound, bound))

    def forward(self, first_BI: Tensor, second_BJ: Tensor) -> Tensor:
        """Two streams, [B, I] and [B, J] → [B]."""
        heads = len(self.weights_HIJ)
        first_HBI = first_BI.unflatten(1, (heads, -1)).transpose(0, 1)
        second_BHJ = second_BJ.unflatten(1, (heads, -1))
        bilinear_B = (torch.bmm(first_HBI, self.weights_HIJ).transpose(0, 1) * second_BHJ).sum((1, 2))
        return (self.first(first_BI) + self.second(second_BJ)).squeeze(1) + bilinear_B


class FinalMLP(FieldsHead):
    """Two MLPs on differently gated embeddings."""

    class Config(config.Config):
        """Features and sizes of the model."""

        dim: int = Field(16, gt=0)
        """Embedding dimension, D."""
        first: tuple[PositiveInt, ...] = Field((400, 400), min_length=1)
        """Hidden layers of the first stream."""
        second: tuple[PositiveInt, ...] = Field((400, 400), min_length=1)
        """Hidden layers of the second stream."""
        first_context: tuple[str, ...] = ()
        """Id features that are the input of the first stream's gate; empty: a learned vector."""
        second_context: tuple[str, ...] = ()
        """Id features that are the input of the second stream's gate; empty: a learned vector."""
        gate: int = Field(64, gt=0)
        """Hidden units of a gate."""
        heads: int = Field(8, gt=0)
        """Chunks of the bilinear fusion; divides the width of each stream's last layer."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the hidden units."""

        @model_validator(mode="after")
        def _heads_divide(self) -> "FinalMLP.Config":
            if self.first[-1] % self.heads or self.second[-1] % self.heads:
                raise ValueError(f"head.heads = {self.heads} does not divide {self.first[-1]} and {self.second[-1]}")
            return self

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """See `FieldsHead`; raises UserError if a context has an unknown feature or one without ids."""
        id_features(manifest, config.first_context + config.second_context)
        return super().lookups(config, manifest)

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        ids = id_features(manifest)
        inputs, dense = self.fields.count * config.dim, self.fields.count - len(ids)
        contexts = [
            [dense + ids.index(name) for name in names] for names in (config.first_context, config.second_context)
        ]
        self.gates = nn.ModuleList(Gate(context, config.dim, config.gate, inputs) for context in contexts)
        self.first = MLP(inputs, config.first, dropout=config.dropout, last_linear=False)
        self.second = MLP(inputs, config.second, dropout=config.dropout, last_linear=False)
        self.fusion = BilinearFusion(self.first.outputs, self.second.outputs, config.heads)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        x_BFD = self.fields(inputs.dense, inputs.pooled["factors"])
        first_BI, second_BI = (gate(x_BFD) * x_BFD.flatten(1) for gate in self.gates)
        return self.fusion(self.first(first_BI), self.second(second_BI))
