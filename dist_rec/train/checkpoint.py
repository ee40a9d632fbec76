"""Checkpoints: the whole state of a run, saved while training goes on and committed by a rename.

    train ─▶ copy to staging ─▶ train …
                   └▶ thread: torch.distributed.checkpoint ─▶ checksums ─▶ state.json ─▶ rename ─▶ prune

A folder `step_00001000` is whole or not there. Tensors are saved by name and place in the table, so that another
number of processes and another sharding can load them; the rest is in `state.json`, beside a checksum of each file and
of itself.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import xxhash
from torch.distributed.checkpoint.filesystem import FileSystem
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizer

from dist_rec.core.errors import UserError
from dist_rec.core.process import Process, new_host_group
from dist_rec.train.config import CheckpointConfig
from dist_rec.train.state import Resharding, Staging, State, state_of

STATE = "state.json"
CHUNK = 1 << 24
log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: where they lie, one folder a step.
        config: how many are kept, and whether training goes on while saving.
        process: this one; the first prunes and commits.
        say: tells the user of a failed save or a damaged checkpoint.
    """

    def __init__(
        self, folder: Path, config: CheckpointConfig, process: Process, say: Callable[[str], None] = log.warning
    ) -> None:
        self._folder, self._config, self._process, self._say = folder, config, process, say
        self._staging = Staging()
        # Saving has a thread and a process group of its own, so that its collectives never mix with training's.
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._group = new_host_group()
        self._pending: tuple[int, Future[None]] | None = None
        self._whole: set[int] = set()

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, ascending."""
        return sorted(int(path.name.removeprefix("step_")) for path in self._folder.glob("step_*[0-9]"))

    def reserve(self, model: DistributedModelParallel, optimizer: KeyedOptimizer) -> None:
        """Takes the memory that saving needs, before training rather than in the first save."""
        if self._config.asynchronous:
            self._staging.reserve(state_of(model, optimizer))

    def save(
        self, step: int, model: DistributedModelParallel, optimizer: KeyedOptimizer, state: dict[str, Any]
    ) -> None:
        """Saves the state after `step` steps; returns when it is copied, or saved. Called by all processes.

        A save that fails, for example for want of space, is reported; training goes on and older ones stay.

        Args:
            step: number of steps done.
            model: its weights are saved.
            optimizer: likewise.
            state: plain values; `best_step` protects a checkpoint from being pruned.
        """
        self.wait()
        self._whole.discard(step)
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
        failed = self._first_failure(_error(future))
        if failed is not None and self._process.first:
            self._say(f"the checkpoint of step {step} was not saved: {failed}; training goes on, older ones are intact")

    def _first_failure(self, error: str | None) -> str | None:
        errors: list[str | None] = [None] * self._process.world
        dist.all_gather_object(errors, error, group=self._group)
        return next((error for error in errors if error is not None), None)

    def _write(self, step: int, tensors: State, state: dict[str, Any]) -> None:
        partial = self._folder / f".step_{step:08d}.partial"
        failed = self._first_failure(_make_anew(partial) if self._process.first else None)
        if failed is not None:
            raise OSError(failed)
        try:
            writer = dcp.FileSystemWriter(partial, single_file_per_rank=True)
            writer.fs = _FoldersAsTheyAre()
            dcp.save(tensors, storage_writer=writer, process_group=self._group)
            checksums: list[dict[str, str]] = [{}] * self._process.world
            mine = [*partial.glob(f"__{self._process.rank}_*")]
            if self._process.first:
                mine.append(partial / ".metadata")
            dist.all_gather_object(checksums, {path.name: _checksum(path) for path in mine}, group=self._group)
            if self._process.first:
                files = {name: checksum for part in checksums for name, checksum in part.items()}
                self._commit(partial, step, {**state, "files": files})
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _commit(self, partial: Path, step: int, state: dict[str, Any]) -> None:
        with (partial / STATE).open("w") as file:
            file.write(json.dumps({**state, "checksum": _checksum_of(state)}, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        final = self._path(step)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync_folder(self._folder)
        self._prune(state.get("best_step"))

    def newest(self) -> int | None:
        """The step of the newest checkpoint that is not damaged, warning of those that are; None if there is none."""
        for step in reversed(self.steps()):
            damage = self.damage(step)
            if damage is None:
                return step
            if self._process.first:
                self._say(f"{self._path(step)} is damaged ({damage}); trying the one before")
        return None

    def state(self, step: int) -> dict[str, Any]:
        """The plain values of a checkpoint.

        Raises:
            UserError: if there is no such checkpoint or it is damaged.
        """
        self.wait()
        if (damage := self.damage(step)) is not None:
            raise UserError(f"{self._path(step)}: {damage}; this run has checkpoints of the steps {self.steps()}")
        return json.loads((self._path(step) / STATE).read_text())

    def load(self, step: int, model: DistributedModelParallel, optimizer: KeyedOptimizer | None) -> None:
        """Loads a checkpoint into the live tensors.

        Raises:
            UserError: if there is no such checkpoint, it is damaged or its tensors are not those of the model.
        """
        self.state(step)
        if optimizer is not None:
            optimizer.init_state()
        reader = dcp.FileSystemReader(self._path(step))
        resharding = Resharding(state_of(model, optimizer), reader.read_metadata())
        dcp.load(resharding.to_load(), storage_reader=reader)
        resharding.finish()

    def set_aside(self, step: int) -> None:
        """Clears what is newer than a step: damaged checkpoints, so that none counts as one to keep, and partial ones.

        The damaged ones stay beside the others under another name. Called by all processes, before training.
        """
        if self._process.first:
            remove_partial(self._folder)
            for newer in self.steps():
                if newer > step:
                    aside = self._folder / f"damaged_{newer:08d}"
                    shutil.rmtree(aside, ignore_errors=True)
                    self._path(newer).rename(aside)
        dist.barrier(self._group)

    def damage(self, step: int) -> str | None:
        """What is wrong with a checkpoint, or None; the processes share the reading and agree on the answer."""
        if step in self._whole:
            return None
        path = self._path(step)
        try:
            state = json.loads((path / STATE).read_text())
            written, files = state.pop("checksum", None), state["files"]
            mine = sorted(files)[self._process.rank :: self._process.world]
            found = next((f"{name} is changed" for name in mine if _checksum(path / name) != files[name]), None)
            if written not in (None, _checksum_of(state)):
                found = f"{STATE} is changed"
        except FileNotFoundError as error:
            found = f"{error.filename} is missing"
        except (ValueError, KeyError, OSError) as error:
            found = f"{STATE} is unreadable: {error}"
        if (damage := self._first_failure(found)) is None:
            self._whole.add(step)
        return damage

    def find(self, which: str) -> int:
        """The step of an undamaged checkpoint named by its step, as "last" or as "best"; raises UserError."""
        steps = self.steps()
        if not steps:
            raise UserError(f"{self._folder} holds no checkpoint")
        if which in ("last", "best"):
            newest = self.newest()
            if newest is None:
                raise UserError(f"all checkpoints in {self._folder} are damaged: those of the steps {steps}")
            best = self.state(newest)["best_step"] if which == "best" else None
            if best is None or self.damage(best) is None:
                return newest if best is None else best
            raise UserError(f"the best checkpoint, {self._path(best)}, is damaged; --checkpoint last takes another one")
        if not which.isdecimal() or int(which) not in steps:
            raise UserError(f"no checkpoint {which!r}; this run has best, last and the steps {steps}")
        return int(which)

    def close(self) -> None:
        """Waits for the save under way and ends the thread."""
        self.wait()
        self._thread.shutdown()

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step:08d}"

    def _prune(self, best_step: int | None) -> None:
        kept = {*self.steps()[-self._config.keep :], best_step}
        for step in self.steps():
            if step not in kept:
                shutil.rmtree(self._path(step))


def remove_partial(folder: Path) -> None:
    """Removes what saves that did not end have left in a folder of checkpoints."""
    for left in folder.glob(".step_*.partial"):
        shutil.rmtree(left, ignore_errors=True)


class _FoldersAsTheyAre(FileSystem):
    """Makes no folder: that of a run which was interrupted and removed does not come back by a save under way."""

    def mkdir(self, path: str | os.PathLike) -> None:
        """The folder is there, or the save fails."""


def _make_anew(folder: Path) -> str | None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir()
    except OSError as error:
        return str(error)
    return None


def _error(future: "Future[None]") -> str | None:
    error = future.exception()
    if error is None:
        return None
    # DCP wraps what went wrong on each process; the last line of the innermost is what the user can act on.
    causes = getattr(error, "failures", None)
    inner = next(iter(causes.values()))[0] if causes else error
    return str(inner).splitlines()[0] if str(inner) else type(inner).__name__


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _checksum_of(state: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(state, sort_keys=True).encode())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
