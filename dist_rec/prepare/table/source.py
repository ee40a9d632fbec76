"""Prepares tables of any kind, CSV or Parquet, by a schema.

    files ──count──▶ quantiles, means, vocabularies ──encode──▶ shards + manifest
           (training rows alone)                    (all files)

Both passes read chunk by chunk; each file is a task of one process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest
from dist_rec.data.workers import Workers
from dist_rec.prepare.splits import SplitSource, Written, bytes_of
from dist_rec.prepare.table.encode import EncodeFile
from dist_rec.prepare.table.fit import FitFile, Statistics, TableTransform
from dist_rec.prepare.table.schema import TableSchema, Valid


@dataclass
class TableFiles(SplitSource[TableTransform]):
    """Files of a table."""

    schema: TableSchema | None = None
    """Meaning of the columns; None takes the schema of `fitted_from`."""

    kind = TableTransform

    def __post_init__(self) -> None:
        if self.schema is None and self.fitted_from is None:
            raise UserError("no schema; give one, or --fitted-from with a prepared folder")
        super().__post_init__()
        if self.earlier is not None and self.schema not in (None, self.earlier.features):
            raise UserError(f"the schema differs from that of --fitted-from {self.fitted_from}; leave the schema out")

    def _held_out(self, schema: TableSchema) -> Valid | None:
        return None if "valid" in self.files else schema.valid

    def learn(self, folder: Path, pool: Workers) -> TableTransform:
        """Collects the statistics of the training rows and fits by them."""
        assert self.schema is not None
        files, held_out = self.files["train"], self._held_out(self.schema)
        tasks = [FitFile(file, index, self.schema, held_out) for index, file in enumerate(files)]
        total = Statistics()
        for statistics in pool.run(tasks, "read train", bytes_of(files)):
            total.merge(statistics)
        if not total.rows:
            raise UserError("no training row is left; lower valid.share, or give more rows")
        self.warnings += total.warnings(self.schema)
        return total.fit(self.schema, folder)

    def tasks(self, transform: TableTransform, folder: Path) -> list[EncodeFile]:
        """A task for every file."""
        held_out = self._held_out(transform.features)
        return [
            EncodeFile(file, split, index, transform, folder, held_out if split == "train" else None)
            for split, of_split in self.files.items()
            for index, file in enumerate(of_split)
        ]

    def remarks(self, manifest: Manifest, written: Sequence[Written]) -> list[str]:
        """A warning for every table without known values."""
        return [
            f"table {table} has only the row of unknown ids: no value occurs min_count times"
            for table, of in manifest.tables.items()
            if of.rows == 1
        ]
