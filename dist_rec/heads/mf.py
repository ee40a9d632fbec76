"""MF: matrix factorisation, Koren, Bell and Volinsky 2009, "Matrix Factorization Techniques for Recommender Systems".

A rating is μ + b_u + b_i + p_u·q_i (equation 4), or p_u·q_i alone (equation 1). Under the task `implicit` with
`loss = "bpr"` the same score is BPR-MF: Rendle et al. 2009, "BPR: Bayesian Personalized Ranking from Implicit Feedback"
(section 4.3.1); with `loss = "squared"` it is fitted to 1 for chosen items and to 0 for drawn ones. The penalty on
biases and factors is `embedding.weight_decay`.

Shapes: B rows, F = 2 features (user and item), D factors.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import id_features, split_weights


class MF(head.Head):
    """The inner product of a user and an item, with or without biases."""

    class Config(config.Config):
        """Size of the model."""

        dim: int = Field(32, gt=0)
        """Factors of a user or an item, D."""
        biases: bool = True
        """Whether there are biases b_u and b_i and a constant μ, which starts from the data's mean rating."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """Bias and factors of user and item in one row each."""
        return (head.Lookup("factors", id_features(manifest, ("user", "item")), config.biases + config.dim),)

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        mean = manifest.transform.get("labels", {}).get("mean", 0.0)
        self.mean = nn.Parameter(torch.tensor(mean)) if config.biases else None

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Ratings, or logits, [B]."""
        x_BFD = inputs.pooled["factors"]
        if self.mean is None:
            return x_BFD.prod(1).sum(1)
        biases_B, factors_BFD = split_weights(x_BFD)
        return self.mean + biases_B + factors_BFD.prod(1).sum(1)
