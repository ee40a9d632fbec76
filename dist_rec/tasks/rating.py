"""Ratings: how much will the user like it? Labels are numbers, scores are in their unit."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torchrec.sparse.jagged_tensor import JaggedTensor

from dist_rec.core import config
from dist_rec.core.batch import Batch
from dist_rec.core.head import CatalogHead
from dist_rec.embedding.scores import CatalogScores
from dist_rec.tasks import task
from dist_rec.tasks.metrics import RatingMetrics


class Rating(task.PairTask, task.CatalogTask):
    """Squared loss; the best model has the smallest RMSE."""

    class Config(config.Config):
        """The scale of the ratings."""

        name: Literal["rating"] = "rating"
        range: tuple[float, float] | None = None
        """Smallest and largest rating: predictions outside count as these in the metrics, not in the loss."""

    best = ("rmse", min)

    def loss_sum(self, scores_B: Tensor, labels_B: Tensor, weights_B: Tensor) -> Tensor:
        """Weighted sum of the squared errors, []."""
        return (weights_B * functional.mse_loss(scores_B, labels_B, reduction="none")).sum()

    def catalog_evidence(
        self, head: CatalogHead, scores: CatalogScores, targets: JaggedTensor, batch: Batch
    ) -> task.Evidence:
        """Predictions of the targets, which are their ratings' weights; all count alike, [V] each."""
        ratings_V = targets.weights()
        return head.predict_targets(scores, targets), ratings_V, torch.ones_like(ratings_V)

    def metrics(self, device: torch.device) -> RatingMetrics:
        """RMSE and MAE."""
        return RatingMetrics(device, self.config.range)
