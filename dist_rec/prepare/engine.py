"""The engine of `dist-rec prepare`: turns raw files of any kind into a prepared folder.

    source ── fit ──▶ statistics, vocabularies ── write ──▶ shards + manifest

The output is a function of the input and the options, independent of the number of processes.
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
    """Raw files of one kind, and how to prepare them. The module of the class must import its tasks, for workers."""

    processes: int = field(default=1, init=False)
    """Number of processes that pays off."""
    warnings: list[str] = field(default_factory=list, init=False)
    """Warnings about the data, one line each."""

    @abstractmethod
    def fit(self, folder: Path, pool: Workers) -> Fit:
        """Fits on the training files; may write files that stay in the folder."""

    @abstractmethod
    def write(self, fit: Fit, folder: Path, pool: Workers) -> Manifest:
        """Writes the shards of every split."""


@dataclass(frozen=True)
class Prepared:
    """Result of a preparation."""

    manifest: Manifest
    seconds: float
    warnings: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Rows, sizes and speed, for people and for `--json`; `click_rate` is given for click data only."""
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
    """Turns raw files into a prepared folder `out`; nothing of it is left after an error.

    It uses `workers` processes; None takes `source.processes`. Raises UserError for every fault of the input.
    """
    began = time.perf_counter()
    with new_folder(out) as folder, Workers(workers or source.processes, type(source).__module__) as pool:
        manifest = source.write(source.fit(folder, pool), folder, pool)
        manifest.save(folder)
    return Prepared(manifest, time.perf_counter() - began, tuple(source.warnings))
