"""The learning rate as a pure function of the step."""

import math
from typing import Literal

from pydantic import Field
from torch.optim import Optimizer

from dist_rec.core.config import Config


class ScheduleConfig(Config):
    """Warm-up, then decay; the same factor multiplies every optimizer's learning rate."""

    warmup_steps: int = Field(0, ge=0)
    """Steps in which the factor rises from 1 / warmup_steps to 1."""
    decay: Literal["none", "linear", "cosine", "sqrt"] = "none"
    """Shape of the decay from the end of the warm-up to the last step; "sqrt" is sqrt(warmup_steps / step) instead."""
    final: float = Field(0.0, ge=0, le=1)
    """Factor at the last step, for linear and cosine decay."""


def factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Factor of the learning rates in step `step` (from 0) of `steps`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.decay == "none":
        return 1.0
    if config.decay == "sqrt":
        return math.sqrt(max(config.warmup_steps, 1) / max(step, 1))
    done = min(1.0, (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps))
    left = 1 - done if config.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.final + (1 - config.final) * left


class Schedule:
    """Applies `factor` to optimizers, whose learning rates at construction are the base rates. It has no state."""

    def __init__(self, config: ScheduleConfig, optimizers: list[Optimizer], steps: int) -> None:
        self._config, self._steps = config, steps
        self._groups = [(group, float(group["lr"])) for optimizer in optimizers for group in optimizer.param_groups]

    def apply(self, step: int) -> float:
        """Sets the learning rates of a step and returns the factor."""
        now = factor(self._config, step, self._steps)
        for group, base in self._groups:
            group["lr"] = base * now
        return now
