"""Saves checkpoints while training goes on, committed by a rename.

train ─▶ copy to staging ─▶ train …
               └▶ thread: torch.distributed.checkpoint ─▶ checksums ─▶ state.json ─▶ rename ─▶ prune
"""

import json
import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystem
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizer

from dist_rec.core.process import Process, new_host_group, on_all
from dist_rec.data.shards import checksum
from dist_rec.train.checkpoint import STATE, Checkpoints, checksum_of, remove_partial
from dist_rec.train.config import CheckpointConfig
from dist_rec.train.state import Staging, State, state_of

log = logging.getLogger(__name__)


class Saver:
    """Writes the checkpoints of a run; all processes call its methods together, and the first commits and prunes."""

    def __init__(self, checkpoints: Checkpoints, config: CheckpointConfig, process: Process) -> None:
        self._checkpoints, self._config, self._process = checkpoints, config, process
        self._staging = Staging()
        # Saving has a thread and a process group of its own, so that its collectives never mix with training's.
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._group = new_host_group()
        self._pending: tuple[int, Future[None]] | None = None

    def set_aside(self, step: int) -> None:
        """Renames checkpoints newer than a step, which are damaged, and removes partial ones; called before training.

        Renamed checkpoints do not count as ones to keep.
        """
        on_all(lambda: self._set_aside(step) if self._process.first else None, self._group)

    def _set_aside(self, step: int) -> None:
        remove_partial(self._checkpoints.folder)
        for newer in self._checkpoints.steps():
            if newer > step:
                aside = self._checkpoints.folder / f"damaged_{newer:08d}"
                shutil.rmtree(aside, ignore_errors=True)
                self._checkpoints.path(newer).rename(aside)

    def reserve(self, model: DistributedModelParallel, optimizer: KeyedOptimizer) -> None:
        """Allocates the memory for saving, so that the first save does not wait for it."""
        if self._config.asynchronous:
            self._staging.reserve(state_of(model, optimizer))

    def save(
        self, step: int, model: DistributedModelParallel, optimizer: KeyedOptimizer, state: dict[str, Any]
    ) -> None:
        """Saves the state after `step` steps; returns when it is copied, or saved if saving is synchronous.

        A save that fails, for example because the disk is full, is logged; training goes on and older ones stay.

        Args:
            step: number of steps done.
            model: its weights are saved.
            optimizer: its state is saved.
            state: all other values; the checkpoint of `best_step` is not pruned.
        """
        self.wait()
        tensors = state_of(model, optimizer)
        if self._config.asynchronous:
            tensors = self._staging.copy(tensors)
        self._pending = step, self._thread.submit(self._write, step, tensors, state)
        if not self._config.asynchronous:
            self.wait()

    def wait(self) -> None:
        """Waits for the save under way, if there is one."""
        if self._pending is None:
            return
        (step, future), self._pending = self._pending, None
        failed = next((error for error in on_all(lambda: _error(future), self._group) if error is not None), None)
        if failed is not None and self._process.first:
            message = "the checkpoint of step %d was not saved: %s; training goes on, older ones are intact"
            log.warning(message, step, failed)

    def close(self) -> None:
        """Waits for the save under way and ends the thread."""
        self.wait()
        self._thread.shutdown()

    def _write(self, step: int, tensors: State, state: dict[str, Any]) -> None:
        partial = self._checkpoints.folder / f".step_{step:08d}.partial"
        on_all(lambda: _make_anew(partial) if self._process.first else None, self._group)
        try:
            writer = dcp.FileSystemWriter(partial, single_file_per_rank=True)
            writer.fs = _ExistingFolders()
            dcp.save(tensors, storage_writer=writer, process_group=self._group)
            checksums = on_all(lambda: self._checksums(partial), self._group)
            if self._process.first:
                files = {name: checksum for part in checksums for name, checksum in part.items()}
                self._commit(partial, step, {**state, "files": files})
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _checksums(self, partial: Path) -> dict[str, str]:
        """Checksums of the files that this process has written, by name."""
        mine = [*partial.glob(f"__{self._process.rank}_*")]
        if self._process.first:
            mine.append(partial / ".metadata")
        return {path.name: checksum(path) for path in mine}

    def _commit(self, partial: Path, step: int, state: dict[str, Any]) -> None:
        with (partial / STATE).open("w") as file:
            file.write(json.dumps({**state, "checksum": checksum_of(state)}, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        final = self._checkpoints.path(step)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync_folder(self._checkpoints.folder)
        self._prune(state.get("best_step"))

    def _prune(self, best_step: int | None) -> None:
        steps, every = self._checkpoints.steps(), self._config.every or 1
        regular = [step for step in steps if step % every == 0]
        for step in {*steps} - {*regular[-self._config.keep :], steps[-1], best_step}:
            shutil.rmtree(self._checkpoints.path(step))


class _ExistingFolders(FileSystem):
    """Creates no folder, so that a save under way does not bring back the folder of a run that was removed."""

    def mkdir(self, path: str | os.PathLike) -> None:
        """Does nothing: if the folder does not exist, the save fails."""


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    folder.mkdir()


def _error(future: "Future[None]") -> str | None:
    error = future.exception()
    if error is None:
        return None
    # DCP wraps the error of each process; the user can act on the first line of the innermost one.
    causes = getattr(error, "failures", None)
    inner = next(iter(causes.values()))[0] if causes else error
    return str(inner).splitlines()[0] if str(inner) else type(inner).__name__


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
