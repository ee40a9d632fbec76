"""Decodes Arrow columns to rows, checks and permutes them, without a Python step per row.

Shapes: R rows of a block or window, N dense features, C categorical features, V ids of a jagged feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest
from dist_rec.data.order import end_to_end

Array = NDArray[Any]


@dataclass(frozen=True)
class Jagged:
    """A bag or sequence column of R rows; the ids of all rows, and their weights if any, lie end to end."""

    values: Array
    lengths: Array
    weights: Array | None

    def take(self, rows: Array) -> "Jagged":
        """The rows in that order."""
        starts, lengths = self._bounds[rows], self.lengths[rows]
        index = end_to_end(starts, lengths)
        return Jagged(self.values[index], lengths, None if self.weights is None else self.weights[index])

    @cached_property
    def _bounds(self) -> Array:
        """Place of the first id of each row, and the end of the last row, [R + 1]."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def slice(self, start: int, stop: int) -> "Jagged":
        """The rows [start, stop), without copying."""
        ids = slice(self._bounds[start], self._bounds[stop])
        return Jagged(self.values[ids], self.lengths[start:stop], None if self.weights is None else self.weights[ids])

    @staticmethod
    def concatenate(parts: Sequence["Jagged"]) -> "Jagged":
        """All rows of the parts, in order."""
        weights = [part.weights for part in parts if part.weights is not None]
        return Jagged(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate(weights) if weights else None,
        )


@dataclass(frozen=True)
class Layout:
    """The columns of the shards that a model reads, in the order in which it sees them."""

    dense: tuple[str, ...]
    categorical: tuple[str, ...]
    table_rows: tuple[int, ...]
    """Rows of the table of each categorical feature."""
    bags: tuple[str, ...]
    weighted: tuple[str, ...]
    label: str
    weight: str | None

    @property
    def floats(self) -> tuple[str, ...]:
        """The numeric columns, in the order of `Rows.floats`."""
        return (*self.dense, self.label, *([self.weight] if self.weight else []))

    @classmethod
    def of(cls, manifest: Manifest, features: Sequence[str] | None = None) -> "Layout":
        """The layout of a data set; `features` are the id columns that a model looks up, None takes all."""
        wanted = [c for c in manifest.columns if features is None or c.name in features]
        jagged_weights = {column.weights for column in manifest.columns}
        row_weights = [name for name in manifest.names("weight") if name not in jagged_weights]
        labels = manifest.names("label")
        if len(labels) != 1:
            raise UserError(f"the data has {len(labels)} label columns, but training needs one; prepare the data again")
        categorical = tuple(c.name for c in wanted if c.kind == "categorical")
        return cls(
            dense=manifest.names("dense"),
            categorical=categorical,
            table_rows=tuple(manifest.rows_of(name) for name in categorical),
            bags=tuple(c.name for c in wanted if c.kind in ("bag", "sequence") and c.weights is None),
            weighted=tuple(c.name for c in wanted if c.kind in ("bag", "sequence") and c.weights is not None),
            label=labels[0],
            weight=row_weights[0] if row_weights else None,
        )


@dataclass(frozen=True)
class Rows:
    """R decoded rows, each contiguous, since whole rows are permuted and joined."""

    floats: Array
    """Dense features, then the label, then the row weight if there is one, float32 [R, N + 1 or 2]."""
    categorical: Array
    """int32 [R, C]."""
    jagged: dict[str, Jagged]

    def __len__(self) -> int:
        return len(self.floats)

    def slice(self, start: int, stop: int) -> "Rows":
        """The rows [start, stop), without copying."""
        jagged = {name: column.slice(start, stop) for name, column in self.jagged.items()}
        return Rows(self.floats[start:stop], self.categorical[start:stop], jagged)


@dataclass(frozen=True)
class Block:
    """Rows as they are stored in a shard."""

    record: pa.RecordBatch
    shard: str
    """Path of the shard, for messages."""
    first_row: int
    """Number in the shard of the first row, from 0."""


def decode(block: Block, layout: Layout, manifest: Manifest) -> Rows:
    """Turns the columns of a layout into rows and checks every id against its table.

    Raises:
        UserError: naming the shard, row, feature and table of an id outside its table, or the column of an empty value.
    """
    categorical = _matrix(block, layout.categorical, np.int32)
    for column in np.flatnonzero(_column_max(categorical.view(np.uint32)) >= layout.table_rows):
        _check(categorical[:, column], None, block, layout.categorical[column], manifest)
    jagged = {name: _jagged(block, name, manifest) for name in layout.bags + layout.weighted}
    return Rows(_matrix(block, layout.floats, np.float32), categorical, jagged)


def join(parts: Sequence[Rows], permutation: Array | None) -> Rows:
    """Concatenates at least one part to R rows; row i of the result is row `permutation[i]`, int64 [R], if given."""
    floats = np.concatenate([part.floats for part in parts])
    categorical = np.concatenate([part.categorical for part in parts])
    columns = {name: Jagged.concatenate([part.jagged[name] for part in parts]) for name in parts[0].jagged}
    if permutation is None:
        return Rows(floats, categorical, columns)
    jagged = {name: column.take(permutation) for name, column in columns.items()}
    # A permutation stays in bounds; mode "clip" avoids the buffer that "raise" goes through.
    floats, categorical = (rows.take(permutation, axis=0, mode="clip") for rows in (floats, categorical))
    return Rows(floats, categorical, jagged)


def _matrix(block: Block, names: tuple[str, ...], dtype: type[np.generic]) -> Array:
    """Columns of one type as rows, [R, names]; raises UserError if a value is empty."""
    if not names:
        return np.empty((block.record.num_rows, 0), dtype)
    columns = block.record.select(names)
    try:
        return columns.to_tensor().to_numpy()
    except pa.ArrowTypeError:
        raise _empty_value(block, next(name for name in names if columns.column(name).null_count)) from None


def _jagged(block: Block, name: str, manifest: Manifest) -> Jagged:
    column, weights = block.record.column(name), manifest.column(name).weights
    if column.null_count:
        raise _empty_value(block, name)
    values, lengths = _numbers(block, name, column.flatten()), np.diff(column.offsets.to_numpy())
    _check(values, lengths, block, name, manifest)
    factors = _numbers(block, weights, block.record.column(weights).flatten()) if weights else None
    return Jagged(values, lengths, factors)


def _numbers(block: Block, name: str, values: pa.Array) -> Array:
    """The numbers of a column, without a copy; raises UserError if a value is empty."""
    try:
        return values.to_numpy()
    except pa.ArrowInvalid:
        raise _empty_value(block, name) from None


def _empty_value(block: Block, name: str) -> UserError:
    row = block.first_row + _first_empty(block.record.column(name))
    return UserError(f"{block.shard}, row {row}: column {name!r} has an empty value; fill it in and prepare again")


def _first_empty(column: pa.Array) -> int:
    if column.null_count:
        return int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
    at = np.flatnonzero(column.flatten().is_null().to_numpy(zero_copy_only=False))[0]
    return int(np.searchsorted(np.cumsum(np.diff(column.offsets.to_numpy())), at, side="right"))


def _column_max(ids: Array) -> Array:
    """The maximum of every column, 16 rows at a time, since one row is too short for vector instructions."""
    groups, columns = len(ids) // 16, ids.shape[1]
    largest = ids[: groups * 16].reshape(groups, 16 * columns).max(0, initial=0).reshape(16, columns).max(0)
    return np.maximum(largest, ids[groups * 16 :].max(0, initial=0))


def _check(ids: Array, lengths: Array | None, block: Block, name: str, manifest: Manifest) -> None:
    rows = manifest.rows_of(name)
    # Read as unsigned numbers, negative ids exceed every table.
    if not len(ids) or ids.view(np.uint32).max() < rows:
        return
    at = int(np.flatnonzero(ids.view(np.uint32) >= rows)[0])
    row = at if lengths is None else int(np.searchsorted(np.cumsum(lengths), at, side="right"))
    raise UserError(
        f"{block.shard}, row {block.first_row + row}: feature {name!r} has id {ids[at]}, outside its table "
        f"{manifest.column(name).table!r} of {rows} rows; prepare the data again or give the table more rows"
    )
