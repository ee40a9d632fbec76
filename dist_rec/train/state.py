"""The tensors of a run under names that do not depend on how tables are sharded.

`state_of` returns views of the live tensors: weights, and the state of fused, replicated and dense optimizers.
`torch.distributed.checkpoint` saves them and loads into them. This file handles two cases that it does not:

- Adagrad's sum is named `sum` for a replicated table and `momentum1`, in another shape, for a sharded one;
- row-wise Adagrad keeps one number per row and column shard, so the length of its state depends on the sharding.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import Shard, ShardedTensor, ShardMetadata
from torchrec.optim.keyed import KeyedOptimizer

from dist_rec.core.errors import UserError
from dist_rec.core.table_name import TableName
from dist_rec.embedding.sharded_tensors import parts, put_together

State = dict[str, Tensor | ShardedTensor]


def state_of(model: DistributedModelParallel, optimizer: KeyedOptimizer | None) -> State:
    """All tensors of the model and the optimizer by name, as views of the live ones.

    An optimizer's slots appear once they exist: call `optimizer.init_state()` before loading into a new one.
    """
    state: State = {f"model.{name}": value for name, value in model.state_dict().items()}
    if optimizer is not None:
        for parameter, slots in optimizer.state_dict()["state"].items():
            for slot, value in _flatten(slots):
                if (named := _canonical(parameter, slot, value)) is not None:
                    state[f"optimizer.{parameter}.{named[0]}"] = named[1]
    return state


def _flatten(slots: dict[str, Any]) -> Iterator[tuple[str, Tensor | ShardedTensor]]:
    for name, value in slots.items():
        if isinstance(value, dict):
            yield from _flatten(value)
        elif isinstance(value, Tensor | ShardedTensor):
            yield name, value


def _canonical(parameter: str, slot: str, value: Tensor | ShardedTensor) -> tuple[str, Tensor | ShardedTensor] | None:
    table = TableName.of_parameter(parameter)
    if table is None:
        return slot, value
    if slot == "step":
        return None  # Adagrad reads its step count only if its learning rate decays by itself.
    if slot == "sum":
        assert isinstance(value, Tensor)
        return "momentum1", value.view(-1) if value.shape[1] == 1 else value
    return slot.removeprefix(f"{table}."), value


class Staging:
    """Copies of a state on the host, in memory that is kept from one save to the next."""

    def __init__(self) -> None:
        self._copies: State = {}

    def reserve(self, state: State) -> None:
        """Allocates memory for a copy of the state, so that the first copy does not wait for it."""
        for name, value in state.items():
            if name not in self._copies or _shape(self._copies[name]) != _shape(value):
                self._copies[name] = _empty_like(value)

    def copy(self, state: State) -> State:
        """Copies the state; the result is valid until the next call."""
        self.reserve(state)
        for name, value in state.items():
            for target, source in zip(parts(self._copies[name]), parts(value), strict=True):
                target.tensor.copy_(source.tensor, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return {name: self._copies[name] for name in state}


def _shape(value: Tensor | ShardedTensor) -> list[torch.Size]:
    return [part.tensor.shape for part in parts(value)]


def _empty_like(value: Tensor | ShardedTensor) -> Tensor | ShardedTensor:
    if isinstance(value, ShardedTensor):
        shards = [Shard(_host(shard.tensor), _on_host(shard.metadata)) for shard in value.local_shards()]
        pinned = any(shard.tensor.is_pinned() for shard in shards)
        metadata = replace(
            value.metadata(),
            shards_metadata=[_on_host(shard) for shard in value.metadata().shards_metadata],
            tensor_properties=replace(value.metadata().tensor_properties, pin_memory=pinned),
        )
        return put_together(shards, metadata, like=value)
    return _host(value)


def _on_host(shard: ShardMetadata) -> ShardMetadata:
    assert shard.placement is not None
    return ShardMetadata(shard.shard_offsets, shard.shard_sizes, f"rank:{shard.placement.rank()}/cpu")


def _host(tensor: Tensor) -> Tensor:
    # Filled now, so that the system maps the pages before the first save.
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)


class Resharding:
    """Loads row-wise Adagrad saved with another number of column shards.

    Its state is the sum over steps of the mean square of a row's gradient. It is linear in the squares, so the state of
    a wide shard is the average of those of narrow ones, weighted by width. A narrow shard takes the wide one's state.

    Args:
        state: the tensors to load into.
        saved: metadata of the checkpoint.

    Raises:
        UserError: if a tensor is missing in the checkpoint, or has a size there that cannot be resharded.
    """

    def __init__(self, state: State, saved: Metadata) -> None:
        self._live: State = {}
        self._whole: dict[str, Tensor] = {}
        state = {_saved_name(name, saved): value for name, value in state.items()}
        for name, value in state.items():
            entry = saved.state_dict_metadata.get(name)
            if not isinstance(entry, TensorStorageMetadata):
                raise UserError(f"the checkpoint has no {name}; use the head, data and optimizers of that run")
            if entry.size != value.size():
                # Only row-wise Adagrad may differ. Its table, which comes before it, has the same size in both.
                if not name.endswith(".momentum1") or len(entry.size) != 1 or len(value.size()) != 1:
                    sizes = f"{[*entry.size]} in the checkpoint and {[*value.size()]} in this run"
                    raise UserError(f"{name} has size {sizes}; use the head, data and optimizers of that run")
                self._live[name] = value
                self._whole[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
        self._state = state

    def to_load(self) -> State:
        """The state to load, with unsharded buffers in place of tensors that were saved in another shape."""
        return {**self._state, **self._whole}

    def finish(self) -> None:
        """Computes the resharded tensors from the loaded buffers."""
        for name, whole in self._whole.items():
            weights = self._state["model." + name.removeprefix("optimizer.").rsplit(".", 1)[0]]
            rows, columns = weights.size()
            saved_PR = whole.view(-1, rows)
            for (target, *_), part in zip(parts(self._live[name]), parts(weights), strict=True):
                height, width = part.tensor.shape
                share_P = _overlap(part.column, width, len(saved_PR), columns)
                target.copy_((saved_PR[:, part.row : part.row + height] * share_P.unsqueeze(1)).sum(0))


def _saved_name(name: str, saved: Metadata) -> str:
    """Name of a tensor in the checkpoint: before version 0.2 the head had another place in the model."""
    names = [name, *(name.replace(".precise.head.", f".{place}.head.", 1) for place in ("objective", "encoder"))]
    return next((one for one in names if one in saved.state_dict_metadata), name)


def _overlap(column: int, width: int, parts: int, columns: int) -> Tensor:
    """Shares [parts] of the columns [column, column + width) that lie in each of the equal parts; they sum to 1."""
    edges = torch.arange(parts + 1) * (columns // parts)
    left, right = edges[:-1].clamp(min=column), edges[1:].clamp(max=column + width)
    return (right - left).clamp(min=0) / width
