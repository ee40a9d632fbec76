"""What a task is to the rest of the system: what is predicted, what is trained on, and how good it is.

A task knows no shard or process. `[task] name = "rating"` is `dist_rec/tasks/rating.py`. Tasks of pairs judge a score
for each row of the data, tasks of catalogs the scores of each row against all rows of a table.

Shapes: B rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import JaggedTensor

from dist_rec.core import config
from dist_rec.core.batch import Batch
from dist_rec.core.head import CatalogHead
from dist_rec.data.shards import Dataset
from dist_rec.embedding.scores import CatalogScores

Evidence = tuple[Tensor, ...]
"""What the metrics of a task want to know of a batch."""
Expand = Callable[[Batch, int], Batch]
"""Batch as it was read, global step → batch as it is trained or scored."""


class Metrics(Protocol):
    """Exact metrics over the rows of all processes; see `dist_rec.tasks.metrics`."""

    @property
    def update(self) -> Callable[..., None]:
        """Adds the evidence of a batch of this process."""

    def compute(self) -> dict[str, float]:
        """The metrics; called by every process."""


class Task(ABC):
    """Base class of the tasks.

    Args:
        config: the task's own settings.
    """

    Config: ClassVar[type[config.Config]]
    best: ClassVar[tuple[str, Callable[[float, float], float]]]
    """The metric that early stopping and the best checkpoint go by, and which of two is better."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def metrics(self, device: torch.device) -> Metrics:
        """New, empty metrics."""

    def columns(self, training: bool) -> tuple[str, ...]:
        """Id columns that the task reads in training or in evaluation, beside the head's."""
        return ()

    def expand(self, dataset: Dataset, training: bool, seed: int) -> Expand | None:
        """What becomes of the batches of training or evaluation before the model sees them."""
        return None


class PairTask(Task):
    """Judges a score for each row."""

    @abstractmethod
    def loss_sum(self, scores_B: Tensor, labels_B: Tensor, weights_B: Tensor) -> Tensor:
        """Weighted sum of the losses of B rows, []."""

    def evidence(self, scores_B: Tensor, labels_B: Tensor, weights_B: Tensor) -> Evidence:
        """For the metrics."""
        return scores_B, labels_B, weights_B


class CatalogTask(Task):
    """Judges scores of all rows of a table; the loss is the head's."""

    @abstractmethod
    def catalog_evidence(
        self, head: CatalogHead, scores: CatalogScores, targets: JaggedTensor, batch: Batch
    ) -> Evidence:
        """For the metrics; called by all processes."""
