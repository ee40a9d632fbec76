"""RBM: Salakhutdinov, Mnih and Hinton 2007, "Restricted Boltzmann Machines for Collaborative Filtering" (section 2).

Every row of the data is a machine with one softmax unit for each known rating. With `dist-rec prepare ratings --levels
--layout items` a row is an item and its visible units are users (I-RBM), with `--layout users` a row is a user (U-RBM).
Lookup and catalog share the weights W; hidden units come from the lookup given the data, else from the catalog.

Shapes: B rows, D hidden units, V targets, K levels.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest
from dist_rec.embedding.contrastive import hidden_energy, level_scores, negative_phase
from dist_rec.embedding.scores import CatalogScores


class RBM(head.CatalogHead):
    """Hidden units given the known ratings; a prediction is the expectation over the levels of a rating."""

    class Config(config.Config):
        """Columns, size and training of the model."""

        history: str = "history_level"
        """Column of the known ratings, a bag with an id for each pair of visible unit and level."""
        target: str = "target_level"
        """Column of the ratings to predict, a weighted bag with such ids; in training the known ratings."""
        hidden: int = Field(100, gt=0)
        """Hidden units, D."""
        gibbs_steps: int = Field(1, gt=0)
        """Gibbs steps of contrastive divergence."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """The weights W."""
        manifest.rows_of(config.history)
        return (head.Lookup("weights", (config.history,), config.hidden),)

    @classmethod
    def catalog(cls, config: Config, manifest: Manifest) -> head.Catalog:
        """W, and the biases of the visible units."""
        return head.Catalog("visible", config.target, config.hidden, tied="weights")

    rating_K: Tensor

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        levels = manifest.transform.get("levels")
        if levels is None:
            raise UserError("head 'rbm' needs ratings in levels, but the data has none; prepare it with --levels")
        self.bias = nn.Parameter(torch.zeros(config.hidden))
        self.register_buffer("rating_K", torch.tensor(levels, dtype=torch.float32), persistent=False)
        self.gibbs_steps = config.gibbs_steps

    def forward(self, inputs: head.Inputs) -> head.Query:
        """Probabilities of the hidden units [B, D], and their part of the data's free energy [B]."""
        input_BD = self.bias + inputs.pooled["weights"].squeeze(1).float()
        return head.Query(input_BD.sigmoid(), hidden_energy(input_BD), self._ratings, self._loss)

    def _loss(self, scores: CatalogScores, targets: head.Ids) -> Tensor:
        """The visible units' part of the data's free energy, less the free energy of the reconstruction, [B]."""
        reconstruction_B = negative_phase(scores, targets, len(self.rating_K), self.bias, self.gibbs_steps)
        return -scores.pooled_biases(targets) - reconstruction_B

    def _ratings(self, scores: CatalogScores, ids: head.Ids) -> Tensor:
        """Expectations over the levels, [V]."""
        probability_VK = level_scores(scores, ids, len(self.rating_K)).softmax(1)
        return probability_VK @ self.rating_K.to(probability_VK.dtype)
