"""What a task is to the rest of the system: what is predicted, its loss, and how good the predictions are.

A task knows no shard or process. `[task] name = "rating"` is `dist_rec/tasks/rating.py`. It meets what the model gives,
which is a score of each row, a tensor [B], or scores of each row against a whole catalog, `CatalogScores`.

Shapes: B rows that are scored, Q rows of the data (B of them but where they are groups, see `Batch.groups`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from dist_rec.core import config
from dist_rec.core.batch import Batch
from dist_rec.core.head import Ids
from dist_rec.data.shards import Dataset
from dist_rec.embedding.scores import CatalogScores

Scores: TypeAlias = Tensor | CatalogScores
Evidence: TypeAlias = tuple[Tensor, ...]
"""What the metrics of a task want to know of a batch."""
Transform: TypeAlias = Callable[[Batch, int], Batch]
"""Batch as it was read, global step → batch as it is trained on or evaluated."""
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
        targets: the column of the ids that a head of a catalog is to find; None for a head that scores rows.
    """

    Config: ClassVar[type[config.Config]]
    judges: ClassVar[tuple[Kind, ...]]
    """What it can make a loss and metrics of: scores of rows, of a catalog, or either."""

    def __init__(self, config: Any, targets: str | None = None) -> None:
        self.config, self._targets = config, targets

    @abstractmethod
    def loss(self, scores: Any, batch: Batch) -> Tensor:
        """Loss of each row of the data before its weight, [Q]; called by all processes."""

    @abstractmethod
    def evidence(self, scores: Any, batch: Batch) -> Evidence:
        """For the metrics; called by all processes."""

    @abstractmethod
    def metrics(self, device: torch.device) -> Metrics:
        """New, empty metrics."""

    def targets(self, batch: Batch) -> Ids:
        """What a head of a catalog is to find, for each row."""
        assert self._targets is not None
        return batch.column(self._targets)

    def is_better(self, score: float, than: float) -> bool:
        """Compares two values of the metric `config.best`."""
        return score < than if self.config.best in SMALLER_IS_BETTER else score > than

    @property
    def training_columns(self) -> tuple[str, ...]:
        """Id columns that the task reads in training, beside the head's."""
        return ()

    @property
    def evaluation_columns(self) -> tuple[str, ...]:
        """Likewise in evaluation."""
        return self.training_columns

    def for_training(self, dataset: Dataset, seed: int) -> Transform | None:
        """What becomes of a batch, in the thread that makes it, before it is trained on."""
        return self.for_evaluation(dataset)

    def for_evaluation(self, dataset: Dataset) -> Transform | None:
        """Likewise before it is evaluated."""
        return None
