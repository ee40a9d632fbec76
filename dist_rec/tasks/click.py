"""Click-through rate: does the user click? Labels are 0 or 1, scores are logits."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dist_rec.core import config
from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.data.shards import Dataset
from dist_rec.tasks import task
from dist_rec.tasks.metrics import ClickMetrics


class Click(task.PairTask):
    """Log loss; the best model has the largest AUC."""

    class Config(config.Config):
        """Has no settings."""

        name: Literal["click"] = "click"

    best = ("auc", max)

    def loss_sum(self, scores_B: Tensor, labels_B: Tensor, weights_B: Tensor) -> Tensor:
        """Weighted sum of the log losses (binary cross-entropy), []."""
        return functional.binary_cross_entropy_with_logits(scores_B, labels_B, weights_B, reduction="sum")

    def metrics(self, device: torch.device) -> ClickMetrics:
        """AUC, log loss, normalised entropy and calibration."""
        return ClickMetrics(device)

    def expand(self, dataset: Dataset, training: bool, seed: int) -> task.Expand:
        """Refuses labels that are neither 0 nor 1."""

        def checked(batch: Batch, step: int) -> Batch:
            bad = batch.labels[(batch.labels != 0) & (batch.labels != 1)]
            if len(bad):
                raise UserError(f"{dataset.path}: a label is {float(bad[0]):g}; task 'click' wants 0 and 1")
            return batch

        return checked
