"""Batch → loss: the whole model as one module, for heads that score rows and for heads that score catalogs.

TorchRec's pipeline traces the two recommenders and takes what holds no table as a whole: they only pass values on.

Shapes: B rows of this process.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dist_rec.core.batch import Batch
from dist_rec.core.head import CatalogHead, Head, Inputs, Query
from dist_rec.embedding.catalog import Catalog
from dist_rec.embedding.layer import EmbeddingLayer
from dist_rec.embedding.scores import CatalogScores
from dist_rec.tasks.task import CatalogTask, Evidence, PairTask
from dist_rec.tasks.top_n import column_of
from dist_rec.train.config import TrainConfig


class Output(NamedTuple):
    """What a step leaves for the reports."""

    loss: Tensor
    """float32 [], its mean over processes is the mean loss of the global batch; 0 in evaluation."""
    evidence: Evidence
    """For the metrics, in evaluation."""


class Precise(nn.Module):
    """A head that computes in the precision of the config."""

    def __init__(self, head: Head, config: TrainConfig, device: torch.device) -> None:
        super().__init__()
        self._bf16, self._fp64 = config.precision == "bf16", config.precision == "fp64"
        self._device_type = device.type
        self.head = head.double() if self._fp64 else head

    def compute(self, inputs: Inputs) -> Any:
        """What the head makes of the inputs."""
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._bf16):
            return self.head(inputs.double() if self._fp64 else inputs)


class Objective(Precise):
    """Head and loss."""

    def __init__(self, head: Head, task: PairTask, config: TrainConfig, device: torch.device) -> None:
        super().__init__(head, config, device)
        self._task = task

    def forward(self, inputs: Inputs, labels_B: Tensor, weights_B: Tensor, scale: Tensor) -> tuple[Tensor, Output]:
        """Loss to differentiate, and what it came from."""
        scores_B = self.compute(inputs)
        scores_B = scores_B.to(torch.promote_types(scores_B.dtype, torch.float32))
        if not self.training:
            return scale * 0, Output(scale * 0, self._task.evidence(scores_B.float(), labels_B, weights_B))
        loss = self._task.loss_sum(scores_B, labels_B.to(scores_B.dtype), weights_B) * scale
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


class Encoder(Precise):
    """The head of a catalog."""

    def forward(self, inputs: Inputs) -> Query:
        """The queries."""
        return self.compute(inputs)


class CatalogObjective(nn.Module):
    """The head's loss of the scores of its queries."""

    def __init__(self, head: CatalogHead, targets: str, task: CatalogTask) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple: its parameters are the encoder's
        self._targets, self._task = targets, task

    def forward(self, scores: CatalogScores, query: Query, batch: Batch) -> tuple[Tensor, Output]:
        """Loss to differentiate, and what the metrics want."""
        (head,), targets = self._head, column_of(batch, self._targets)
        if not self.training:
            evidence = self._task.catalog_evidence(head, scores, targets, batch)
            return batch.scale * 0, Output(batch.scale * 0, evidence)
        loss_B = head.loss(scores, targets)
        if query.penalty is not None:
            loss_B = loss_B + query.penalty
        loss = (loss_B * batch.weights).sum() * batch.scale
        return loss, Output(loss.detach(), ())


class CatalogRecommender(nn.Module):
    """Embeddings, a head whose queries meet a catalog, and a loss of their scores."""

    def __init__(
        self, embeddings: EmbeddingLayer, encoder: Encoder, catalog: Catalog, objective: CatalogObjective
    ) -> None:
        super().__init__()
        self.embeddings, self.encoder, self.catalog, self.objective = embeddings, encoder, catalog, objective

    def forward(self, batch: Batch) -> tuple[Tensor, Output]:
        """See `CatalogObjective.forward`."""
        query = self.encoder(self.embeddings(batch))
        return self.objective(self.catalog(query.vectors), query, batch)
