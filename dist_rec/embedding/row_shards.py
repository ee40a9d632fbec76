"""Row-sharded matrices outside of TorchRec's collections: their shards and their optimizer."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.types import (
    EnumerableShardingSpec,
    Shard,
    ShardedTensor,
    ShardedTensorMetadata,
    ShardMetadata,
    TensorProperties,
)
from torchrec.optim.keyed import KeyedOptimizer

from dist_rec.embedding.row_rules import Rows, by_row, row_update, sum_by_row
from dist_rec.embedding.sharded_tensors import put_together
from dist_rec.embedding.tables import EmbeddingTable


@dataclass(frozen=True)
class RowCut:
    """The rows of a matrix, split over the processes in contiguous parts in the order of the ranks.

    Args:
        spec: the plan's sharding; a process's part may be empty.
        rank: rank of this process.
    """

    spec: EnumerableShardingSpec
    rank: int

    @property
    def start(self) -> int:
        """First row of this process."""
        return int(self._own.shard_offsets[0])

    @property
    def size(self) -> int:
        """Number of rows of this process, perhaps 0."""
        return int(self._own.shard_sizes[0])

    @property
    def _own(self) -> ShardMetadata:
        (own,) = (shard for shard in self.spec.shards if _rank(shard) == self.rank)
        return own

    def whole(self, local: Tensor) -> ShardedTensor:
        """The sharded tensor, [rows] or [rows, D], of which `local` is this process's part; shares its memory."""
        width = local.shape[1:]
        shards = [
            ShardMetadata(
                [shard.shard_offsets[0], *(0 for _ in width)], [shard.shard_sizes[0], *width], shard.placement
            )
            for shard in self.spec.shards
            if shard.shard_sizes[0]
        ]
        rows = sum(shard.shard_sizes[0] for shard in shards)
        metadata = ShardedTensorMetadata(shards, torch.Size([rows, *width]), TensorProperties(dtype=local.dtype))
        own = [Shard(local.detach(), shard) for shard in shards if _rank(shard) == self.rank]
        return put_together(own, metadata)


def _rank(shard: ShardMetadata) -> int | None:
    assert shard.placement is not None
    return shard.placement.rank()


class RowShardOptimizer(KeyedOptimizer):
    """Updates the shards of a table's matrices by its row rule, from their gradients (`grad`).

    A dense gradient updates all rows, a sparse one only its rows. Gradients are those of the sum of the processes'
    losses; like DDP, `step` takes their mean. State is sharded like the weights and saved under the names that
    `RowOptimizer` uses.

    Args:
        table: name and settings.
        cut: the rows of each process.
        weight: the local rows, [R, D]; None if another table has them.
        bias: one bias for each local row, [R, 1], without weight decay.
    """

    def __init__(
        self, table: EmbeddingTable, cut: RowCut, weight: nn.Parameter | None, bias: nn.Parameter | None
    ) -> None:
        update = row_update(table.settings)
        self._updates = {}
        if weight is not None:
            self._updates["weight"] = _Update(weight, update)
        if bias is not None:
            self._updates["bias"] = _Update(bias, replace(update, weight_decay=0.0))
        params = {name: cut.whole(update.parameter) for name, update in self._updates.items()}
        state = {
            params[name]: {f"{table.name}.{slot}": value for slot, value in update.named_state(cut)}
            for name, update in self._updates.items()
        }
        super().__init__(params, state, [{"params": list(params.values()), "lr": table.settings.lr}])

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Applies the gradients since `zero_grad`; does nothing without gradients."""
        for update in self._updates.values():
            update.step(lr=float(self.param_groups[0]["lr"]))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the gradients."""
        for update in self._updates.values():
            update.parameter.grad = None


class _Update:
    """A matrix, its optimizer state and its number of steps."""

    def __init__(self, parameter: nn.Parameter, update: Rows) -> None:
        self.parameter, self._update = parameter, update
        self._state = update.rule.initial_state(parameter.detach())
        self._step = torch.zeros((), dtype=torch.int64)

    def named_state(self, cut: RowCut) -> Iterator[tuple[str, Tensor | ShardedTensor]]:
        """The state that a checkpoint holds."""
        for name, state in zip(self._update.rule.state, self._state, strict=True):
            yield name, cut.whole(state)
        yield "step", self._step

    def step(self, lr: float) -> None:
        """Applies and drops the gradient, if there is one."""
        gradient, self.parameter.grad = self.parameter.grad, None
        if gradient is None:
            return
        self._step += 1
        matrices, step = [self.parameter, *self._state], int(self._step)
        if gradient.is_sparse:
            rows_U, gradient = sum_by_row(*by_row(gradient))
            if len(rows_U) < len(self.parameter):
                self._update.update(matrices, rows_U, gradient.div_(dist.get_world_size()), lr, step)
                return
        self._update.update_all(matrices, gradient.div_(dist.get_world_size()), lr, step)
