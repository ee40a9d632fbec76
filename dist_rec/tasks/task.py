"""What a task is to the rest of the system: what is predicted, the loss, and how good it is.

A task knows no head, shard or process. `[task] name = "rating"` is `dist_rec/tasks/rating.py`.

Shapes: B rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from dist_rec.core import config


class Metrics(Protocol):
    """Exact metrics over the rows of all processes; see `dist_rec.tasks.metrics`."""

    def update(self, scores_B: Tensor, labels_B: Tensor, weights_B: Tensor | None = None) -> None:
        """Adds a batch of this process."""

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
    def loss_sum(self, scores_B: Tensor, labels_B: Tensor, weights_B: Tensor) -> Tensor:
        """Weighted sum of the losses of B rows, []."""

    @abstractmethod
    def metrics(self, device: torch.device) -> Metrics:
        """New, empty metrics."""
