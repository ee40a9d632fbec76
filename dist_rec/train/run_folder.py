"""The folder of a run: its files, and the process that may write to it."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
        self._new = False

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> RunConfig:
        """The config of the run; raises UserError if the folder is not a run."""
        if not self._config.is_file():
            raise UserError(f"{self} is not a run: it holds no config.toml")
        return RunConfig.parse(read_toml(self._config))

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
    def owned(self, resume: bool) -> Iterator[None]:
        """Only this process may write to the folder, from now on if it exists, and otherwise from `make` on.

        A new folder is removed if the run fails before its first checkpoint.

        Raises:
            UserError: if the folder does not fit `resume`, or another process writes to it.
        """
        if (exists := self.path.exists()) and not resume:
            raise UserError(f"{self} exists already; go on with --resume, or choose another --run-dir")
        if exists and not self._config.is_file() and self._has_other_files():
            raise UserError(f"{self} is not a run: it holds no config.toml; choose another --run-dir")
        self._new = not exists
        if exists:
            with self._writing():
                self._lock.take()
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
            self.path.mkdir(parents=True, exist_ok=not self._new)
            self._lock.take()
            self._config.write_text(config.to_toml())

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
        """Removes the partial checkpoints of a run that fails, and its folder if it is new and has no checkpoint."""
        if self._new and not list(self._checkpoints.glob("step_*")):
            # Renamed first: a save under way in another thread or process goes on writing under the old name.
            removed = self.path.with_name(f".{self.path.name}.gone")
            self.path.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)
        remove_partial(self._checkpoints)
