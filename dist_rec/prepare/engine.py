"""The engine of `dist-rec prepare`: raw files of any kind to a prepared folder.

    source ── fit ──▶ what was learnt from the training files ── write ──▶ shards + manifest

What is written is a function of the input and its options, never of the number of processes.
"""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from dist_rec.core.schema import Manifest
from dist_rec.data.shards import new_folder
from dist_rec.data.workers import Workers

Fit = TypeVar("Fit")


@dataclass
class Source(ABC, Generic[Fit]):
    """Raw files of one kind, and how they are to be prepared. The module of the class imports its tasks for workers."""

    processes: int = field(default=1, init=False)
    """That are worth their start."""
    warnings: list[str] = field(default_factory=list, init=False)
    """What the user should know of the data, one line each."""

    @abstractmethod
    def fit(self, folder: Path, pool: Workers) -> Fit:
        """Learns from the training files; may write files that the folder keeps."""

    @abstractmethod
    def write(self, fit: Fit, folder: Path, pool: Workers) -> Manifest:
        """Writes the shards of every split."""


@dataclass(frozen=True)
class Prepared:
    """What a preparation did."""

    manifest: Manifest
    seconds: float
    warnings: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """For people and for `--json`; `click_rate` is there for click data alone."""
        splits: dict[str, dict[str, float]] = {}
        for name, split in self.manifest.splits.items():
            splits[name] = {"rows": split.rows}
            if split.positives is not None:
                splits[name]["click_rate"] = round(split.positives / split.rows, 6)
        rows = sum(split.rows for split in self.manifest.splits.values())
        return {
            "splits": splits,
            "rows": rows,
            "table_rows": sum(table.rows for table in self.manifest.tables.values()),
            "seconds": round(self.seconds, 3),
            "rows_per_s": round(rows / self.seconds),
            **({"warnings": self.warnings} if self.warnings else {}),
        }


def prepare(source: Source[Any], out: Path, workers: int | None = None) -> Prepared:
    """Turns raw files into a prepared folder `out`; nothing of it is left if that fails.

    It takes as many processes as the source makes use of, or `workers`. Raises UserError for every fault of the input.
    """
    began = time.perf_counter()
    with new_folder(out) as folder, Workers(workers or source.processes, type(source).__module__) as pool:
        manifest = source.write(source.fit(folder, pool), folder, pool)
        manifest.save(folder)
    return Prepared(manifest, time.perf_counter() - began, tuple(source.warnings))
