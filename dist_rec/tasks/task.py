"""The contract of a task: its loss and the metrics of its predictions.

A task knows no shard or process. `[task] name = "rating"` is `dist_rec/tasks/rating.py`. Its input is the model's
output: a score of each row, a tensor [B], or scores of each row against a whole catalog, `CatalogScores`.

Shapes: B scored rows, Q rows of the data (Q = B except with groups, see `Batch.groups`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from dist_rec.core import config
from dist_rec.core.batch import Batch
from dist_rec.core.head import Ids
from dist_rec.core.schema import Split
from dist_rec.data.shards import Dataset
from dist_rec.embedding.scores import CatalogScores

Scores: TypeAlias = Tensor | CatalogScores
Evidence: TypeAlias = tuple[Tensor, ...]
"""Arguments of the update of a task's metrics with a batch."""
Transform: TypeAlias = Callable[[Batch, int], Batch]
"""(batch from the data, global step) → batch to train on or to evaluate."""
Kind: TypeAlias = Literal["rows", "catalog"]
SMALLER_IS_BETTER = ("logloss", "ne", "rmse", "mae")


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
        config: the task's own settings; `best` is the metric that early stopping and the best checkpoint go by.
        targets: the column of the targets of a head with a catalog; None for a head that scores rows.
    """

    Config: ClassVar[type[config.Config]]
    judges: ClassVar[tuple[Kind, ...]]
    """Scores that it has a loss and metrics for: of rows, of a catalog, or either."""

    def __init__(self, config: Any, targets: str | None = None) -> None:
        self.config, self._targets = config, targets

    @abstractmethod
    def loss(self, scores: Any, batch: Batch) -> Tensor:
        """Loss of each row of the data before its weight, [Q]; called by all processes."""

    @abstractmethod
    def evidence(self, scores: Any, batch: Batch) -> Evidence:
        """Arguments for the metrics' `update`; called by all processes."""

    @abstractmethod
    def metrics(self, device: torch.device) -> Metrics:
        """New, empty metrics."""

    def targets(self, batch: Batch) -> Ids:
        """The targets of each row for a head with a catalog."""
        assert self._targets is not None
        return batch.column(self._targets)

    def is_better(self, score: float, than: float) -> bool:
        """Compares two values of the metric `config.best`."""
        return score < than if self.config.best in SMALLER_IS_BETTER else score > than

    def has_no_score(self, split: Split) -> str | None:
        """Why the metric `config.best` can be no number on a split of the data; None if it can be."""
        return None

    @property
    def training_columns(self) -> tuple[str, ...]:
        """Id columns that the task reads in training, beside the head's."""
        return ()

    @property
    def evaluation_columns(self) -> tuple[str, ...]:
        """Id columns that the task reads in evaluation, beside the head's."""
        return self.training_columns

    def for_training(self, dataset: Dataset, seed: int) -> Transform | None:
        """Transform of a batch before training, which runs in the thread that makes the batch."""
        return self.for_evaluation(dataset)

    def for_evaluation(self, dataset: Dataset) -> Transform | None:
        """Transform of a batch before evaluation."""
        return None
