"""What heads have in common that read the items of a history in order and score what each position becomes.

Shapes: V items of all histories end to end, Q targets of all rows, D dimension.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.attention import PositionedItems
from dist_rec.nn.sequences import Sequences


class ItemsConfig(config.Config):
    """Settings of an `ItemsHead`."""

    history: str = "history"
    """Sequence of a user's or a session's items."""
    target: str = "target"
    """Sequence of what follows the last of them, in order."""
    dim: int = Field(50, gt=0)
    """Dimension of items, D."""
    embedding: Literal["shared", "separate"] = "shared"
    """Whether items are scored by the vectors that they come in by, or by others."""


class ItemsHead(head.CatalogHead):
    """Items come in by their vectors, and are scored by the same or by others."""

    @classmethod
    def lookups(cls, config: Any, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """The vectors that items come in by."""
        return (head.Lookup("items", (config.history,), config.dim, pooling="none"),)

    @classmethod
    def catalog(cls, config: Any, manifest: Manifest) -> head.Catalog:
        """The vectors and biases that items are scored by."""
        tied = "items" if config.embedding == "shared" else None
        return head.Catalog("output", config.target, config.dim, tied=tied)

    def __init__(self, config: Any, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.config = config


class HistoryConfig(ItemsConfig):
    """Settings of a `HistoryHead`."""

    dropout: float = Field(0.2, ge=0, lt=1)
    """Of what comes in, and of what each layer gives."""
    longest: int = Field(200, gt=0)
    """Items of a history, at most."""
    temperature: float | None = Field(None, gt=0)
    """What cosines are divided by to become scores; not set: scores are products, of any length."""


class HistoryHead(ItemsHead):
    """Items with their positions come in; `encode` makes of them what is scored against all items."""

    @classmethod
    def catalog(cls, config: Any, manifest: Manifest) -> head.Catalog:
        """The vectors that items are scored by."""
        return replace(super().catalog(config, manifest), bias=False, cosine=config.temperature is not None)

    def __init__(self, config: Any, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.input = PositionedItems(config.longest, config.dim, config.dropout)

    @abstractmethod
    def encode(self, x_VD: Tensor, sequences: Sequences) -> Tensor:
        """What each position becomes, knowing none of those after it, [V, D] → [V, D]."""

    def forward(self, inputs: head.Inputs) -> head.Query:
        """A query for each target, [Q, D]."""
        history = inputs.sequences["items"][self.config.history]
        sequences = Sequences(history.lengths, self.config.longest)
        x_VD = self.encode(self.input(history.values, sequences), sequences)
        query_QD = sequences.last(x_VD, inputs.num_targets)
        if self.config.temperature is not None:
            query_QD = functional.normalize(query_QD, dim=1) / self.config.temperature
        return head.Query(query_QD, per_target=True)
