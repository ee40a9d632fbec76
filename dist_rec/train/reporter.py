"""What a run tells: the progress line, `metrics.jsonl` and TensorBoard."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dist_rec.core.log import shown


class Reporter:
    """Silent on every process but the first.

    Args:
        folder: the run's; None keeps silent.
        rows: that training reads in all.
        done: rows read before a resume.
    """

    def __init__(self, folder: Path | None, rows: int, done: int) -> None:
        self._folder = folder
        self._started = time.time()
        if folder is None:
            return
        self._file = (folder / "metrics.jsonl").open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"))
        # On a terminal the line moves several times a second; in a log file a line every half minute is enough.
        self._bar = tqdm(
            total=rows, initial=done, unit=" rows", unit_scale=True, desc="train", dynamic_ncols=True, smoothing=0.1
        )
        if not self._bar.fp.isatty():
            self._bar.mininterval = 30

    def advance(self, rows: int) -> None:
        """Moves the progress line by the rows of a global batch."""
        if self._folder is not None:
            self._bar.update(rows)

    def log(self, kind: str, step: int, **values: float) -> None:
        """Writes values of a step; `kind` is train, valid, test or checkpoint."""
        if self._folder is None:
            return
        record = {"kind": kind, "step": step, "time": round(time.time() - self._started, 3), **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
        if kind == "train":
            self._bar.set_postfix_str(f"loss {values['loss']:.4f}", refresh=False)
        elif kind != "checkpoint":
            self._bar.write(f"step {step}  {kind}: {shown(values)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._bar.close()
            self._board.close()
            self._file.close()
