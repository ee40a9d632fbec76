"""Checkpoints on disk: the whole state of a run after a step, checked before it is read.

A folder `step_00001000` is complete or absent. Tensors are saved by name and by position in the table, so that another
number of processes and another sharding can load them. `state.json` holds all other values, a checksum of each file and
one of itself. `Saver` writes checkpoints.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
import xxhash
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizer

from dist_rec.core.errors import UserError
from dist_rec.core.process import Process, on_all, on_first
from dist_rec.data.shards import checksum
from dist_rec.train.state import Resharding, state_of

STATE = "state.json"
log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in a folder; all processes call its methods together."""

    def __init__(self, folder: Path, process: Process) -> None:
        self.folder, self._process = folder, process
        self._whole: set[int] = set()

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.folder / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return sorted(int(path.name.removeprefix("step_")) for path in self.folder.glob("step_*[0-9]"))

    def newest(self) -> int | None:
        """The step of the newest undamaged checkpoint, with a warning for each damaged one; None if there is none."""
        # Listed once: on a network file system processes may see different steps, and would check different ones.
        for step in reversed(on_first(self._process, self.steps)):
            damage = self.damage(step)
            if damage is None:
                return step
            if self._process.first:
                log.warning("%s is damaged (%s); trying the checkpoint before it", self.path(step), damage)
        return None

    def find(self, which: str) -> int:
        """The step of an undamaged checkpoint, named by its step, "last" or "best"; raises UserError if it has none."""
        steps = on_first(self._process, self.steps)
        if not steps:
            raise UserError(f"{self.folder} holds no checkpoint")
        if which in ("last", "best"):
            newest = self.newest()
            if newest is None:
                raise UserError(f"all checkpoints in {self.folder} are damaged: those of the steps {steps}")
            best = self.state(newest)["best_step"] if which == "best" else None
            if best is None or self.damage(best) is None:
                return newest if best is None else best
            raise UserError(f"the best checkpoint, {self.path(best)}, is damaged; --checkpoint last takes another one")
        if not which.isdecimal() or int(which) not in steps:
            raise UserError(f"no checkpoint {which!r}; this run has best, last and the steps {steps}")
        return int(which)

    def state(self, step: int) -> dict[str, Any]:
        """The values of a checkpoint that are not tensors; raises UserError if it is missing or damaged."""
        if (damage := self.damage(step)) is not None:
            raise UserError(f"{self.path(step)}: {damage}; this run has checkpoints of the steps {self.steps()}")
        return json.loads((self.path(step) / STATE).read_text())

    def load(self, step: int, model: DistributedModelParallel, optimizer: KeyedOptimizer | None) -> None:
        """Loads a checkpoint into the live tensors.

        Raises:
            UserError: if the checkpoint is missing or damaged, or its tensors do not fit the model.
        """
        self.state(step)
        if optimizer is not None:
            optimizer.init_state()
        reader = dcp.FileSystemReader(self.path(step))
        resharding = Resharding(state_of(model, optimizer), reader.read_metadata())
        dcp.load(resharding.to_load(), storage_reader=reader)
        resharding.finish()

    def damage(self, step: int) -> str | None:
        """The damage of a checkpoint, or None; the processes share the reading and all get the same answer."""
        if step in self._whole:
            return None
        damage = next((found for found in on_all(lambda: self._damage_of_share(step)) if found is not None), None)
        if damage is None:
            self._whole.add(step)
        return damage

    def _damage_of_share(self, step: int) -> str | None:
        path = self.path(step)
        try:
            state = json.loads((path / STATE).read_text())
            written, files = state.pop("checksum", None), state["files"]
            if written not in (None, checksum_of(state)):
                return f"{STATE} has changed since it was written"
            mine = sorted(files)[self._process.rank :: self._process.world]
            changed = (name for name in mine if checksum(path / name) != files[name])
            return next((f"{name} has changed since it was written" for name in changed), None)
        except FileNotFoundError as error:
            return f"{error.filename} is missing"
        except Exception as error:
            return f"{STATE} is unreadable: {error}"


def checksum_of(state: dict[str, Any]) -> str:
    """Checksum of the content of `state.json`, without its key `checksum`."""
    return xxhash.xxh3_64_hexdigest(json.dumps(state, sort_keys=True).encode())


def remove_partial(folder: Path) -> None:
    """Removes the remains of interrupted saves from a folder of checkpoints."""
    for left in folder.glob(".step_*.partial"):
        shutil.rmtree(left, ignore_errors=True)
