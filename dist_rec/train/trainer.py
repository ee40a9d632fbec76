"""Trains a recommender: build, step, evaluate, save.

The run is cut into segments that end where an evaluation or a checkpoint falls, so that no batch is in flight there
and the state of the data is one number, the global step.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from dist_rec.core.batch import Batch
from dist_rec.core.config import read_toml
from dist_rec.core.errors import UserError
from dist_rec.core.process import Process
from dist_rec.data.loader import Loader
from dist_rec.data.shards import Dataset
from dist_rec.train.checkpoint import Checkpoints
from dist_rec.train.config import RunConfig
from dist_rec.train.evaluator import evaluate
from dist_rec.train.model import build_model, build_optimizer, features_of, task_module
from dist_rec.train.pipeline import make_pipeline
from dist_rec.train.reporter import Reporter
from dist_rec.train.schedule import Schedule


@dataclass
class Progress:
    """Where a run stands, beside its tensors."""

    step: int = 0
    """Global steps done: also the cursor of the data."""
    best_step: int | None = None
    best_score: float | None = None
    evaluations_since_best: int = 0


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
        self.features = features_of(config, self.dataset.manifest)
        self.task = task_module(config.task)
        self.train_loader = self._loader("train")
        self.steps = config.train.steps or config.train.epochs * self.train_loader.steps_per_epoch
        self.model = build_model(config, self.dataset.manifest, process)
        self.optimizer = build_optimizer(config, self.model)
        self.schedule = Schedule(config.schedule, [self.optimizer], self.steps)
        self.pipeline = make_pipeline(self.model, self.optimizer, process.device)
        self.checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint.keep, process)
        self.progress = Progress()
        self.seconds: dict[str, float] = defaultdict(float)

    def resume(self) -> None:
        """Goes on from the newest checkpoint, if there is one."""
        if steps := self.checkpoints.steps():
            self.progress = Progress(**self.checkpoints.load(steps[-1], self.model, self.optimizer))

    def fit(self) -> dict[str, Any]:
        """Trains to the end, or until the validation score stops rising, and evaluates the best model.

        Returns:
            `{"train": {...}, "valid": {...}, "test": {...}}`, also written to `result.json`.
        """
        first, progress = self.progress.step, self.progress
        batches = self._timed(self.train_loader.batches(first, self.steps))
        rows_before = self._rows_until(first)
        self.model.train()
        with Reporter(self.folder if self.process.first else None, self._rows_until(self.steps), rows_before) as report:
            while progress.step < self.steps and not self._out_of_patience():
                end = self._segment_end(progress.step)
                with self._clock("train"):
                    self._run_segment(islice(batches, end - progress.step), end, report)
                if self._falls(self._evaluate_every, end):
                    self._evaluate(report)
                with self._clock("checkpoint"):
                    self.checkpoints.save(progress.step, self.model, self.optimizer, asdict(progress))
            result = self._final_scores()
        rows = self._rows_until(progress.step) - rows_before
        result["train"] = {
            "rows": rows,
            "steps": progress.step - first,
            "rows_per_s": rows / self.seconds["train"] if rows else 0.0,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }
        if self.process.first:
            (self.folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
        return result

    def _run_segment(self, batches: Iterator[Batch], end: int, report: Reporter) -> None:
        progress, config = self.progress, self.config
        while progress.step < end:
            self._set_step(progress.step)
            output = self.pipeline.progress(batches)
            report.advance(self.train_loader.global_rows(progress.step))
            progress.step += 1
            if progress.step % config.train.log_every == 0:
                report.log("train", progress.step, loss=self._global_mean(output.loss))

    def _set_step(self, step: int) -> None:
        """Learning rate and random numbers are functions of the step, so a resumed run needs no saved state of them."""
        self.schedule.apply(step)
        torch.manual_seed(hash((self.config.seed, step, self.process.rank)) & 0x7FFFFFFFFFFFFFFF)

    def _evaluate(self, report: Reporter) -> None:
        progress = self.progress
        if "valid" not in self.dataset.manifest.splits:
            return
        scores = self._score("valid")
        report.log("valid", progress.step, **scores)
        name, better = self.task.BEST
        score = scores[name]
        if progress.best_score is None or better(score, progress.best_score) != progress.best_score:
            progress.best_step, progress.best_score, progress.evaluations_since_best = progress.step, score, 0
        else:
            progress.evaluations_since_best += 1

    def _final_scores(self) -> dict[str, Any]:
        best = self.progress.best_step
        if best is not None and best != self.progress.step:
            self.pipeline.detach()
            self.checkpoints.load(best, self.model, None)
        splits = [split for split in ("valid", "test") if split in self.dataset.manifest.splits]
        return {"best_step": best, **{split: self._score(split) for split in splits}}

    def _score(self, split: str) -> dict[str, float]:
        with self._clock("evaluate"):
            return evaluate(self.pipeline.detach(), self._loader(split), self.task, self.process)

    def _loader(self, split: str) -> Loader:
        config, training = self.config, split == "train"
        return Loader(
            self.dataset,
            split,
            config.data,
            batch=config.train.batch if training else config.train.eval_batch,
            features=self.features,
            rank=self.process.rank,
            world=self.process.world,
            seed=config.seed,
            shuffle=training,
        )

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

    def _global_mean(self, loss: torch.Tensor) -> float:
        mean = loss.clone()
        torch.distributed.all_reduce(mean)
        return float(mean) / self.process.world

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


def check_fits(trained: Dataset, other: Dataset) -> None:
    """Raises UserError, by name, unless a model trained on one data set can read the other."""
    ours, theirs = trained.manifest, other.manifest
    for column in ours.columns:
        if theirs.column(column.name) != column:
            raise UserError(
                f"{other.path}: column {column.name!r} is {theirs.column(column.name)}, trained was {column}"
            )
    for name, table in ours.tables.items():
        if theirs.tables[name] != table:
            raise UserError(
                f"{other.path}: table {name!r} has {theirs.tables[name].rows} rows, the model was trained with "
                f"{table.rows}; prepare the data with --fitted-from {trained.path}"
            )
    if ours.transform != theirs.transform:
        raise UserError(f"{other.path} was fitted anew; prepare it with --fitted-from {trained.path}")


def load_run(folder: Path) -> RunConfig:
    """The config of a run; raises UserError if the folder is none."""
    path = folder / "config.toml"
    if not path.is_file():
        raise UserError(f"{folder} is not a run: it holds no config.toml")
    return RunConfig.parse(read_toml(path))


def score_split(run: Path, data: Path | None, split: str, checkpoint: str, process: Process) -> dict[str, float]:
    """Metrics of a run's checkpoint on a split.

    Args:
        run: the run's folder.
        data: another data set that was fitted from the run's; None takes the run's own.
        split: part of the data.
        checkpoint: a step, "best" or "last".
        process: this one.
    """
    config = load_run(run)
    dataset = Dataset(config.data.path)
    model = build_model(config, dataset.manifest, process)
    checkpoints = Checkpoints(run / "checkpoints", config.checkpoint.keep, process)
    checkpoints.load(checkpoints.find(checkpoint), model, None)
    scored = dataset
    if data is not None:
        scored = Dataset(data)
        check_fits(dataset, scored)
    loader = Loader(
        scored,
        split,
        config.data,
        batch=config.train.eval_batch,
        features=features_of(config, dataset.manifest),
        rank=process.rank,
        world=process.world,
        shuffle=False,
    )
    return evaluate(model, loader, task_module(config.task), process)
