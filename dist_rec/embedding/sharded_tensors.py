"""Sharded tensors: built from local shards, and split into them."""

from typing import NamedTuple

from torch import Tensor
from torchrec.distributed.types import Shard, ShardedTensor, ShardedTensorMetadata


class Part(NamedTuple):
    """A part of a tensor on this process, which starts at (row, column)."""

    tensor: Tensor
    row: int
    column: int


def parts(value: Tensor | ShardedTensor) -> list[Part]:
    """The parts of a sharded tensor on this process; another tensor is one part."""
    if not isinstance(value, ShardedTensor):
        return [Part(value, 0, 0)]
    return [Part(shard.tensor, *(*shard.metadata.shard_offsets, 0)[:2]) for shard in value.local_shards()]


def put_together(own: list[Shard], metadata: ShardedTensorMetadata, like: ShardedTensor | None = None) -> ShardedTensor:
    """A sharded tensor on this process's shards, of all processes or of the process group of `like`; shares memory."""
    group = None if like is None else like._process_group
    return ShardedTensor._init_from_local_shards_and_global_metadata(own, metadata, process_group=group)
