"""Trains a recommender: build, step, evaluate, save.

A run consists of segments. Each ends at an evaluation or a checkpoint, with no batch in flight, so that the position in
the data is one number, the global step.
"""

import logging
import math
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_rec.core.errors import Interrupted, UserError
from dist_rec.core.noise import noise
from dist_rec.core.process import Process, on_all
from dist_rec.core.splitmix import stream, words
from dist_rec.data.shards import Dataset
from dist_rec.tasks.task import Task
from dist_rec.train.checkpoint import STATE
from dist_rec.train.clock import Clock
from dist_rec.train.config import RunConfig
from dist_rec.train.dense_gradient import gradient_report
from dist_rec.train.evaluator import evaluate
from dist_rec.train.interruption import Interruption
from dist_rec.train.model import build_model, build_optimizer
from dist_rec.train.pipeline import Segment, make_pipeline
from dist_rec.train.pretrained import start_from
from dist_rec.train.progress import Lengths, Progress, judge
from dist_rec.train.reporter import Reporter
from dist_rec.train.run_folder import RunFolder
from dist_rec.train.saver import Saver
from dist_rec.train.schedule import Schedule
from dist_rec.train.spec import resolve

log = logging.getLogger(__name__)


class Trainer:
    """One run. The process group exists before it, and `folder` before `fit`."""

    def __init__(self, config: RunConfig, process: Process, folder: RunFolder) -> None:
        self.config, self.process, self.folder = config, process, folder
        self.dataset = Dataset(config.data.path)
        if process.first:
            for warning in self.dataset.manifest.warnings():
                log.warning("%s: %s", self.dataset.path, warning)
        if config.data.on_corrupt == "error":
            self.dataset.check_files()
        spec = resolve(config, self.dataset.manifest)
        if config.train.patience:
            _check_judged(self.dataset, spec.task)
        self.task = spec.task
        self.train_loader = spec.training_loader(self.dataset, process)
        # Created before training, so that a split that cannot be scored is an error now.
        splits = [split for split in self.dataset.manifest.splits if split in ("valid", "test")]
        self.scored = {split: spec.evaluation_loader(self.dataset, split, process) for split in splits}
        self.lengths = Lengths.of(config, self.train_loader.steps_per_epoch)
        self.parameters, self.learning_rates = spec.count_parameters(), spec.learning_rates()
        self.model = build_model(spec, process)
        self.optimizer = build_optimizer(config, self.model)
        self.schedule = Schedule(config.schedule, [self.optimizer], self.lengths.steps)
        self.pipeline = make_pipeline(
            self.model, self.optimizer, process.device, skip_nonfinite=config.train.on_nonfinite == "skip"
        )
        self.checkpoints = folder.checkpoints(process)
        self.saver = Saver(self.checkpoints, config.checkpoint, process)
        self.progress = Progress()
        self.clock = Clock()
        self._factor = 1.0
        self._step_seeds = stream(config.seed, process.rank)

    def resume(self, allow_changes: bool = False) -> None:
        """Loads the newest undamaged checkpoint, if there is one.

        Args:
            allow_changes: whether the config may differ from that of the checkpoint.

        Raises:
            UserError: if it differs and may not, with a list of the differences; if the data are others, in which the
                number of steps is no position.
        """
        step = self.checkpoints.newest()
        if step is None:
            return self.saver.set_aside(0)
        state, file = self.checkpoints.state(step), self.checkpoints.path(step) / STATE
        if state["data"] != self.dataset.manifest.checksum:
            raise UserError(
                f"{self.folder} cannot go on: it was trained on other data than {self.dataset.path}; start a new run "
                f"with pretrained.runs=['{self.folder}'], and with pretrained.optimizer=true to keep its optimizers"
            )
        changes = self._changes_since(state["config"], file)
        if changes and not allow_changes:
            raise UserError(
                f"{self.folder} cannot go on with {'; '.join(changes)} (use --allow-changes to go on nevertheless)"
            )
        progress = Progress.of(state["progress"], file)
        self.checkpoints.load(step, self.model, self.optimizer)
        self.saver.set_aside(step)
        self.progress = progress

    def _changes_since(self, config: dict[str, Any], file: Path) -> list[str]:
        """Differences to the config of a checkpoint, which `file` has and another version may have written."""
        try:
            return self.config.changes(RunConfig.parse(config))
        except UserError as error:
            return [f"the config in {file}: {error}"]

    def fit(self) -> dict[str, Any]:
        """Trains to the end, or until the validation score stops improving, and evaluates the best model.

        Returns:
            `{"train": {...}, "valid": {...}, "test": {...}, "stop": {...}}`, also written to `result.json`.

        Raises:
            Interrupted: if a signal stops the run; `result.json` then has no scores.
        """
        first, rows_before = self.progress.step, self._trained_rows()
        steps, rows_until = self.lengths.steps, self.train_loader.rows_until
        interruption, asked = Interruption(self.process), None
        stop = self.lengths.stop(self.progress)
        if not first and (pretrained := self.config.pretrained).runs:
            optimizer = self.optimizer if pretrained.optimizer else None
            start_from(self.model, pretrained.runs, self.process, optimizer)
        gradient_report(self.optimizer)  # forgets the step, of no gradient, in which optimizers make their state
        self.model.train()
        self.saver.reserve(self.model, self.optimizer)
        batches = self.clock.each("wait for data", self.train_loader.batches(first, steps))
        folder = self.folder if self.process.first else None
        with Reporter(folder, rows_until(steps), rows_until(first), first) as report:
            while stop is None:
                segment = Segment(batches, self.lengths.segment_end(self.progress.step) - self.progress.step)
                with self.clock.of("train"):
                    self._run_segment(segment, report, interruption)
                    asked = interruption.asked()
                self._count_skipped()
                if self.lengths.evaluates(self.progress.step):
                    self._evaluate(report)
                stop = self.lengths.stop(self.progress, asked)
                if stop or self.lengths.saves(self.progress):
                    with self.clock.of("checkpoint"):
                        self.saver.save(self.progress.step, self.model, self.optimizer, self._state())
            with self.clock.of("checkpoint"):
                self.saver.close()
            scores = {} if asked else self._final_scores()
        training = self._training(first, rows_before)
        result = {**scores, "stop": stop._asdict(), "train": training, "parameters": self.parameters}
        if self.process.first:
            self.folder.write_result(result)
        if asked:
            where = f"after step {stop.step} of {stop.steps} by {stop.reason}"
            raise Interrupted(f"stopped {where}; go on with --resume --run-dir {self.folder}")
        return result

    def _run_segment(self, batches: Segment, report: Reporter, interruption: Interruption) -> None:
        """Trains on the batches, or on fewer if the run is asked to stop."""
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
            self.folder.keep()
            if progress.step % self.config.train.log_every == 0:
                report.log("train", progress.step, **self._measured(output.loss))
            if interruption.agreed(progress.step):
                batches.close()
        for step, loss in unchecked:
            self._check_finite(step, loss)

    def _measured(self, loss: torch.Tensor) -> dict[str, float]:
        """What is reported of the last step: the global loss, the learning rates and the dense gradient."""
        rates = {name: self._factor * rate for name, rate in self.learning_rates.items()}
        return {"loss": self._global_sum(loss) / self.process.world, **rates, **gradient_report(self.optimizer)}

    def _count_skipped(self) -> None:
        progress, loader = self.progress, self.train_loader
        progress.skipped_rows += int(self._global_sum(loader.skipped_rows))
        # Each process knows only its own losses.
        progress.skipped_steps = sorted(set().union(*on_all(lambda: progress.skipped_steps)))
        loader.skipped_rows = 0

    def _check_finite(self, step: int, loss: torch.Tensor) -> None:
        if math.isfinite(float(loss)):
            return
        epoch = step // self.lengths.epoch
        row = self.train_loader.rows_until(step) - epoch * self.train_loader.rows
        where = f"step {step} (epoch {epoch}, rows {row:,} and later in its order)"
        if self.config.train.on_nonfinite == "error":
            raise UserError(
                f"the loss is {float(loss)} in {where}: look for bad values in {self.dataset.path}, lower the learning "
                "rates, or skip such batches with train.on_nonfinite=skip"
            )
        self.progress.skipped_steps.append(step)
        log.warning("skipped %s: the loss is %s", where, float(loss))

    def _set_step(self, step: int) -> None:
        """Learning rate and random numbers are functions of the step, so a checkpoint need not hold them."""
        self._factor = self.schedule.apply(step)
        noise.begin(self.config.seed, step, *self.train_loader.share(step))
        seed = int(words(self._step_seeds, np.array([step]))[0])
        # For random draws of heads and devices. `torch.manual_seed` would also look for all other devices, which took
        # 5 % of a small step.
        torch.default_generator.manual_seed(seed)
        if self.process.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _evaluate(self, report: Reporter) -> None:
        if "valid" not in self.scored:
            return
        scores = self._score("valid")
        report.log("valid", self.progress.step, **scores)
        best, step = self.task.config.best, self.progress.step
        if math.isnan(scores[best]) and self.lengths.patience and self.process.first:
            log.warning("train.patience does not count the evaluation after step %d, which has no %s", step, best)
        self.progress = judge(self.progress, scores[best], self.task.is_better, self.config.train.least_gain)

    def _final_scores(self) -> dict[str, Any]:
        best = self.progress.best_step
        if best is not None and best != self.progress.step:
            self.pipeline.detach()
            self.checkpoints.load(best, self.model, None)
        return {"best_step": best, **{split: self._score(split) for split in self.scored}}

    def _score(self, split: str) -> dict[str, float]:
        with self.clock.of("evaluate"):
            return evaluate(self.pipeline.detach(), self.scored[split], self.task, self.process)

    def _state(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress),
            "best_step": self.progress.best_step,
            "config": self.config.model_dump(mode="json"),
            "data": self.dataset.manifest.checksum,
        }

    def _training(self, first: int, rows_before: int) -> dict[str, Any]:
        """The result's entry `train`: the training from step `first` on."""
        progress, rows = self.progress, self._trained_rows() - rows_before
        report = {
            "rows": rows,
            "steps": progress.step - first,
            "rows_per_s": rows / self.clock.seconds["train"] if rows else 0.0,
            "skipped_rows": progress.skipped_rows,
            "skipped_steps": progress.skipped_steps,
            "seconds": {name: round(value, 3) for name, value in self.clock.seconds.items()},
        }
        # If nothing was left to train, the earlier entry stays.
        return report | self.folder.result.get("train", {}) if progress.step == first else report

    def _trained_rows(self) -> int:
        return self.train_loader.rows_until(self.progress.step) - self.progress.skipped_rows

    def _global_sum(self, value: torch.Tensor | int) -> float:
        total = torch.as_tensor(value, device=self.process.device).clone()
        torch.distributed.all_reduce(total)
        return total.item()


def _check_judged(dataset: Dataset, task: Task) -> None:
    """Raises UserError if early stopping would never have a score to go by."""
    valid = dataset.manifest.splits.get("valid")
    if valid is None:
        raise UserError(f"train.patience needs a validation split, but {dataset.path} has none")
    if (reason := task.has_no_score(valid)) is not None:
        raise UserError(
            f"train.patience waits for a better {task.config.best}, but the validation split of {dataset.path} has "
            f"none: {reason}; set another task.best, or leave out train.patience"
        )
