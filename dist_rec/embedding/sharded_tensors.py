"""Tensors that lie in parts on several processes: put together, and taken apart."""

from typing import NamedTuple

from torch import Tensor
from torchrec.distributed.types import Shard, ShardedTensor, ShardedTensorMetadata


class Part(NamedTuple):
    """What this process holds of a tensor, from (row, column) on."""

    tensor: Tensor
    row: int
    column: int


def parts(value: Tensor | ShardedTensor) -> list[Part]:
    """Those of a sharded tensor; of another one the whole."""
    if not isinstance(value, ShardedTensor):
        return [Part(value, 0, 0)]
    return [Part(shard.tensor, *(*shard.metadata.shard_offsets, 0)[:2]) for shard in value.local_shards()]


def put_together(own: list[Shard], metadata: ShardedTensorMetadata, like: ShardedTensor | None = None) -> ShardedTensor:
    """A view on this process's shards as a tensor of all processes, or of those of the tensor that it is like."""
    group = None if like is None else like._process_group
    return ShardedTensor._init_from_local_shards_and_global_metadata(own, metadata, process_group=group)
