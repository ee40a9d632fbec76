"""A batch of rows as the model receives it.

Shapes: B rows of this process that the head scores, P >= B rows of the process with most rows, N dense features, F id
features, Q rows of the data, G members of a group. Without groups each row of the data is scored once, and Q = B.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dist_rec.core.errors import UserError
from dist_rec.core.head import Ids, Lanes


@dataclass(frozen=True)
class Groups:
    """Members of the groups: for each row of the data the chosen item, then the items that it is compared with."""

    present: Tensor
    """bool [Q, G]; False for the padding of shorter groups."""
    known: Tensor
    """bool [Q, G]; False for items that training never saw, whose scores are meaningless."""

    def of(self, scores_B: Tensor) -> Tensor:
        """Scores by group, [Q, G]."""
        return scores_B.view_as(self.present)


@dataclass
class Batch(Pipelineable):
    """The rows of one step on one process."""

    dense: Tensor
    """float32 [B, N]."""
    ids: KeyedJaggedTensor
    """Unweighted id features, F keys, P rows: the B real rows, padded with empty ones so that all processes exchange
    equally many rows (Gloo has no uneven reduce-scatter). The head does not see the padding."""
    weighted_ids: KeyedJaggedTensor
    """Weighted bags, padded likewise; no keys if the data has no weighted bags."""
    labels: Tensor
    """float32 [Q]."""
    weights: Tensor
    """float32 [Q], the weight of each row in the loss and the metrics; ones if the data has no weights."""
    scale: Tensor
    """float32 [], number of processes / rows of the global batch: the mean over processes of `scale * local sum` is
    the mean over the global batch, even if the processes have different numbers of rows."""
    groups: Groups | None = None
    """If present, each row of the data is scored G times."""
    lanes: Lanes | None = None
    """For a recurrent head, the lanes of the rows."""
    samples: Tensor | None = None
    """Sampled rows of the catalog, the same on all processes, int64 [S]."""
    negatives: Tensor | None = None
    """Rows of the catalog drawn for each target of these rows, int32 [V, N]."""
    step: int = 0
    """The global step in training, the step within the split in evaluation; from 0."""

    @property
    def rows(self) -> int:
        """B."""
        return len(self.dense)

    def column(self, name: str) -> Ids:
        """The ids of the B rows in a bag or sequence, weighted or not; raises UserError if the column was not read."""
        for keyed in (self.ids, self.weighted_ids):
            if name in keyed.keys():  # noqa: SIM118
                jagged = keyed[name]
                return Ids(jagged.values(), jagged.lengths()[: self.rows], jagged.weights_or_none())
        known = [*self.ids.keys(), *self.weighted_ids.keys()]
        raise UserError(f"the batches have no column {name!r}; they have {', '.join(known)}")

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        """A copy on the device."""
        return self._map(lambda value: value.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """A copy in page-locked memory, from which copies to a GPU overlap with compute."""
        return self._map(lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Marks the tensors as used by the stream, so that the allocator does not reuse their memory too early."""
        self._map(lambda value: value.record_stream(stream))

    def _map(self, function: Callable[[Any], Any]) -> Self:
        apart = ("groups", "lanes", "samples", "negatives", "step")
        names = [field.name for field in fields(self) if field.name not in apart]
        groups = self.groups and Groups(function(self.groups.present), function(self.groups.known))
        lanes = self.lanes and Lanes(*map(function, self.lanes))
        samples, negatives = (None if of is None else function(of) for of in (self.samples, self.negatives))
        mapped = {name: function(getattr(self, name)) for name in names}
        return replace(self, groups=groups, lanes=lanes, samples=samples, negatives=negatives, **mapped)
