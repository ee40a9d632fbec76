"""Encodes rows of a table to shards.

Shapes: N rows of a chunk.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.data.shards import arrow_schema, lists
from dist_rec.data.workers import Report
from dist_rec.prepare.splits import SplitWriter, Written
from dist_rec.prepare.table.chunks import Chunk
from dist_rec.prepare.table.fit import TableTransform, read_held_out
from dist_rec.prepare.table.schema import Dense, Valid
from dist_rec.prepare.table.tokens import Buckets, Vocabulary, labels_of, tokens_of


def transformed(number_N: NDArray[np.float64], dense: Dense, parameters: tuple[float, ...] = ()) -> NDArray[np.float64]:
    """Transforms numbers of a file, NaN if missing, by the fitted parameters (`TableTransform.numbers`), (N,)."""
    missing_N = np.isnan(number_N)
    if dense.transform == "quantile":
        # P(X <= x), so a number equal to a boundary counts as above it.
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
        raise UserError(f"{chunk.where(row)}: {name} is {number_N[row]:g}, beyond the range of float32; rescale it")
    return float_N


@dataclass(frozen=True)
class EncodeFile:
    """Writes the rows of a file."""

    path: str
    split: str
    index: int
    """Index among the files of the split."""
    transform: TableTransform
    folder: Path
    held_out: Valid | None = None
    """Rows that go to the validation split instead."""

    def run(self, report: Report) -> list[Written]:
        """Returns a shard of every split that has rows."""
        lookups = self.transform.lookups(self.folder)
        writers: dict[str, SplitWriter] = {}
        with ExitStack() as stack:
            for split, chunk in self._chunks(report):
                if split not in writers:
                    writer = SplitWriter(self.folder, split, f"{self.index:05}", self.transform.columns)
                    writers[split] = stack.enter_context(writer)
                writers[split].write(_encode(chunk, self.transform, lookups))
            return [writer.written() for writer in writers.values()]

    def _chunks(self, report: Report) -> Iterator[tuple[str, Chunk]]:
        for chunk, held_N in read_held_out(self.path, self.transform.features, self.held_out, self.index, report):
            if not held_N.all():
                yield self.split, chunk.filter(~held_N) if held_N.any() else chunk
            if held_N.any():
                yield "valid", chunk.filter(held_N)


def _encode(chunk: Chunk, transform: TableTransform, lookups: Mapping[str, Vocabulary | Buckets]) -> pa.Table:
    schema, label = transform.features, transform.features.label
    columns: list[pa.Array] = [pa.array(_float32(chunk, label.column, labels_of(chunk, label)))]
    for name, dense in schema.dense.items():
        number_N = transformed(chunk.numbers(dense.column or name), dense, transform.numbers.get(name, ()))
        columns.append(pa.array(_float32(chunk, name, number_N)))
    for name, _, feature in schema.ids:
        text, length_N = tokens_of(chunk, schema, name, feature)
        ids_V = lookups[name](text)
        columns.append(pa.array(ids_V) if length_N is None else lists(ids_V, length_N))
    return pa.Table.from_arrays(columns, schema=arrow_schema(schema.columns))
