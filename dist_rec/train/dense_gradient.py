"""The gradient of the dense parameters: clipped, measured, and counted how often it was clipped.

Before the update DDP averages the gradient over the processes, so all of them find the same numbers.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, OptimizerWrapper


class MeasuredOptimizer(OptimizerWrapper):
    """Updates the dense parameters.

    Args:
        optimizer: the update rule.
        clip_norm: largest norm of the gradient; None: no clipping, and the norm is computed only for a report.
    """

    def __init__(self, optimizer: KeyedOptimizer, clip_norm: float | None) -> None:
        super().__init__(optimizer)
        self._clip_norm = clip_norm
        self._norm: Tensor | None = None
        self._clipped: Tensor | int = 0
        self._steps = 0

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Drops the gradient."""
        self._norm = None
        super().zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:
        """Clips the gradient and updates the parameters; nothing here waits for the device."""
        if self._clip_norm is not None and (parameters := self._parameters()):
            self._norm = torch.nn.utils.clip_grad_norm_(parameters, self._clip_norm)
            self._clipped, self._steps = self._clipped + (self._norm > self._clip_norm), self._steps + 1
        super().step(closure)

    def report(self) -> dict[str, float]:
        """The gradient before clipping: `grad_norm` in the last step, and `clipped`, the share of the steps in which it
        was clipped, since the last report or the start. NaN where there was no gradient."""
        if self._clip_norm is None:
            gradients = [parameter.grad for parameter in self._parameters()]
            return {"grad_norm": float(torch.nn.utils.get_total_norm(gradients)) if gradients else math.nan}
        norm = math.nan if self._norm is None else float(self._norm)
        clipped = float(self._clipped) / self._steps if self._steps else math.nan
        self._clipped = self._steps = 0
        return {"grad_norm": norm, "clipped": clipped}

    def _parameters(self) -> list[Any]:
        return [of for of in self.params.values() if of.grad is not None and of.grad.numel()]


def gradient_report(optimizer: CombinedOptimizer) -> dict[str, float]:
    """The report of the `MeasuredOptimizer` among a model's; empty if the model has no dense parameters."""
    return next((one.report() for _, one in optimizer.optimizers if isinstance(one, MeasuredOptimizer)), {})
