"""Carries out steps: in order on CPUs; on GPUs with copy and input exchange of the next batches under compute."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from dist_rec.core.batch import Batch
from dist_rec.train.model import Output


class Pipeline(Protocol):
    """TorchRec's contract of train pipelines."""

    def progress(self, batches: Iterator[Batch], /) -> Output:
        """One step: forward, and if the model is in training mode backward and update; raises StopIteration."""

    def detach(self) -> nn.Module:
        """The model, free to be called directly until the next step."""


class SequentialPipeline:
    """One step after the other: there is no second stream on a CPU to overlap with."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model, self._optimizer = model, optimizer

    def progress(self, batches: Iterator[Batch], /) -> Output:
        """See `Pipeline`."""
        batch = next(batches)
        self._optimizer.zero_grad()
        loss, output = self._model(batch)
        loss.backward()
        self._optimizer.step()
        return output

    def detach(self) -> nn.Module:
        """See `Pipeline`."""
        return self._model


def make_pipeline(model: nn.Module, optimizer: Optimizer, device: torch.device) -> Pipeline:
    """The pipeline that suits the device."""
    if device.type == "cuda":
        return TrainPipelineSparseDist(model, optimizer, device, execute_all_batches=True)
    return SequentialPipeline(model, optimizer)
