"""Where a run stands, and what falls on which step: pure functions that need no model."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

from dist_rec.train.config import RunConfig


@dataclass
class Progress:
    """Where a run stands, beside its tensors."""

    step: int = 0
    """Global steps done: also the cursor of the data."""
    best_step: int | None = None
    best_score: float | None = None
    evaluations_since_best: int = 0
    skipped_rows: int = 0
    """Left out for damage, by all processes."""
    skipped_steps: list[int] = field(default_factory=list)
    """Left out for a loss that is not a number."""


def judge(progress: Progress, score: float, is_better: Callable[[float, float], bool]) -> Progress:
    """The progress after an evaluation at its step.

    Args:
        progress: before it.
        score: what the task ranks models by; one that is not a number is never the best.
        is_better: whether a score is better than another.
    """
    best = progress.best_score
    if not math.isnan(score) and (best is None or is_better(score, best)):
        return replace(progress, best_step=progress.step, best_score=score, evaluations_since_best=0)
    return replace(progress, evaluations_since_best=progress.evaluations_since_best + 1)


@dataclass(frozen=True)
class Lengths:
    """How long a run is, in global steps, and its periods."""

    steps: int
    """Of the run."""
    epoch: int
    """Of an epoch."""
    evaluate_every: int
    save_every: int
    patience: int | None
    """Evaluations without a better score that end the run; None: no number does."""

    @classmethod
    def of(cls, config: RunConfig, epoch: int) -> Self:
        """The lengths that a config gives on data with so many steps an epoch."""
        train = config.train
        evaluate_every = train.evaluate_every or epoch
        save_every = config.checkpoint.every or evaluate_every
        steps = train.steps or train.epochs * epoch
        return cls(steps, epoch, evaluate_every, save_every, train.patience)

    def ended(self, progress: Progress) -> bool:
        """Whether nothing is left to train."""
        impatient = self.patience is not None and progress.evaluations_since_best >= self.patience
        return progress.step >= self.steps or impatient

    def segment_end(self, step: int) -> int:
        """The next step on which an evaluation or a checkpoint falls, or the last one."""
        return min(self.steps, *((step // every + 1) * every for every in (self.evaluate_every, self.save_every)))

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation falls on a step."""
        return step % self.evaluate_every == 0 or step == self.steps
