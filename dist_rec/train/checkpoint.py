"""Checkpoints: the whole state of a run, saved by `torch.distributed.checkpoint` and committed by a rename.

A folder `step_00001000` is whole or not there. Tensors are saved by name, shards by their place in the table, so that
another number of processes can load them; what is not a tensor is in `state.json`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizer

from dist_rec.core.errors import UserError
from dist_rec.core.process import Process

STATE = "state.json"


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: where they lie, one folder a step.
        keep: newest ones that are kept, beside the best.
        process: this one; the first prunes and commits.
    """

    def __init__(self, folder: Path, keep: int, process: Process) -> None:
        self._folder, self._keep, self._process = folder, keep, process

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, ascending."""
        return sorted(int(path.name.removeprefix("step_")) for path in self._folder.glob("step_*[0-9]"))

    def find(self, which: str) -> int:
        """The step of a checkpoint named by its step, as "last" or as "best"; raises UserError."""
        steps = self.steps()
        if not steps:
            raise UserError(f"{self._folder} holds no checkpoint")
        if which == "last":
            return steps[-1]
        if which == "best":
            best = json.loads((self._path(steps[-1]) / STATE).read_text())["best_step"]
            return steps[-1] if best is None else best
        if not which.isdecimal() or int(which) not in steps:
            raise UserError(f"no checkpoint {which!r}; this run has best, last and the steps {steps}")
        return int(which)

    def save(
        self, step: int, model: DistributedModelParallel, optimizer: KeyedOptimizer, state: dict[str, Any]
    ) -> None:
        """Saves after `step` steps; called by all processes.

        Args:
            step: number of steps done.
            model: its state dict is saved.
            optimizer: likewise.
            state: plain values; `best_step` protects a checkpoint from being pruned.
        """
        partial = self._folder / f".step_{step:08d}.partial"
        if self._process.first:
            shutil.rmtree(partial, ignore_errors=True)
        dist.barrier()
        dcp.save(_tensors(model, optimizer), storage_writer=dcp.FileSystemWriter(partial))
        if self._process.first:
            (partial / STATE).write_text(json.dumps(state, indent=1) + "\n")
            final = self._path(step)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            self._prune(state.get("best_step"))
        dist.barrier()

    def load(self, step: int, model: DistributedModelParallel, optimizer: KeyedOptimizer | None) -> dict[str, Any]:
        """Loads a checkpoint into the model (and the optimizer) in place and returns its plain values.

        Raises:
            UserError: if there is no such checkpoint.
        """
        path = self._path(step)
        if not path.is_dir():
            raise UserError(f"{path} does not exist; this run has checkpoints of steps {self.steps()}")
        if optimizer is not None:
            optimizer.init_state()
        tensors = _tensors(model, optimizer)
        dcp.load(tensors, storage_reader=dcp.FileSystemReader(path))
        model.load_state_dict(tensors["model"])
        if optimizer is not None:
            optimizer.load_state_dict(tensors["optimizer"])
        return json.loads((path / STATE).read_text())

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step:08d}"

    def _prune(self, best_step: int | None) -> None:
        kept = {*self.steps()[-self._keep :], best_step}
        for step in self.steps():
            if step not in kept:
                shutil.rmtree(self._path(step))


def _tensors(model: DistributedModelParallel, optimizer: KeyedOptimizer | None) -> dict[str, Any]:
    state = {"model": model.state_dict()}
    return state if optimizer is None else {**state, "optimizer": optimizer.state_dict()}
