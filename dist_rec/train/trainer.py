"""Trains a recommender: build, step, evaluate, save.

The run is cut into segments that end where an evaluation or a checkpoint falls, so that no batch is in flight there
and the state of the data is one number, the global step.
"""

import logging
import math
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from dist_rec.core.batch import Batch
from dist_rec.core.errors import Interrupted, UserError
from dist_rec.core.noise import noise
from dist_rec.core.process import Process
from dist_rec.data.shards import Dataset
from dist_rec.train.checkpoint import Checkpoints
from dist_rec.train.config import RunConfig
from dist_rec.train.evaluator import evaluate
from dist_rec.train.interruption import Interruption
from dist_rec.train.model import build_model, build_optimizer
from dist_rec.train.pipeline import Segment, make_pipeline
from dist_rec.train.pretrained import start_from
from dist_rec.train.reporter import Reporter
from dist_rec.train.result import read_result, write_result
from dist_rec.train.schedule import Schedule
from dist_rec.train.spec import resolve

log = logging.getLogger(__name__)


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


class Trainer:
    """One run.

    Args:
        config: what to train.
        process: this one; the process group exists.
        folder: the run's, made already.
    """

    def __init__(self, config: RunConfig, process: Process, folder: Path) -> None:
        self.config, self.process, self.folder = config, process, folder
        self.dataset = Dataset(config.data.path)
        if process.first:
            for oddity in self.dataset.manifest.oddities():
                log.warning("%s: %s", self.dataset.path, oddity)
        if config.data.on_corrupt == "error":
            self.dataset.check_files()
        if config.train.patience and "valid" not in self.dataset.manifest.splits:
            raise UserError(f"train.patience is of validation scores, and {self.dataset.path} has no split 'valid'")
        spec = resolve(config, self.dataset.manifest)
        self.task = spec.task
        self.train_loader = spec.training_loader(self.dataset, process)
        # Built before training, so that a split that cannot be scored is told of now.
        splits = [split for split in self.dataset.manifest.splits if split in ("valid", "test")]
        self.scored = {split: spec.evaluation_loader(self.dataset, split, process) for split in splits}
        self.steps = config.train.steps or config.train.epochs * self.train_loader.steps_per_epoch
        self.parameters = spec.count_parameters()
        self.model = build_model(spec, process)
        self.optimizer = build_optimizer(config, self.model)
        self.schedule = Schedule(config.schedule, [self.optimizer], self.steps)
        self.pipeline = make_pipeline(
            self.model, self.optimizer, process.device, skip_nonfinite=config.train.on_nonfinite == "skip"
        )
        self.checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint, process)
        self.progress = Progress()
        self.skipped_steps: set[int] = set()
        self.seconds: dict[str, float] = defaultdict(float)

    def resume(self, allow_changes: bool = False) -> None:
        """Goes on from the newest good checkpoint, if there is one.

        Args:
            allow_changes: whether the config or the data may differ from what the checkpoint was made with.

        Raises:
            UserError: naming what differs.
        """
        step = self.checkpoints.newest()
        if step is None:
            return self.checkpoints.set_aside(0)
        state = self.checkpoints.state(step)
        changes = self.config.changes(RunConfig.parse(state["config"]))
        if state["data"] != self.dataset.manifest.checksum:
            changes.append(f"the data: {self.dataset.path} is not what the run was trained on")
        if changes and not allow_changes:
            raise UserError(
                f"{self.folder} cannot go on with {'; '.join(changes)} (--allow-changes goes on all the same)"
            )
        self.checkpoints.load(step, self.model, self.optimizer)
        self.checkpoints.set_aside(step)
        self.progress = Progress(**state["progress"])

    def fit(self) -> dict[str, Any]:
        """Trains to the end, or until the validation score stops rising, and evaluates the best model.

        Returns:
            `{"train": {...}, "valid": {...}, "test": {...}}`, also written to `result.json`.
        """
        first, progress = self.progress.step, self.progress
        interruption = Interruption(self.process)
        batches = self._timed(self.train_loader.batches(first, self.steps))
        rows_before = self._trained_rows()
        if not first and self.config.pretrained.runs:
            start_from(self.model, self.config.pretrained.runs, self.process)
        self.model.train()
        self.checkpoints.reserve(self.model, self.optimizer)
        told = self.folder if self.process.first else None
        with Reporter(told, self._rows_until(self.steps), self._rows_until(first), first) as report:
            while progress.step < self.steps and not self._out_of_patience():
                end = self._segment_end(progress.step)
                with self._clock("train"):
                    self._run_segment(Segment(batches, end - progress.step), report, interruption)
                    stopped = interruption.asked()
                self._count_skipped()
                if progress.step == end and self._falls(self._evaluate_every, end):
                    self._evaluate(report)
                with self._clock("checkpoint"):
                    self.checkpoints.save(progress.step, self.model, self.optimizer, self._state())
                if stopped:
                    self.checkpoints.close()
                    where = f"step {progress.step} of {self.steps}"
                    raise Interrupted(f"stopped after {where}; go on with --resume --run-dir {self.folder}")
            with self._clock("checkpoint"):
                self.checkpoints.close()
            result = self._final_scores()
        rows = self._trained_rows() - rows_before
        result["train"] = {
            "rows": rows,
            "steps": progress.step - first,
            "rows_per_s": rows / self.seconds["train"] if rows else 0.0,
            "skipped_rows": progress.skipped_rows,
            "skipped_steps": progress.skipped_steps,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }
        if progress.step == first:
            # Nothing was left to train: what the run told of its training stays.
            result["train"] |= read_result(self.folder).get("train", {})
        result["parameters"] = self.parameters
        if self.process.first:
            write_result(self.folder, result)
        return result

    def _run_segment(self, batches: Segment, report: Reporter, interruption: Interruption) -> None:
        """Trains on the batches, or fewer if asked to stop."""
        progress, unchecked = self.progress, deque[tuple[int, torch.Tensor]]()
        # Reading a loss waits for the device, so a GPU's is read one step late.
        late = int(self.process.device.type == "cuda")
        while True:
            self._set_step(progress.step)
            try:
                output = self.pipeline.progress(batches)
            except StopIteration:
                break
            unchecked.append((progress.step, output.loss))
            report.advance(self.train_loader.global_rows(progress.step))
            progress.step += 1
            if len(unchecked) > late:
                self._check_finite(*unchecked.popleft())
            if progress.step % self.config.train.log_every == 0:
                report.log("train", progress.step, loss=self._global_sum(output.loss) / self.process.world)
            if interruption.agreed(progress.step):
                batches.close()
        for step, loss in unchecked:
            self._check_finite(step, loss)

    def _count_skipped(self) -> None:
        progress, loader = self.progress, self.train_loader
        progress.skipped_rows += int(self._global_sum(loader.skipped_rows))
        progress.skipped_steps = self._everywhere({*progress.skipped_steps, *self.skipped_steps})
        loader.skipped_rows = 0

    def _check_finite(self, step: int, loss: torch.Tensor) -> None:
        if math.isfinite(float(loss)):
            return
        epoch, batch = divmod(step, self.train_loader.steps_per_epoch)
        where = f"step {step} (epoch {epoch}, rows {batch * self.config.train.batch:,} and on of its order)"
        if self.config.train.on_nonfinite == "error":
            raise UserError(
                f"the loss is {float(loss)} in {where}: look for bad values in {self.dataset.path}, lower the learning "
                "rates, or leave such batches out with train.on_nonfinite=skip"
            )
        self.skipped_steps.add(step)
        log.warning("left out %s: the loss is %s", where, float(loss))

    def _set_step(self, step: int) -> None:
        """Learning rate and random numbers are functions of the step, so a resumed run needs no saved state of them."""
        self.schedule.apply(step)
        noise.begin(self.config.seed, step, *self.train_loader.share(step))
        seed = hash((self.config.seed, step, self.process.rank)) & 0x7FFFFFFFFFFFFFFF
        # For heads and devices that draw by themselves: what `torch.manual_seed` does for this device; looking for all
        # others took a twentieth of a small step.
        torch.default_generator.manual_seed(seed)
        if self.process.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _evaluate(self, report: Reporter) -> None:
        progress = self.progress
        if "valid" not in self.scored:
            return
        scores = self._score("valid")
        report.log("valid", progress.step, **scores)
        score, best = scores[self.task.config.best], progress.best_score
        if not math.isnan(score) and (best is None or self.task.is_better(score, best)):
            progress.best_step, progress.best_score, progress.evaluations_since_best = progress.step, score, 0
        else:
            progress.evaluations_since_best += 1

    def _final_scores(self) -> dict[str, Any]:
        best = self.progress.best_step
        if best is not None and best != self.progress.step:
            self.pipeline.detach()
            self.checkpoints.load(best, self.model, None)
        return {"best_step": best, **{split: self._score(split) for split in self.scored}}

    def _score(self, split: str) -> dict[str, float]:
        with self._clock("evaluate"):
            return evaluate(self.pipeline.detach(), self.scored[split], self.task, self.process)

    @property
    def _evaluate_every(self) -> int:
        return self.config.train.evaluate_every or self.train_loader.steps_per_epoch

    def _segment_end(self, step: int) -> int:
        every = [self._evaluate_every, self.config.checkpoint.every or self._evaluate_every]
        return min(self.steps, *((step // period + 1) * period for period in every))

    def _falls(self, period: int, step: int) -> bool:
        return step % period == 0 or step == self.steps

    def _out_of_patience(self) -> bool:
        patience = self.config.train.patience
        return patience is not None and self.progress.evaluations_since_best >= patience

    def _rows_until(self, step: int) -> int:
        epochs, rest = divmod(step, self.train_loader.steps_per_epoch)
        return epochs * self.train_loader.rows + min(rest * self.config.train.batch, self.train_loader.rows)

    def _trained_rows(self) -> int:
        return self._rows_until(self.progress.step) - self.progress.skipped_rows

    def _global_sum(self, value: torch.Tensor | int) -> float:
        total = torch.as_tensor(value, device=self.process.device).clone()
        torch.distributed.all_reduce(total)
        return total.item()

    def _everywhere(self, steps: set[int]) -> list[int]:
        gathered: list[set[int]] = [set()] * self.process.world
        torch.distributed.all_gather_object(gathered, steps)
        return sorted(set().union(*gathered))

    def _state(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress),
            "best_step": self.progress.best_step,
            "config": self.config.model_dump(mode="json"),
            "data": self.dataset.manifest.checksum,
        }

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            with self._clock("wait for data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started
