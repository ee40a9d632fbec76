"""Rows of a table to shards, by a fit.

Shapes: N rows of a chunk, V tokens, K distinct ones.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.data.prepare.prepared import Encoded
from dist_rec.data.prepare.table_fit import HeldOut, Transform, vocabulary_file
from dist_rec.data.prepare.table_schema import Categorical, Cross, Dense, IdColumn, TableSchema, Valid, table_of
from dist_rec.data.prepare.table_source import Chunk, read_chunks
from dist_rec.data.prepare.table_tokens import bucket_tokens, labels_of, tokens_of
from dist_rec.data.shards import ShardWriter, arrow_schema
from dist_rec.data.workers import Report


class Lookup(Protocol):
    """From tokens to rows of a table."""

    @property
    def rows(self) -> int:
        """Of the table."""

    def __call__(self, text: pa.StringArray) -> NDArray[np.int32]:
        """The row of each token, (V,)."""


@dataclass(frozen=True)
class Vocabulary:
    """Known values: row 1 is the first, row 0 is for the others."""

    values: pa.StringArray

    @property
    def rows(self) -> int:
        """Of the table."""
        return len(self.values) + 1

    def __call__(self, text: pa.StringArray) -> NDArray[np.int32]:
        """The row of each token, (V,)."""
        place = pc.index_in(text, self.values, skip_nulls=True).fill_null(-1)
        return place.to_numpy(zero_copy_only=False) + np.int32(1)


@dataclass(frozen=True)
class Buckets:
    """Row 1 + xxh3_64(UTF-8) mod buckets; row 0 is for missing values."""

    buckets: int

    @property
    def rows(self) -> int:
        """Of the table."""
        return self.buckets + 1

    def __call__(self, text: pa.StringArray) -> NDArray[np.int32]:
        """The row of each token, (V,)."""
        distinct = text.dictionary_encode()
        values = distinct.dictionary.cast(pa.binary()).to_pylist()
        hash_K = np.fromiter(map(xxhash.xxh3_64_intdigest, values), np.uint64, len(values))
        row_K1 = np.append(hash_K % np.uint64(self.buckets) + np.uint64(1), np.uint64(0)).astype(np.int32)
        return row_K1[distinct.indices.fill_null(len(values)).to_numpy()]


def lookup_of(name: str, feature: IdColumn | Cross, folder: Path) -> Lookup:
    """How a feature's tokens become rows; vocabularies are read from the folder."""
    if feature.buckets:
        return Buckets(feature.buckets)
    if isinstance(feature, Categorical) and feature.boundaries:
        return Vocabulary(bucket_tokens(feature))
    values = pq.read_table(folder / vocabulary_file(table_of(name, feature)), columns=["value"])["value"]
    return Vocabulary(values.combine_chunks())


def transformed(number_N: NDArray[np.float64], dense: Dense, parameters: tuple[float, ...] = ()) -> NDArray[np.float64]:
    """Numbers by their transform (`Dense.transform`), (N,); NaN stands for missing ones.

    Args:
        number_N: as they are in the file.
        dense: the transform.
        parameters: what was fitted for it (`Transform.numbers`).
    """
    missing_N = np.isnan(number_N)
    if dense.transform == "quantile":
        # P(X <= x), so that a number equal to a boundary lies above it.
        number_N = np.searchsorted(parameters, number_N, side="right") / (dense.quantiles - 1)
    elif dense.transform == "standardise":
        mean, deviation = parameters
        number_N = (number_N - mean) / deviation
    elif dense.transform == "log1p":
        number_N = np.log1p(np.maximum(number_N, 0))
    return np.where(missing_N, dense.missing, number_N)


def _float32(chunk: Chunk, name: str, number_N: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        float_N = number_N.astype(np.float32)
    if not np.isfinite(float_N).all():
        row = int(np.argmin(np.isfinite(float_N)))
        raise UserError(f"{chunk.where(row)}: {name} is {number_N[row]:g}, more than float32 holds")
    return float_N


class Encoder:
    """Turns chunks into rows of shards."""

    def __init__(self, transform: Transform, folder: Path) -> None:
        self._schema, self._numbers = transform.features, transform.numbers
        self._lookups = {name: lookup_of(name, feature, folder) for name, _, feature in self._schema.ids}

    def table(self, chunk: Chunk) -> pa.Table:
        """The rows of a chunk."""
        label = self._schema.label
        columns: list[pa.Array] = [pa.array(_float32(chunk, label.column, labels_of(chunk, label)))]
        for name, dense in self._schema.dense.items():
            number_N = chunk.numbers(dense.column or name)
            columns.append(pa.array(_float32(chunk, name, transformed(number_N, dense, self._numbers.get(name, ())))))
        for name, _, feature in self._schema.ids:
            text, length_N = tokens_of(chunk, self._schema, name, feature)
            ids = pa.array(self._lookups[name](text))
            columns.append(ids if length_N is None else pa.ListArray.from_arrays(_offsets(length_N), ids))
        return pa.Table.from_arrays(columns, schema=arrow_schema(self._schema.columns))


def _offsets(length_N: NDArray[np.int64]) -> pa.Array:
    return pa.array(np.concatenate(([0], np.cumsum(length_N))).astype(np.int32))


def table_rows(schema: TableSchema, folder: Path) -> dict[str, int]:
    """Rows of every table."""
    return {table_of(name, feature): lookup_of(name, feature, folder).rows for name, _, feature in schema.ids}


@dataclass(frozen=True)
class EncodeFile:
    """Writes the rows of a file."""

    path: str
    split: str
    index: int
    """Among the files of the split."""
    transform: Transform
    folder: Path
    held_out: Valid | None = None
    """Rows that go to the validation split instead."""

    def run(self, report: Report) -> dict[str, Encoded]:
        """A shard of every split that got rows."""
        encoder, schema = Encoder(self.transform, self.folder), arrow_schema(self.transform.features.columns)
        writers: dict[str, ShardWriter] = {}
        labels: dict[str, _Labels] = {}
        with ExitStack() as stack:
            for split, chunk in self._chunks(report):
                if split not in writers:
                    path = f"{split}/{self.index:05}.arrows"
                    writers[split] = stack.enter_context(ShardWriter(self.folder, path, schema))
                    labels[split] = _Labels()
                table = encoder.table(chunk)
                writers[split].write(table)
                labels[split].add(table.column(0))
            return {split: Encoded(writer.close(), labels[split].positives) for split, writer in writers.items()}

    def _chunks(self, report: Report) -> Iterator[tuple[str, Chunk]]:
        features = self.transform.features
        held_out = HeldOut(self.held_out, self.index) if self.held_out else None
        for chunk in read_chunks(self.path, features.source, features.source_columns, report):
            if held_out is None:
                yield self.split, chunk
                continue
            held_N = held_out.next(chunk.rows)
            parts: Mapping[str, NDArray[np.bool_]] = {self.split: ~held_N, "valid": held_N}
            yield from ((split, chunk.filter(rows)) for split, rows in parts.items() if rows.any())


@dataclass
class _Labels:
    positives: int | None = 0

    def add(self, labels: pa.ChunkedArray) -> None:
        label_N = labels.to_numpy()
        if self.positives is not None:
            is_click = bool(((label_N == 0) | (label_N == 1)).all())
            self.positives = self.positives + int(label_N.sum()) if is_click else None
