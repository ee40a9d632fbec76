"""FBGEMM's kernels inside of TorchRec's sharded modules: their tables, weights and optimizer state.

Only this file depends on how TorchRec arranges them.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.optim import Optimizer
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbedding, BatchedFusedEmbeddingBag
from torchrec.distributed.embedding_types import ShardedEmbeddingModule
from torchrec.distributed.types import Shard, ShardedTensor
from torchrec.optim import SGD, RowWiseAdagrad

from dist_rec.core.table_name import TableName, by_table
from dist_rec.embedding import row_rules
from dist_rec.embedding.sharded_tensors import put_together
from dist_rec.embedding.tables import EmbeddingTable
from dist_rec.embedding.updates import Fused

Kernel: TypeAlias = BatchedFusedEmbedding | BatchedFusedEmbeddingBag


def fused_optimizer(table: EmbeddingTable, update: Fused | row_rules.Rows) -> tuple[type[Optimizer], dict[str, Any]]:
    """The optimizer, with its arguments, that TorchRec configures for the kernel of a sharded table.

    It never runs if a row rule updates the table: then it is SGD, which has no state, or row-wise Adagrad, whose state
    TorchRec shards in its own way. TorchRec groups tables by `_batch_key`, which it passes to no kernel, so all tables
    of a kernel share a rule and a width.
    """
    if isinstance(update, Fused):
        return update.optimizer, {**update.arguments}
    unused = RowWiseAdagrad if isinstance(update.rule, row_rules.RowWiseAdagrad) else SGD
    return unused, {"lr": table.settings.lr, "_batch_key": repr((table.padded_dim, table.settings.lr, update))}


def kernels(model: nn.Module) -> Iterator[Kernel]:
    """The kernels that hold the lookups' sharded tables on this process."""
    for sharded in model.modules():
        if isinstance(sharded, ShardedEmbeddingModule):  # its lookups are none of its submodules
            for lookup in sharded._lookups:
                yield from (module for module in lookup.modules() if isinstance(module, Kernel))


def table_names(kernel: Kernel) -> list[TableName]:
    """The table of each of the kernel's shards."""
    return [TableName.parse(table.name) for table in kernel.config.embedding_tables]


def stacked(parts: list[Tensor]) -> Tensor:
    """Adjacent views of one storage, [rows of each, ...], as one view [R, ...]."""
    starts = accumulate((part.numel() for part in parts), initial=parts[0].storage_offset())
    assert all(part.storage_offset() == start for part, start in zip(parts, starts, strict=False))
    assert len({part.shape[1:] for part in parts}) == 1
    return parts[0].as_strided((sum(len(part) for part in parts), *parts[0].shape[1:]), parts[0].stride())


def add_state(kernel: Kernel, slot: str, parts: tuple[Tensor, ...]) -> None:
    """Adds state of the weights' shape to the kernel's fused optimizer, one tensor for each shard of the kernel."""
    for table, weights, state in _states(kernel):
        own = [part for name, part in zip(table_names(kernel), parts, strict=True) if name == table]
        shards = [Shard(part, shard.metadata) for part, shard in zip(own, weights.local_shards(), strict=True)]
        state[f"{table}.{slot}"] = put_together(shards, weights.metadata(), like=weights)


def add_step(kernel: Kernel, step: Tensor) -> None:
    """Adds a count of steps, which all tables of the kernel share, to its fused optimizer."""
    for table, _, state in _states(kernel):
        state[f"{table}.step"] = step


def _states(kernel: Kernel) -> Iterator[tuple[TableName, ShardedTensor, dict[str, Any]]]:
    """Name, weights and state of each table in the fused optimizer of a kernel."""
    optimizer = kernel.fused_optimizer
    for table, weights in by_table(optimizer.params.items()).items():
        yield table, weights, optimizer.state[weights]
