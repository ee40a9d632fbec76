"""Reports of a run: the progress line, `metrics.jsonl` and TensorBoard."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from dist_rec.core.bar import tqdm
from dist_rec.core.log import shown, to_json
from dist_rec.train.run_folder import RunFolder

log = logging.getLogger(__name__)


class Reporter:
    """Reports on the first process only; a file that cannot be written is logged once and does not stop the run.

    Args:
        folder: the run's; None on all processes but the first.
        rows: rows of the whole training.
        done: rows trained before a resume.
        step: first step of this training; records of later steps, written before a kill, are removed.
    """

    def __init__(self, folder: RunFolder | None, rows: int, done: int, step: int) -> None:
        self._folder = folder
        self._started = time.time()
        self._failed = False
        if folder is None:
            return
        with self._forgiving():
            _cut(folder.metrics, step)
        # On a terminal the line moves several times a second; in a log file a line every half minute is enough.
        self._bar = tqdm(
            total=rows,
            initial=done,
            unit=" rows",
            unit_scale=True,
            desc="train",
            dynamic_ncols=True,
            smoothing=0.1,
            mininterval=0.1 if sys.stderr.isatty() else 30,
        )
        with self._forgiving():
            self._file = folder.metrics.open("a")
            self._board = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def advance(self, rows: int) -> None:
        """Advances the progress line by the rows of a global batch."""
        if self._folder is not None:
            self._bar.update(rows)

    def log(self, kind: str, step: int, **values: float) -> None:
        """Writes values of a step; `kind` is train or valid."""
        if self._folder is None:
            return
        if not self._failed:
            with self._forgiving():
                self._write(kind, step, values)
        if kind == "train":
            self._bar.set_postfix_str(f"loss {values['loss']:.4f}", refresh=False)
        else:
            self._bar.write(f"step {step}  {kind}: {shown(values)}")

    def _write(self, kind: str, step: int, values: dict[str, float]) -> None:
        record = {"kind": kind, "step": step, "time": round(time.time() - self._started, 3), **values}
        self._file.write(to_json(record) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._failed:
                log.warning("the metrics in %s end here (%s); training goes on", self._folder, error)
            self._failed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is None:
            return
        self._bar.close()
        for name in ("_board", "_file"):
            with self._forgiving():
                if name in vars(self):
                    getattr(self, name).close()


def _cut(path: Path, step: int) -> None:
    """Removes records of later steps, and a line that a killed process left incomplete."""
    if not path.is_file():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if (of := _step_of(line)) is not None and of <= step]
    if len(kept) < len(lines):
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(kept))
        partial.replace(path)


def _step_of(line: str) -> int | None:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
