"""Click-through rate: does the user click? Labels are 0 or 1, scores are logits."""

from torch import Tensor
from torch.nn import functional

from dist_rec.tasks.metrics import ClickMetrics

BEST = ("auc", max)


def loss_sum(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the log losses (binary cross-entropy) of B rows; all arguments are [B]."""
    return functional.binary_cross_entropy_with_logits(scores, labels, weights, reduction="sum")


Metrics = ClickMetrics
