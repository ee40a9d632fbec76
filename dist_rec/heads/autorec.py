"""AutoRec: Sedhain et al. 2015, "AutoRec: Autoencoders Meet Collaborative Filtering" (equations 1 and 2).

A row of the data has the known ratings r of an item (I-AutoRec; `dist-rec prepare ratings --layout items`) or of a user
(U-AutoRec; `--layout users`). It is reconstructed as h(r) = f(W g(V r + μ) + b), and only known ratings enter the loss.
V is the lookup, W and b are the catalog. Predictions are in the unit of the ratings: with f the identity they are
offsets from the mean training rating, with a sigmoid they range from the smallest rating to the largest.

The paper adds λ to a sum over n rows; here the loss is a mean over rows, so its λ is `embedding.weight_decay` = λ / n.

Shapes: B rows, D hidden units, V known ratings of all of them.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest
from dist_rec.embedding.scores import CatalogScores

Activation = Literal["identity", "sigmoid"]


class AutoRec(head.CatalogHead):
    """An autoencoder with one hidden layer, from the known ratings to all ratings."""

    class Config(config.Config):
        """Sizes and activations."""

        history: str = "history"
        """Column of the known ratings, a weighted bag."""
        target: str = "target"
        """Column of the ratings to predict, a weighted bag; in training the known ratings."""
        hidden: int = Field(500, gt=0)
        """Hidden units, D."""
        f: Activation = "identity"
        """Activation of the output."""
        g: Activation = "sigmoid"
        """Activation of the hidden units."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """The encoder's weights, V."""
        for name in (config.history, config.target):
            if manifest.column(name).weights is None:
                raise UserError(
                    f"column {name!r} holds no ratings; prepare the data with "
                    "`dist-rec prepare ratings --layout items` or `--layout users`"
                )
        return (head.Lookup("encoder", (config.history,), config.hidden),)

    @classmethod
    def catalog(cls, config: Config, manifest: Manifest) -> head.Catalog:
        """The decoder's weights, W, and biases, b."""
        return head.Catalog("decoder", config.target, config.hidden)

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.f, self.g = config.f, config.g
        self.zero, self.unit = _scale(config.f, manifest)
        self.bias = nn.Parameter(torch.zeros(config.hidden))

    def forward(self, inputs: head.Inputs) -> head.Query:
        """g(V r + μ), [B, D], and f."""
        hidden_BD = _activate(self.g, inputs.pooled["encoder"].squeeze(1) + self.bias)
        return head.Query(hidden_BD, predict=self._ratings)

    def _ratings(self, scores: CatalogScores, ids: head.Ids) -> Tensor:
        return self.zero + self.unit * _activate(self.f, scores.of_pairs(ids))


def _activate(activation: Activation, x: Tensor) -> Tensor:
    return x.sigmoid() if activation == "sigmoid" else x


def _scale(f: Activation, manifest: Manifest) -> tuple[float, float]:
    """The rating for which f is 0, and the difference from it to the rating for which f is 1."""
    labels = manifest.transform.get("labels")
    if labels is None:
        raise UserError(
            "head 'autorec' needs the range of the ratings, but the data has none; use `dist-rec prepare ratings`"
        )
    if f == "identity":
        return labels["mean"], 1.0
    if labels["max"] <= labels["min"]:
        raise UserError(f"head.f = 'sigmoid' needs a range, but all ratings are {labels['min']}; choose 'identity'")
    return labels["min"], labels["max"] - labels["min"]
