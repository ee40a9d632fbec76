"""The whole model as one module: batch → scores → loss.

TorchRec's pipeline traces `forward` and treats a module without tables as a whole, so `forward` only passes values
between modules. It computes the loss, too: DDP ignores an output without tensors in the backward pass.

Shapes: B scored rows, Q rows of the data.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dist_rec.core import head as heads
from dist_rec.core.batch import Batch
from dist_rec.core.head import Head, Ids, Inputs, Query
from dist_rec.embedding.catalog import Catalog
from dist_rec.embedding.layer import EmbeddingLayer
from dist_rec.embedding.scores import CatalogScores
from dist_rec.tasks.task import Scores, Task
from dist_rec.train.lane_state import LaneState
from dist_rec.train.output_shapes import check_of_each, check_query, check_scores


class Output(NamedTuple):
    """Reported values of a training step."""

    loss: Tensor
    """float32 []; the mean over processes is the mean loss of the global batch."""


class Precise(nn.Module):
    """The head, computed on a device in the precision of the config; see `TrainConfig.precision`.

    Args:
        head: scores rows, or gives queries for a catalog.
        precision: of the config.
        device: of the head.
        catalog: the request of a head of a catalog.
        lane_state: for a recurrent head.
    """

    def __init__(
        self,
        head: Head,
        precision: str,
        device: torch.device,
        catalog: heads.Catalog | None = None,
        lane_state: LaneState | None = None,
    ) -> None:
        super().__init__()
        self._catalog, self.lane_state = catalog, lane_state
        self._bf16, self._fp64 = precision == "bf16", precision == "fp64"
        self._device_type = device.type
        self.head = head.double() if self._fp64 else head

    def forward(self, inputs: Inputs, batch: Batch) -> Any:
        """Output of the head: scores [B] in float32 or float64, or a query; raises UserError for another shape."""
        if self._catalog is not None:
            return self._query(inputs, batch, batch.column(self._catalog.feature), self._catalog.dim)
        output = self._of_head(inputs)
        check_scores(self.head, output, len(inputs.dense))
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def _query(self, inputs: Inputs, batch: Batch, targets: Ids, dim: int) -> Query:
        inputs, lanes, state = replace(inputs, num_targets=targets.lengths), batch.lanes, self.lane_state
        if state is not None:
            assert lanes is not None
            inputs = replace(inputs, lanes=lanes, state=state.read(lanes))
        output = self._of_head(inputs)
        size = None if state is None else state.size
        check_query(self.head, output, len(inputs.dense), len(targets.values), dim, size)
        if state is not None and lanes is not None:
            state.write(lanes, output.state)
        return output

    def _of_head(self, inputs: Inputs) -> Any:
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._bf16):
            return self.head(inputs.double() if self._fp64 else inputs)


class Objective(nn.Module):
    """The loss of the scores: the task's, or the head's own."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task = task

    def forward(self, output: Tensor | Query, scores: Scores, batch: Batch) -> tuple[Tensor, Output]:
        """The loss to differentiate, whose mean over processes is that of the global batch, and what to report."""
        loss_Q = self._loss(output, of_query(output, scores), batch)
        check_of_each("losses", loss_Q, batch.weights)
        loss = (loss_Q * batch.weights).sum() * batch.scale
        return loss, Output(loss.detach())

    def _loss(self, output: Tensor | Query, scores: Scores, batch: Batch) -> Tensor:
        if isinstance(output, Tensor):
            return self._task.loss(scores, batch)
        own = output.loss
        loss_B = self._task.loss(scores, batch) if own is None else own(scores, self._task.targets(batch))
        return loss_B if output.penalty is None else loss_B + output.penalty


def of_query(output: Tensor | Query, scores: Scores) -> Scores:
    """The scores; those of a catalog get what the head says of its queries."""
    if isinstance(scores, CatalogScores) and isinstance(output, Query):
        scores.prediction, scores.per_target = output.predict, output.per_target
    return scores


class Recommender(nn.Module):
    """Embeddings, a head, the loss, and for heads that give queries a catalog (otherwise None)."""

    def __init__(
        self, embeddings: EmbeddingLayer, precise: Precise, catalog: Catalog | None, objective: Objective
    ) -> None:
        super().__init__()
        self.embeddings, self.precise, self.catalog, self.objective = embeddings, precise, catalog, objective

    def forward(self, batch: Batch) -> tuple[Tensor, Output]:
        """See `Objective.forward`."""
        output = self.precise(self.embeddings(batch), batch)
        scores = output if self.catalog is None else self.catalog(output.vectors)
        return self.objective(output, scores, batch)

    def scores(self, batch: Batch) -> Scores:
        """Scores of the rows, [B], or of each row against the whole catalog; all processes call it together."""
        output = self.precise(self.embeddings(batch), batch)
        return of_query(output, output if self.catalog is None else self.catalog(output.vectors))
