"""Encodes Criteo's rows to shards, by hashing or by vocabularies; training rows are spooled until those are fitted.

Shapes: N rows of a segment, 13 integers (I) and 26 categories (C) a row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.schema import Column
from dist_rec.data.shards import arrow_schema
from dist_rec.data.workers import Report
from dist_rec.prepare.criteo.rows import CATEGORICAL, DENSE, Rows, read_rows
from dist_rec.prepare.criteo.vocabulary import Run, Vocabulary, bucket, pack
from dist_rec.prepare.lines import Piece
from dist_rec.prepare.splits import SplitWriter, Transform, Written

COLUMNS = (
    Column(name="label", kind="label"),
    *(Column(name=name, kind="dense") for name in DENSE),
    *(Column(name=name, kind="categorical", table=name) for name in CATEGORICAL),
)
SCHEMA = arrow_schema(COLUMNS)
SHARD_SEGMENTS = 16
"""Segments of a shard: about a million rows, 170 MB."""


class CriteoTransform(Transform):
    """Transform of lines to numbers and ids."""

    source: Literal["criteo"] = "criteo"
    dense: Literal["log1p(max(x, 0)), missing = 0"] = "log1p(max(x, 0)), missing = 0"
    min_count: int | None = None
    """With vocabularies: values that occur less often in the training files get row 0, as do missing values."""
    vocabulary: dict[str, str] = {}
    """Checksum of every `vocabulary/<table>.npy`: values in ascending order, and the row of each."""
    buckets: int | None = None
    """With hashing: values get rows 1 to `buckets`, missing values row 0."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the shards."""
        return COLUMNS

    def table_rows(self, folder: Path) -> dict[str, int]:
        """Rows of every table."""
        if self.buckets:
            return dict.fromkeys(CATEGORICAL, self.buckets + 1)
        return {name: of.rows for name, of in zip(CATEGORICAL, self.vocabularies(folder), strict=True)}

    def vocabularies(self, folder: Path) -> list[Vocabulary]:
        """The vocabularies of all columns."""
        return [Vocabulary(folder / self.vocabulary_file(name)) for name in CATEGORICAL]


@dataclass(frozen=True)
class Encoded(Written):
    """A shard that was written."""

    positive_I: NDArray[np.bool_]
    """Whether each integer is above 0 in any row."""


@dataclass(frozen=True)
class Spooled:
    """A segment on disk whose categories are factorized."""

    path: Path
    """label_N, dense_IN and code_CN, one after the other in the format of `numpy.save`."""
    runs: Path
    offsets: tuple[int, ...]
    """Start of the run of each column, and the end of the last one."""

    def run_of(self, column: int) -> Run:
        """The distinct values of a column and their counts."""
        return Run(self.runs, self.offsets[column], self.offsets[column + 1])


@dataclass(frozen=True)
class Spool:
    """Parses training lines and writes them as segments, for the encoding, and runs, for the counting."""

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
                pack(factors.values_K, factors.counts_K).tofile(file)
        with path.open("wb") as file:
            for array in (rows.label_N, rows.dense_IN, np.stack([factors.code_N for factors in rows.factors_C])):
                np.save(file, array)
        return Spooled(path, runs, (0, *accumulate(factors.values_K.size for factors in rows.factors_C)))


@dataclass(frozen=True)
class EncodeSpooled:
    """Writes spooled segments as one training shard, and removes them."""

    segments: Sequence[Spooled]
    index: int
    """Index of the piece of the segments."""
    number: int
    """Index of the shard among those of the piece."""
    transform: CriteoTransform
    folder: Path

    def run(self, report: Report) -> list[Encoded]:
        """Returns the one shard."""
        vocabularies = self.transform.vocabularies(self.folder)
        tables = (self._table(segment, vocabularies, report) for segment in self.segments)
        return [_write(self.folder, "train", self.index, self.number, tables)]

    @staticmethod
    def _table(segment: Spooled, vocabularies: list[Vocabulary], report: Report) -> pa.Table:
        size = segment.path.stat().st_size
        with segment.path.open("rb") as file:
            label_N, dense_IN, code_CN = (np.load(file) for _ in range(3))
        segment.path.unlink()
        columns = enumerate(zip(vocabularies, code_CN, strict=True))
        ids = [vocabulary.rows_of(segment.run_of(column).values())[code_N] for column, (vocabulary, code_N) in columns]
        report(size, label_N.size)
        return _table(label_N, dense_IN, ids)


@dataclass(frozen=True)
class EncodeLines:
    """Writes lines as shards, in one pass."""

    piece: Piece
    split: str
    index: int
    """Index among the pieces of the split."""
    transform: CriteoTransform
    folder: Path

    def run(self, report: Report) -> list[Encoded]:
        """Returns the shards."""
        vocabularies = [] if self.transform.buckets else self.transform.vocabularies(self.folder)
        segments = read_rows(self.piece, report)
        tables = (_table(rows.label_N, rows.dense_IN, self._ids(rows, vocabularies)) for rows in segments)
        shards = enumerate(chain([first], islice(tables, SHARD_SEGMENTS - 1)) for first in tables)
        return [_write(self.folder, self.split, self.index, number, shard) for number, shard in shards]

    def _ids(self, rows: Rows, vocabularies: list[Vocabulary]) -> list[NDArray[np.int32]]:
        if buckets := self.transform.buckets:
            return [bucket(factors.values_K, buckets)[factors.code_N] for factors in rows.factors_C]
        columns = zip(vocabularies, rows.factors_C, strict=True)
        return [vocabulary.rows_of(factors.values_K)[factors.code_N] for vocabulary, factors in columns]


def encode_spooled(
    spooled: Sequence[Sequence[Spooled]], transform: CriteoTransform, folder: Path
) -> list[EncodeSpooled]:
    """The tasks for the segments of each piece, cut into the same shards as by `EncodeLines`."""
    return [
        EncodeSpooled(of_piece[start : start + SHARD_SEGMENTS], index, number, transform, folder)
        for index, of_piece in enumerate(spooled)
        for number, start in enumerate(range(0, len(of_piece), SHARD_SEGMENTS))
    ]


def _table(label_N: NDArray[np.float32], dense_IN: NDArray[np.float32], ids: list[NDArray[np.int32]]) -> pa.Table:
    return pa.Table.from_arrays([pa.array(column) for column in (label_N, *dense_IN, *ids)], schema=SCHEMA)


def _write(folder: Path, split: str, piece: int, number: int, tables: Iterable[pa.Table]) -> Encoded:
    positive_I = np.zeros(len(DENSE), np.bool_)
    with SplitWriter(folder, split, f"{piece:05}-{number:03}", COLUMNS) as writer:
        for table in tables:
            writer.write(table)
            positive_I |= [table[column].to_numpy().any() for column in DENSE]
        return Encoded(**vars(writer.written()), positive_I=positive_I)
