"""DLRM: Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems".

A bottom MLP turns the dense features into one more vector of the embeddings' dimension; the dot products of all pairs
of vectors, beside that vector, go through a top MLP (figure 1 and section 2.5 of the paper).
"""

import torch
from pydantic import Field
from torch import Tensor

from dist_rec.core import config, head
from dist_rec.core.errors import UserError
from dist_rec.core.schema import ID_KINDS, Manifest
from dist_rec.nn.interactions import PairwiseDots
from dist_rec.nn.mlp import MLP


class DLRM(head.Head):
    """Dense features and all categorical and bag features of the data."""

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(16, gt=0)
        """Embedding dimension, D."""
        bottom: tuple[int, ...] = (512, 256)
        """Hidden layers of the bottom MLP; a last layer of D units follows."""
        top: tuple[int, ...] = (512, 512, 256)
        """Hidden layers of the top MLP; a last layer of one unit follows."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Of the top MLP's hidden units."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """One vector for each id feature."""
        features = manifest.names(*ID_KINDS)
        if not features:
            raise UserError("head dlrm needs id features; the data has none")
        return (head.Lookup("factors", features, config.dim),)

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        num_dense = len(manifest.names("dense"))
        vectors = len(manifest.names(*ID_KINDS)) + (num_dense > 0)
        self.bottom = MLP(num_dense, (*config.bottom, config.dim), last_linear=False) if num_dense else None
        self.dots = PairwiseDots(vectors)
        top_inputs = self.dots.outputs + (config.dim if num_dense else 0)
        self.top = MLP(top_inputs, (*config.top, 1), dropout=config.dropout, last_linear=True)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        x_BFD = inputs.pooled["factors"]
        if self.bottom is None:
            return self.top(self.dots(x_BFD)).squeeze(1)
        dense_BD = self.bottom(inputs.dense)
        x_BFD = torch.cat([dense_BD.unsqueeze(1), x_BFD.to(dense_BD.dtype)], dim=1)
        return self.top(torch.cat([dense_BD, self.dots(x_BFD)], dim=1)).squeeze(1)
