"""Fits the transform of a table to its training rows: quantiles, means and vocabularies.

The statistics of the files are merged in the order of the files, so the result does not depend on the number of
processes. Memory grows only with the distinct values of vocabularies. Quantiles are exact up to `SAMPLE_ROWS` values;
beyond, they are those of a sample of that size, chosen by the rows' places in the files.

Shapes: N rows of a chunk, K values of a sample.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dist_rec.core.schema import Column
from dist_rec.data.shards import checksum
from dist_rec.data.workers import Report
from dist_rec.prepare.splits import Transform
from dist_rec.prepare.table.chunks import Chunk, read_chunks
from dist_rec.prepare.table.schema import Categorical, Cross, Dense, IdColumn, TableSchema, Valid, table_of
from dist_rec.prepare.table.tokens import Buckets, Vocabulary, bucket_tokens, labels_of, tokens_of

SAMPLE_ROWS = 1 << 18
ROUNDING = 1e-13
"""A deviation of at most this share of the mean is a rounding error: the number is constant and is not scaled."""
WAITING_VALUES = 1 << 20
"""Counts of chunks that are kept, at least, before they are added up."""


class TableTransform(Transform):
    """Transform of rows to numbers and ids."""

    ending: ClassVar[str] = ".parquet"

    source: Literal["table"] = "table"
    features: TableSchema
    numbers: dict[str, tuple[float, ...]] = {}
    """For each fitted number, the boundaries of its quantiles, or its mean and standard deviation."""
    vocabulary: dict[str, str] = {}
    """Checksum of every `vocabulary/<table>.parquet`: values and counts; the value at place i has row i + 1."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the shards."""
        return self.features.columns

    def table_rows(self, folder: Path) -> dict[str, int]:
        """Rows of every table."""
        lookups = self.lookups(folder)
        return {table_of(name, feature): lookups[name].rows for name, _, feature in self.features.ids}

    def lookups(self, folder: Path) -> dict[str, Vocabulary | Buckets]:
        """The map from tokens to rows for each feature; vocabularies are read from the folder."""
        return {name: self._lookup(name, feature, folder) for name, _, feature in self.features.ids}

    def _lookup(self, name: str, feature: IdColumn | Cross, folder: Path) -> Vocabulary | Buckets:
        if feature.buckets:
            return Buckets(feature.buckets)
        if isinstance(feature, Categorical) and feature.boundaries:
            return Vocabulary(bucket_tokens(feature))
        values = pq.read_table(folder / self.vocabulary_file(table_of(name, feature)), columns=["value"])["value"]
        return Vocabulary(values.combine_chunks())

    def content(self) -> dict[str, Any]:
        """The manifest's entry, without the defaults of the schema."""
        return self.model_dump(mode="json", exclude_defaults=True) | {"source": self.source}


@dataclass
class NumberFit:
    """Moments of a number, and a sample of its values: those with the smallest random keys."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of the squared differences from the mean."""
    key_K: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    value_K: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, value_N: NDArray[np.float64], key_N: NDArray[np.float64]) -> "NumberFit":
        """The fit of N rows, with a random key for each."""
        if not value_N.size:
            return cls()
        mean = float(value_N.mean())
        return cls(value_N.size, mean, float(np.square(value_N - mean).sum()), key_N, value_N)

    def __add__(self, other: "NumberFit") -> "NumberFit":
        if not self.count or not other.count:
            return self if self.count else other
        count, difference = self.count + other.count, other.mean - self.mean
        mean = self.mean + difference * other.count / count
        squares = self.squares + other.squares + difference**2 * self.count * other.count / count
        key_K = np.concatenate((self.key_K, other.key_K))
        value_K = np.concatenate((self.value_K, other.value_K))
        if key_K.size > SAMPLE_ROWS:
            smallest = np.argpartition(key_K, SAMPLE_ROWS)[:SAMPLE_ROWS]
            key_K, value_K = key_K[smallest], value_K[smallest]
        return NumberFit(count, mean, squares, key_K, value_K)

    def parameters(self, dense: Dense) -> tuple[float, ...]:
        """Parameters of the transform (`TableTransform.numbers`)."""
        if dense.transform == "standardise":
            deviation = (self.squares / self.count) ** 0.5 if self.count else 0.0
            is_constant = deviation <= abs(self.mean) * ROUNDING
            return self.mean, 1.0 if is_constant else deviation
        if not self.count:
            return ()
        share = np.arange(1, dense.quantiles) / dense.quantiles
        return tuple(np.quantile(self.value_K, share, method="inverted_cdf").tolist())


class ValueCounts:
    """Counts of the values of a table."""

    def __init__(self) -> None:
        self._parts = [pa.table({"value": pa.array([], pa.string()), "count": pa.array([], pa.int64())})]

    def add(self, text: pa.StringArray) -> None:
        """Counts tokens, except null ones."""
        counts = text.drop_null().value_counts()
        self._append(pa.table({"value": counts.field("values"), "count": counts.field("counts")}))

    def merge(self, other: "ValueCounts") -> None:
        """Adds the counts of other rows."""
        self._append(other.total())

    def _append(self, part: pa.Table) -> None:
        self._parts.append(part)
        if sum(part.num_rows for part in self._parts[1:]) > max(WAITING_VALUES, self._parts[0].num_rows):
            self.total()

    def total(self) -> pa.Table:
        """The sum of all counts, with columns value and count."""
        if len(self._parts) > 1:
            summed = pa.concat_tables(self._parts).group_by("value").aggregate([("count", "sum")])
            self._parts = [summed.rename_columns(["value", "count"])]
        return self._parts[0]

    def save(self, path: Path, min_count: int) -> None:
        """Writes the values seen at least `min_count` times, by descending count, then by value."""
        total = self.total()
        frequent = total.filter(pc.greater_equal(total["count"], min_count))
        pq.write_table(frequent.sort_by([("count", "descending"), ("value", "ascending")]), path)


@dataclass
class Statistics:
    """Statistics of training rows."""

    rows: int = 0
    lowest_label: float = np.inf
    highest_label: float = -np.inf
    present: Counter[str] = field(default_factory=Counter)
    """Number of rows (or tokens of a bag or sequence) with a value, by feature."""
    numbers: dict[str, NumberFit] = field(default_factory=dict)
    tables: dict[str, ValueCounts] = field(default_factory=dict)

    def add(self, chunk: Chunk, schema: TableSchema, key_N: NDArray[np.float64]) -> None:
        """Counts the rows of a chunk, with a random key for each."""
        label_N = labels_of(chunk, schema.label)
        self._add_labels(label_N.size, label_N.min(initial=np.inf), label_N.max(initial=-np.inf))
        for name, dense in schema.dense.items():
            number_N = chunk.numbers(dense.column or name)
            present = ~np.isnan(number_N)
            self.present[name] += int(present.sum())
            if dense.transform in ("quantile", "standardise"):
                fitted = NumberFit.of(number_N[present], key_N[present])
                self.numbers[name] = self.numbers.get(name, NumberFit()) + fitted
        for name, _, feature in schema.ids:
            text, _ = tokens_of(chunk, schema, name, feature)
            self.present[name] += len(text) - text.null_count
            if has_vocabulary(feature):
                self.tables.setdefault(table_of(name, feature), ValueCounts()).add(text)

    def merge(self, other: "Statistics") -> None:
        """Adds the statistics of other rows."""
        self._add_labels(other.rows, other.lowest_label, other.highest_label)
        self.present.update(other.present)
        for name, number in other.numbers.items():
            self.numbers[name] = self.numbers.get(name, NumberFit()) + number
        for table, counts in other.tables.items():
            self.tables.setdefault(table, ValueCounts()).merge(counts)

    def _add_labels(self, rows: int, lowest: float, highest: float) -> None:
        self.rows += rows
        self.lowest_label = min(self.lowest_label, float(lowest))
        self.highest_label = max(self.highest_label, float(highest))

    def fit(self, schema: TableSchema, folder: Path) -> TableTransform:
        """Writes the vocabularies and returns the transform."""
        numbers = {name: number.parameters(schema.dense[name]) for name, number in self.numbers.items()}
        checksums = {}
        for name, _, feature in schema.ids:
            table = table_of(name, feature)
            if has_vocabulary(feature) and table not in checksums:
                path = folder / TableTransform.vocabulary_file(table)
                path.parent.mkdir(exist_ok=True)
                self.tables[table].save(path, feature.min_count or 1)
                checksums[table] = checksum(path)
        return TableTransform(features=schema, numbers=numbers, vocabulary=checksums)

    def warnings(self, schema: TableSchema) -> list[str]:
        """Warnings about missing values and constant labels."""
        found = [f"{name} is missing in every training row" for name, count in self.present.items() if not count]
        if self.lowest_label == self.highest_label:
            found.append(f"the label {schema.label.column} is {self.lowest_label:g} in every training row")
        return found


def has_vocabulary(feature: IdColumn | Cross) -> bool:
    """Whether the values of a feature's table are fitted."""
    return not feature.buckets and not (isinstance(feature, Categorical) and feature.boundaries)


@dataclass(frozen=True)
class FitFile:
    """Collects the statistics of the training rows of a file."""

    path: str
    index: int
    """Index among the training files."""
    schema: TableSchema
    held_out: Valid | None
    """Rows to leave out, for validation."""

    def run(self, report: Report) -> Statistics:
        """Returns the statistics."""
        statistics, keys = Statistics(), np.random.Generator(np.random.PCG64((1, self.index)))
        for chunk, held_N in read_held_out(self.path, self.schema, self.held_out, self.index, report):
            key_N = keys.random(chunk.rows)
            if held_N.any():
                chunk, key_N = chunk.filter(~held_N), key_N[~held_N]
            statistics.add(chunk, self.schema, key_N)
        return statistics


def read_held_out(
    path: str, schema: TableSchema, valid: Valid | None, file: int, report: Report
) -> Iterator[tuple[Chunk, NDArray[np.bool_]]]:
    """The chunks of a file, and which of their rows are for validation: a pure function of seed, file and row."""
    share, seed = (valid.share, valid.seed) if valid else (0.0, 0)
    random = np.random.Generator(np.random.PCG64((2, seed, file)))
    for chunk in read_chunks(path, schema.source, schema.source_columns, report):
        yield chunk, random.random(chunk.rows) < share
