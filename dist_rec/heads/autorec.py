"""AutoRec: Sedhain et al. 2015, "AutoRec: Autoencoders Meet Collaborative Filtering" (equations 1 and 2).

A row of the data has all ratings r of an item (I-AutoRec; `dist-rec prepare ratings --layout items`) or of a user
(U-AutoRec; `--layout users`) and is rebuilt as h(r) = f(W g(V r + μ) + b) from those that are known; only they count in
the loss. V is the lookup, W and b are the catalog. Ratings leave the model in their own unit: with f the identity,
W and b give what is above the mean rating of training, and a sigmoid goes from the smallest rating to the largest.

λ of the paper, beside its sum over n rows, is `embedding.weight_decay` = λ / n beside the mean over rows.

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
    """One hidden layer between the known ratings and all ratings."""

    class Config(config.Config):
        """Sizes and activations."""

        history: str = "history"
        """Weighted bag of the known ratings."""
        target: str = "target"
        """Weighted bag of the ratings to rebuild; in training the same."""
        hidden: int = Field(500, gt=0)
        """Hidden units, D."""
        f: Activation = "identity"
        """Activation of the output."""
        g: Activation = "sigmoid"
        """Activation of the hidden units."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """V."""
        for name in (config.history, config.target):
            if manifest.column(name).weights is None:
                raise UserError(
                    f"column {name!r} holds no ratings; `dist-rec prepare ratings --layout items` or `users` makes "
                    "weighted bags of them"
                )
        return (head.Lookup("encoder", (config.history,), config.hidden),)

    @classmethod
    def catalog(cls, config: Config, manifest: Manifest) -> head.Catalog:
        """W and b."""
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
    """The rating at which f gives 0, and how far it is from there to 1."""
    labels = manifest.transform.get("labels")
    if labels is None:
        raise UserError("head 'autorec' needs the range of the ratings, which `dist-rec prepare ratings` finds out")
    if f == "identity":
        return labels["mean"], 1.0
    if labels["max"] <= labels["min"]:
        raise UserError(f"all ratings are {labels['min']}: head.f = 'sigmoid' needs a range, take 'identity'")
    return labels["min"], labels["max"] - labels["min"]
