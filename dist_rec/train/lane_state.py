"""The state that a recurrent head leaves in its lanes from one step to the next.

It belongs to the model's state: a checkpoint has that of all lanes, and each goes with its lane when the number of
processes changes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.types import Shard, ShardedTensor, ShardedTensorMetadata, ShardMetadata, TensorProperties

from dist_rec.core.head import Lanes
from dist_rec.core.process import Process
from dist_rec.data.order import streams_of
from dist_rec.embedding.sharded_tensors import put_together


class LaneState(nn.Module):
    """The state of the lanes of this process, in training and, apart from it, in evaluation.

    Args:
        lanes: of all processes in training.
        eval_lanes: likewise in evaluation.
        size: numbers of a lane's state, S.
        process: this one.
        dtype: of the state.
    """

    def __init__(self, lanes: int, eval_lanes: int, size: int, process: Process, dtype: torch.dtype) -> None:
        super().__init__()
        self._lanes, self.size, self._process = lanes, size, process
        # No buffers: DDP and `state_dict` would take them for equal on all processes.
        self._state, self._eval_state = (
            torch.zeros(len(streams_of(process.rank, process.world, count)), size, dtype=dtype, device=process.device)
            for count in (lanes, eval_lanes)
        )

    def read(self, lanes: Lanes) -> Tensor:
        """The states of the lanes, 0 for those that start a unit, [B, S]."""
        state_BS = self._now.index_select(0, lanes.number)
        return state_BS.masked_fill_(lanes.starts_unit.unsqueeze(1), 0)

    def write(self, lanes: Lanes, state_BS: Tensor) -> None:
        """Keeps the states for the next step; one that is not a number, which a skipped batch may leave, becomes 0."""
        state_BS = state_BS.detach().to(self._now.dtype).nan_to_num(0, 0, 0)
        self._now.index_copy_(0, lanes.number, state_BS)

    @property
    def _now(self) -> Tensor:
        return self._state if self.training else self._eval_state

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}state"] = self._whole()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        """Nothing to do: what is loaded is a view on the state."""

    def _whole(self) -> ShardedTensor:
        world, device = self._process.world, self._process.device
        shards = []
        for rank in range(world):
            lanes = streams_of(rank, world, self._lanes)
            place = f"rank:{rank}/{device.type if device.type == 'cpu' else f'cuda:{rank % self._process.local_world}'}"
            shards.append(ShardMetadata([lanes.start, 0], [len(lanes), self.size], place))
        metadata = ShardedTensorMetadata(
            shards, torch.Size([self._lanes, self.size]), TensorProperties(dtype=self._state.dtype)
        )
        return put_together([Shard(self._state, shards[self._process.rank])], metadata)
