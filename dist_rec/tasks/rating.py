"""Rating prediction: labels are numbers, predictions are in their unit.

A head that scores rows predicts their labels; a head with a catalog predicts the weights of the targets, the ratings.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dist_rec.core import config
from dist_rec.core.batch import Batch
from dist_rec.embedding.catalog_losses import squared_error
from dist_rec.tasks import task
from dist_rec.tasks.metrics import RatingMetrics


class Rating(task.Task):
    """Squared loss."""

    class Config(config.Config):
        """Scale of the ratings, and choice of the best model."""

        name: Literal["rating"] = "rating"
        range: tuple[float, float] | None = None
        """Smallest and largest rating, to which predictions are clamped in the metrics, but not in the loss."""
        best: Literal["rmse", "mae"] = "rmse"
        """The metric that early stopping and the best checkpoint go by."""

    judges = ("rows", "catalog")

    def loss(self, scores: task.Scores, batch: Batch) -> Tensor:
        """Squared error of each row, or its sum over the row's targets, [B]."""
        if isinstance(scores, Tensor):
            return functional.mse_loss(scores, batch.labels.to(scores.dtype), reduction="none")
        return squared_error(scores, self.targets(batch))

    def evidence(self, scores: task.Scores, batch: Batch) -> task.Evidence:
        """Predictions, ratings and weights of rows [B], or of targets [V] with weight 1 each."""
        if isinstance(scores, Tensor):
            return scores.float(), batch.labels, batch.weights
        targets = self.targets(batch)
        assert targets.weights is not None
        return scores.predict(targets), targets.weights, torch.ones_like(targets.weights)

    def metrics(self, device: torch.device) -> RatingMetrics:
        """RMSE and MAE."""
        return RatingMetrics(device, self.config.range)
