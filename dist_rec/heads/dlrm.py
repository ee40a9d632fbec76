"""DLRM: Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems".

A bottom MLP maps the dense features to one more vector of the embeddings' dimension; a top MLP reads this vector and
the dot products of all pairs of vectors (figure 1 and section 2.5 of the paper). `interaction = "dcn"` has low-rank
cross layers on all vectors instead, as in MLPerf's DLRM-DCNv2 (Wang et al. 2021, equation 2).
"""

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import id_features
from dist_rec.nn.interactions import CrossNetV2, PairwiseDots
from dist_rec.nn.mlp import MLP


class DLRM(head.Head):
    """A bottom MLP on the dense features, interactions with all id features, and a top MLP."""

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(16, gt=0)
        """Embedding dimension, D."""
        bottom: tuple[PositiveInt, ...] = (512, 256)
        """Hidden layers of the bottom MLP; a last layer of D units follows."""
        top: tuple[PositiveInt, ...] = (512, 512, 256)
        """Hidden layers of the top MLP; a last layer of one unit follows."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the top MLP's hidden units."""
        interaction: Literal["dot", "dcn"] = "dot"
        """Interaction of the vectors: dot products of pairs, or cross layers."""
        cross: int = Field(3, gt=0)
        """Number of cross layers."""
        rank: int = Field(512, gt=0)
        """Rank of the cross layers' weights."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """One vector for each id feature."""
        return (head.Lookup("factors", id_features(manifest), config.dim),)

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        num_dense = len(manifest.names("dense"))
        vectors = len(id_features(manifest)) + (num_dense > 0)
        self.bottom = MLP(num_dense, (*config.bottom, config.dim), last_linear=False) if num_dense else None
        self.dots = PairwiseDots(vectors) if config.interaction == "dot" else None
        if self.dots is not None:
            top_inputs = self.dots.outputs + (config.dim if num_dense else 0)
        else:
            top_inputs = vectors * config.dim
            self.cross = CrossNetV2(top_inputs, config.cross, config.rank)
        self.top = MLP(top_inputs, (*config.top, 1), dropout=config.dropout, last_linear=True)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        x_BFD = inputs.pooled["factors"]
        dense = []
        if self.bottom is not None:
            dense_BD = self.bottom(inputs.dense)
            x_BFD = torch.cat([dense_BD.unsqueeze(1), x_BFD.to(dense_BD.dtype)], dim=1)
            dense.append(dense_BD)
        if self.dots is not None:
            return self.top(torch.cat([*dense, self.dots(x_BFD)], dim=1)).squeeze(1)
        return self.top(self.cross(x_BFD.flatten(1))).squeeze(1)
