"""Training steps: in order on CPUs; on GPUs the next batches are copied and exchanged during compute."""

from collections.abc import Iterator
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from dist_rec.core.batch import Batch
from dist_rec.embedding.layer import embedding_layer
from dist_rec.train.recommender import Output


class Segment(Iterator[Batch]):
    """The next `length` batches, or fewer if it is closed before; a pipeline then finishes the batches in flight."""

    def __init__(self, batches: Iterator[Batch], length: int) -> None:
        self._batches, self._left = batches, length

    def __next__(self) -> Batch:
        if self._left <= 0:
            raise StopIteration
        self._left -= 1
        return next(self._batches)

    def close(self) -> None:
        """Ends the segment."""
        self._left = 0


class Pipeline(Protocol):
    """Interface of TorchRec's train pipelines."""

    def progress(self, batches: Iterator[Batch], /) -> Output:
        """One step: forward, and in training mode backward and update; raises StopIteration after the last batch."""

    def detach(self) -> nn.Module:
        """The model, which may be called directly until the next step."""


def finite_everywhere(loss: Tensor) -> bool:
    """Whether the loss is finite on every process; the same answer on all."""
    finite = torch.isfinite(loss).int()
    dist.all_reduce(finite, dist.ReduceOp.MIN)
    return bool(finite)


class SequentialPipeline:
    """One step after the other: a CPU has no second stream to overlap with."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, skip_nonfinite: bool) -> None:
        self._model, self._optimizer, self._skip_nonfinite = model, optimizer, skip_nonfinite

    def progress(self, batches: Iterator[Batch], /) -> Output:
        """See `Pipeline`."""
        batch = next(batches)
        self._optimizer.zero_grad()
        loss, output = self._model(batch)
        if not self._skip_nonfinite or finite_everywhere(loss):
            loss.backward()
            self._optimizer.step()
        return output

    def detach(self) -> nn.Module:
        """See `Pipeline`."""
        return self._model


class SkippingPipeline(TrainPipelineSparseDist):
    """Skips the backward pass if the loss is not finite; without gradients the optimizers change nothing."""

    def _backward(self, losses: Tensor) -> None:
        if finite_everywhere(losses.detach()):
            super()._backward(losses)


def make_pipeline(model: nn.Module, optimizer: Optimizer, device: torch.device, skip_nonfinite: bool) -> Pipeline:
    """The pipeline for a device; `skip_nonfinite` skips batches whose loss is NaN or infinite."""
    if device.type == "cuda":
        overlapped = SkippingPipeline if skip_nonfinite else TrainPipelineSparseDist
        return overlapped(model, optimizer, device, execute_all_batches=True)
    # TorchRec's pipelines run the collections' exchange ahead; here one process has nothing to exchange.
    embedding_layer(model).is_local = dist.get_world_size() == 1
    return SequentialPipeline(model, optimizer, skip_nonfinite)
