"""Click-through rate prediction: labels are 0 or 1, scores are logits."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dist_rec.core import config
from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Split
from dist_rec.data.shards import Dataset
from dist_rec.tasks import task
from dist_rec.tasks.metrics import ClickMetrics


class Click(task.Task):
    """Log loss."""

    class Config(config.Config):
        """Choice of the best model."""

        name: Literal["click"] = "click"
        best: Literal["auc", "logloss", "ne"] = "auc"
        """The metric that early stopping and the best checkpoint go by."""

    judges = ("rows",)

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy, [B]."""
        labels_B = batch.labels.to(scores.dtype)
        return functional.binary_cross_entropy_with_logits(scores, labels_B, reduction="none")

    def evidence(self, scores: Tensor, batch: Batch) -> task.Evidence:
        """Logits, labels and weights, [B] each."""
        return scores.float(), batch.labels, batch.weights

    def metrics(self, device: torch.device) -> ClickMetrics:
        """AUC, log loss, normalised entropy and calibration."""
        return ClickMetrics(device)

    def has_no_score(self, split: Split) -> str | None:
        """AUC and normalised entropy need labels of both classes."""
        if self.config.best == "logloss" or split.positives not in (0, split.rows):
            return None
        return f"all {split.rows:,} labels are {int(split.positives != 0)}"

    def for_evaluation(self, dataset: Dataset) -> task.Transform:
        """A check that raises UserError if a label is neither 0 nor 1."""

        def check_labels(batch: Batch, step: int) -> Batch:
            bad = batch.labels[(batch.labels != 0) & (batch.labels != 1)]
            if len(bad):
                raise UserError(f"{dataset.path}: a label is {float(bad[0]):g}; task 'click' needs labels 0 and 1")
            return batch

        return check_labels
