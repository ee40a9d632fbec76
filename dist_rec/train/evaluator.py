"""Exact metrics of a model on a split, over all processes."""

import torch
from torchrec.distributed import DistributedModelParallel

from dist_rec.core.process import Process
from dist_rec.data.lanes import LaneLoader
from dist_rec.data.loader import Loader
from dist_rec.tasks.task import Task


@torch.no_grad()
def evaluate(
    model: DistributedModelParallel, loader: Loader | LaneLoader, task: Task, process: Process
) -> dict[str, float]:
    """Scores every row of the loader's split once; returns the task's metrics over the rows of all processes.

    The model must be detached from its pipeline. Its mode (training or evaluation) is restored.
    """
    metrics = task.metrics(process.device)
    was_training = model.training
    model.eval()
    for batch in loader.batches(0, loader.steps_per_epoch):
        batch = batch.to(process.device, non_blocking=True)
        metrics.update(*task.evidence(model.module.scores(batch), batch))
    model.train(was_training)
    return metrics.compute()
