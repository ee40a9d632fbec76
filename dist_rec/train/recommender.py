"""Batch → loss: the whole model as one module, for heads that score rows and for heads that score catalogs.

Kept free of branches on data, so that TorchRec's pipeline can trace it.

Shapes: B rows of this process.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dist_rec.core.batch import Batch
from dist_rec.core.head import CatalogHead, Head, Inputs
from dist_rec.embedding.catalog import Catalog
from dist_rec.embedding.layer import EmbeddingLayer
from dist_rec.tasks.task import CatalogTask, Evidence, PairTask
from dist_rec.tasks.top_n import column_of
from dist_rec.train.config import TrainConfig


class Output(NamedTuple):
    """What a step leaves for the reports."""

    loss: Tensor
    """float32 [], its mean over processes is the mean loss of the global batch; 0 in evaluation."""
    evidence: Evidence
    """For the metrics, in evaluation."""


class Objective(nn.Module):
    """Head and loss, in mixed precision."""

    def __init__(self, head: Head, task: PairTask, config: TrainConfig, device: torch.device) -> None:
        super().__init__()
        self.head = head
        self._task = task
        self._device_type, self._bf16 = device.type, config.precision == "bf16"

    def forward(self, inputs: Inputs, labels_B: Tensor, weights_B: Tensor, scale: Tensor) -> tuple[Tensor, Output]:
        """Loss to differentiate, and what it came from."""
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._bf16):
            scores_B = self.head(inputs)
        scores_B = scores_B.float()
        if not self.training:
            return scale * 0, Output(scale * 0, self._task.evidence(scores_B, labels_B, weights_B))
        loss = self._task.loss_sum(scores_B, labels_B, weights_B) * scale
        return loss, Output(loss.detach(), ())


class Recommender(nn.Module):
    """Embeddings, head and a loss of each row's score."""

    def __init__(self, embeddings: EmbeddingLayer, objective: Objective) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.objective = objective

    def forward(self, batch: Batch) -> tuple[Tensor, Output]:
        """See `Objective.forward`."""
        return self.objective(self.embeddings(batch), batch.labels, batch.weights, batch.scale)


class CatalogRecommender(nn.Module):
    """Embeddings, a head whose queries meet a catalog, and the head's loss of their scores."""

    def __init__(
        self,
        embeddings: EmbeddingLayer,
        head: CatalogHead,
        catalog: Catalog,
        task: CatalogTask,
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.embeddings, self.head, self.catalog = embeddings, head, catalog
        self._task, self._targets = task, catalog.table.features[0]
        self._device_type, self._bf16 = device.type, config.precision == "bf16"

    def forward(self, batch: Batch) -> tuple[Tensor, Output]:
        """Loss to differentiate, and what the metrics want."""
        inputs = self.embeddings(batch)
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._bf16):
            query = self.head(inputs)
        scores, targets = self.catalog(query.vectors), column_of(batch, self._targets)
        if not self.training:
            evidence = self._task.catalog_evidence(self.head, scores, targets, batch)
            return batch.scale * 0, Output(batch.scale * 0, evidence)
        loss_B = self.head.loss(scores, targets)
        if query.penalty is not None:
            loss_B = loss_B + query.penalty.float()
        loss = (loss_B * batch.weights).sum() * batch.scale
        return loss, Output(loss.detach(), ())
