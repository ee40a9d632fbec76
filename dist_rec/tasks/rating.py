"""Ratings: how much will the user like it? Labels are numbers, scores are in their unit."""

from torch import Tensor
from torch.nn import functional

from dist_rec.tasks.metrics import RatingMetrics

BEST = ("rmse", min)


def loss_sum(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the squared errors of B rows; all arguments are [B]."""
    return (weights * functional.mse_loss(scores, labels, reduction="none")).sum()


Metrics = RatingMetrics
