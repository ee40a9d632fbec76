"""Progress of a run, and the steps of its evaluations and checkpoints: pure functions that need no model."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from dist_rec.core.errors import UserError
from dist_rec.train.config import RunConfig


@dataclass
class Progress:
    """The state of a run without its tensors."""

    step: int = 0
    """Global steps done, which is also the position in the data."""
    best_step: int | None = None
    best_score: float | None = None
    evaluations_since_best: int = 0
    skipped_rows: int = 0
    """Rows of damaged blocks, skipped by all processes together."""
    skipped_steps: list[int] = field(default_factory=list)
    """Steps skipped because the loss was NaN or infinite."""

    @classmethod
    def of(cls, values: dict[str, Any], where: Path) -> Self:
        """The progress that the file `where` has; raises UserError for a value that this version does not know."""
        if unknown := sorted(values.keys() - {known.name for known in fields(cls)}):
            raise UserError(f"{where}: unknown key 'progress.{unknown[0]}'; go on with the version that wrote it")
        return cls(**values)


def judge(
    progress: Progress, score: float, is_better: Callable[[float, float], bool], least_gain: float = 0.0
) -> Progress:
    """The progress after an evaluation at its step with this score; NaN says nothing, and is no evaluation.

    `is_better(a, b)` tells whether the score `a` is better than `b`; a new best is so by `least_gain` or more.
    """
    if math.isnan(score):
        return progress
    best = progress.best_score
    if best is None or (is_better(score, best) and abs(score - best) >= least_gain):
        return replace(progress, best_step=progress.step, best_score=score, evaluations_since_best=0)
    return replace(progress, evaluations_since_best=progress.evaluations_since_best + 1)


class Stop(NamedTuple):
    """When and why a run stopped."""

    reason: str
    """steps: all are done; patience: so many evaluations without a better score; else the signal that asked for it."""
    step: int
    """Steps done."""
    steps: int
    """Steps of the whole run."""


@dataclass(frozen=True)
class Lengths:
    """Length of a run and of its periods, in global steps."""

    steps: int
    """Steps of the run."""
    epoch: int
    """Steps of an epoch."""
    evaluate_every: int
    save_every: int
    patience: int | None
    """Consecutive evaluations without a better score that end the run; None: no limit."""

    @classmethod
    def of(cls, config: RunConfig, epoch: int) -> Self:
        """The lengths of a run by its config and the steps of an epoch."""
        train = config.train
        evaluate_every = train.evaluate_every or epoch
        save_every = config.checkpoint.every or evaluate_every
        steps = train.steps or train.epochs * epoch
        return cls(steps, epoch, evaluate_every, save_every, train.patience)

    def stop(self, progress: Progress, asked: str | None = None) -> Stop | None:
        """When and why the run stops, by a signal if it is asked to; None if it goes on."""
        impatient = self.patience is not None and progress.evaluations_since_best >= self.patience
        complete = progress.step >= self.steps
        reason = asked or ("steps" if complete else "patience" if impatient else None)
        return None if reason is None else Stop(reason, progress.step, self.steps)

    def segment_end(self, step: int) -> int:
        """The next step with an evaluation or a checkpoint, or the last step."""
        return min(self.steps, *((step // every + 1) * every for every in (self.evaluate_every, self.save_every)))

    def evaluates(self, step: int) -> bool:
        """Whether the model is evaluated after this many steps."""
        return step % self.evaluate_every == 0 or step == self.steps

    def saves(self, progress: Progress) -> bool:
        """Whether a checkpoint is due: by its period, or of the best model so far."""
        return progress.step % self.save_every == 0 or progress.best_step == progress.step
