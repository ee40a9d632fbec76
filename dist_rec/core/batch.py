"""A batch of rows as the model receives it.

Shapes: B rows of this process, P >= B rows of the process that has most, N dense features, F id features.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable


@dataclass
class Batch(Pipelineable):
    """The rows of one step on one process."""

    dense: Tensor
    """float32 [B, N]."""
    ids: KeyedJaggedTensor
    """Unweighted id features, F keys, P rows: after the B real rows come empty ones, which look nothing up, so that all
    processes exchange equally many (Gloo has no uneven reduce-scatter). The head does not see them."""
    weighted_ids: KeyedJaggedTensor
    """Weighted bags, likewise; no keys where the data has none."""
    labels: Tensor
    """float32 [B]."""
    weights: Tensor
    """float32 [B], the weight of each row in the loss and the metrics; ones where the data has none."""
    scale: Tensor
    """float32 [], number of processes / rows of the global batch: the mean over processes of `scale * local sum` is
    the mean over the global batch, however unevenly its rows are dealt."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        """A copy on the device."""
        return self._map(lambda value: value.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """A copy in page-locked memory, from which copies to a GPU overlap with compute."""
        return self._map(lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Tells the allocator that the stream uses these tensors."""
        for field in fields(self):
            getattr(self, field.name).record_stream(stream)

    def _map(self, function: Any) -> Self:
        return replace(self, **{field.name: function(getattr(self, field.name)) for field in fields(self)})
