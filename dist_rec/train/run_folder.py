"""The folder of a run: its files, and the process that may write to it."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from dist_rec.core.config import read_toml
from dist_rec.core.errors import UserError
from dist_rec.core.log import to_json
from dist_rec.core.process import Process
from dist_rec.train.checkpoint import Checkpoints, remove_partial
from dist_rec.train.config import RunConfig
from dist_rec.train.lock import Lock

log = logging.getLogger(__name__)


class RunFolder:
    """A run on disk, in a folder that may not exist yet.

    config.toml     all settings in effect
    checkpoints/    see `Checkpoints`
    metrics.jsonl   and tensorboard/: written by `Reporter`
    result.json     of a run that has ended, or was interrupted
    .lock           see `Lock`
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics, self.tensorboard = path / "metrics.jsonl", path / "tensorboard"
        self._config, self._result, self._checkpoints = path / "config.toml", path / "result.json", path / "checkpoints"
        self._lock = Lock(path / ".lock")
        self._absent = self._removable = False

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> RunConfig:
        """The config of the run, with that of its head checked.

        Raises:
            UserError: if the folder is not a run, or this version does not know a key of its `config.toml`.
        """
        if not self._config.is_file():
            raise UserError(f"{self} is not a run: it holds no config.toml")
        values = read_toml(self._config)
        try:
            config = RunConfig.parse(values)
            config.head_config()
        except UserError as error:
            hint = "if another version of dist-rec wrote it, rename or remove the key there"
            raise UserError(f"{self._config}: {error}; {hint}") from None
        return config

    @property
    def result(self) -> dict[str, Any]:
        """The result of the run; empty if it has none."""
        try:
            return json.loads(self._result.read_text())
        except (OSError, ValueError):
            return {}

    @property
    def ended(self) -> bool:
        """Whether the training has ended and was not interrupted."""
        return self.result.get("stop", {}).get("reason", "steps") in ("steps", "patience") and bool(self.result)

    def checkpoints(self, process: Process) -> Checkpoints:
        """The checkpoints of the run, to be read by all processes together."""
        return Checkpoints(self._checkpoints, process)

    @contextmanager
    def owned(self, resume: bool, reserved: bool = False) -> Iterator[None]:
        """Only this process may write to the folder, from now on if it exists, and otherwise from `make` on.

        A new folder is removed if the run fails before its first step.

        Args:
            resume: whether the folder may be that of an earlier run.
            reserved: whether `reserve` has made it for this run.

        Raises:
            UserError: if the folder does not fit `resume`, or another process writes to it.
        """
        with self._writing():
            exists = self.path.exists()
            if exists and not (resume or reserved):
                raise UserError(f"{self} exists already; go on with --resume, or choose another --run-dir")
            if exists and not self._config.is_file() and self._has_other_files():
                raise UserError(f"{self} is not a run: it holds no config.toml; choose another --run-dir")
            if exists:
                self._lock.take()
        self._absent, self._removable = not exists, reserved or not exists
        try:
            yield
        except BaseException:
            if self._lock.held:
                self._clear()
            raise
        finally:
            self._lock.release()

    def make(self, config: RunConfig) -> None:
        """Creates the folder if it does not exist, and writes the config.

        Raises:
            UserError: if the folder cannot be written to, or another run has just created it.
        """
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=not self._absent)
            self._lock.take()
            self._config.write_text(config.to_toml())

    def keep(self) -> None:
        """From now on the folder stays even if the run fails."""
        self._removable = False

    def write_result(self, result: dict[str, Any]) -> None:
        """Writes the complete result or none; if the disk is full, the run ends with a warning, not with an error."""
        partial = self._result.with_name(".result.json.partial")
        try:
            partial.write_text(to_json(result, indent=1) + "\n")
            partial.replace(self._result)
        except OSError as error:
            partial.unlink(missing_ok=True)
            log.warning("%s was not written: %s", self._result, error)

    def _has_other_files(self) -> bool:
        return self.path.is_file() or any(path != self._lock.path for path in self.path.iterdir())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"the folder of the run, {self}, cannot be written: {error.strerror}") from None

    def _clear(self) -> None:
        """Removes the partial checkpoints of a run that fails, and its folder if it is new and no step was done."""
        if self._removable:
            # Renamed first: a save under way in another thread or process goes on writing under the old name.
            removed = self.path.with_name(f".{self.path.name}.gone")
            self.path.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)
        remove_partial(self._checkpoints)


def reserve(path: Path) -> Path:
    """Makes a new folder for a run, with a number after its name if another run has the name; returns its path.

    Raises:
        UserError: if it cannot be made.
    """
    made, numbers = path, count(2)
    while True:
        try:
            made.mkdir(parents=True)
            return made
        except FileExistsError:
            made = path.with_name(f"{path.name}_{next(numbers)}")
        except OSError as error:
            raise UserError(f"the folder of the run, {made}, cannot be written: {error.strerror}") from None
