"""Training lines parsed once: their rows wait on disk, in segments, until their vocabularies are fitted.

Shapes: N rows of a segment, 13 integers (I) and 26 categories (C) a row.
"""

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.workers import Report
from dist_rec.prepare.criteo.rows import Rows, read_rows
from dist_rec.prepare.criteo.vocabulary import Run, pack
from dist_rec.prepare.lines import Piece


@dataclass(frozen=True)
class Spooled:
    """A segment on disk whose categories are factorized."""

    path: Path
    """label_N, dense_IN and code_CN, one after the other in the form of `numpy.save`."""
    runs: Path
    offsets: tuple[int, ...]
    """Where the run of each column begins, and where the last one ends."""

    def run_of(self, column: int) -> Run:
        """The distinct values of a column and their counts."""
        return Run(self.runs, self.offsets[column], self.offsets[column + 1])

    def take(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint16]]:
        """label_N, dense_IN and code_CN, which are removed from the disk."""
        with self.path.open("rb") as file:
            label_N, dense_IN, code_CN = (np.load(file) for _ in range(3))
        self.path.unlink()
        return label_N, dense_IN, code_CN


@dataclass(frozen=True)
class Spool:
    """Parses training lines: into segments for the encoding and runs for the counting."""

    piece: Piece
    prefix: Path

    def run(self, report: Report) -> list[Spooled]:
        """Writes the segments."""
        return [self._save(number, rows) for number, rows in enumerate(read_rows(self.piece, report))]

    def _save(self, number: int, rows: Rows) -> Spooled:
        path = self.prefix.with_name(f"{self.prefix.name}-{number:03}.npy")
        runs = path.with_suffix(".runs")
        with runs.open("wb") as file:
            for factors in rows.factors_C:
                pack(factors).tofile(file)
        with path.open("wb") as file:
            for array in (rows.label_N, rows.dense_IN, np.stack([factors.code_N for factors in rows.factors_C])):
                np.save(file, array)
        return Spooled(path, runs, (0, *accumulate(factors.values_K.size for factors in rows.factors_C)))
