"""Evaluation of the checkpoints of a run, on its own data or on other data prepared in the same way."""

from pathlib import Path

from dist_rec.core.errors import UserError
from dist_rec.core.process import Process
from dist_rec.data.shards import Dataset
from dist_rec.train.evaluator import evaluate
from dist_rec.train.model import build_model
from dist_rec.train.run_folder import RunFolder
from dist_rec.train.spec import resolve


def check_fits(trained: Dataset, other: Dataset) -> None:
    """Raises UserError unless a model trained on one data set can read the other."""
    ours, theirs = trained.manifest, other.manifest
    for column in ours.columns:
        if theirs.column(column.name) != column:
            raise UserError(
                f"{other.path}: column {column.name!r} is {theirs.column(column.name)}; the run was trained on {column}"
            )
    for name, table in ours.tables.items():
        given = theirs.tables.get(name)
        if given != table:
            raise UserError(
                f"{other.path}: table {name!r} has {given.rows if given else 'no'} rows, the model was trained with "
                f"{table.rows}; prepare the data with --fitted-from {trained.path}"
            )
    if ours.transform != theirs.transform:
        raise UserError(
            f"{other.path} has vocabularies or transforms of its own; prepare it with --fitted-from {trained.path}"
        )


def score_split(run: RunFolder, data: Path | None, split: str, checkpoint: str, process: Process) -> dict[str, float]:
    """Metrics of a checkpoint (a step, "best" or "last") on a split of the run's data, or of `data`.

    Raises:
        UserError: unless `data` was prepared with --fitted-from the run's data, and checkpoint and split exist.
    """
    config = run.config
    dataset = Dataset(config.data.path)
    checkpoints = run.checkpoints(process)
    step = checkpoints.find(checkpoint)
    if checkpoints.state(step)["data"] != dataset.manifest.checksum:
        raise UserError(
            f"{dataset.path} is not the data that {run} was trained on at step {step}; prepare it again as before"
        )
    spec = resolve(config, dataset.manifest)
    model = build_model(spec, process)
    checkpoints.load(step, model, None)
    scored = dataset
    if data is not None:
        scored = Dataset(data)
        check_fits(dataset, scored)
    return evaluate(model, spec.evaluation_loader(scored, split, process), spec.task, process)
