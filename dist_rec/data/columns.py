"""From Arrow columns to tensors without a Python step per row: gather, check, and lay out as KeyedJaggedTensors.

Shapes: R rows of a piece or window, N dense features, C categorical features, V ids of a jagged feature.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest

Array = NDArray[Any]


@dataclass(frozen=True)
class Jagged:
    """A bag or sequence column: `lengths` ids for each of R rows, end to end in `values` (and `weights`)."""

    values: Array
    lengths: Array
    weights: Array | None

    def take(self, rows: Array) -> "Jagged":
        """The rows in that order."""
        starts = (np.cumsum(self.lengths) - self.lengths)[rows]
        lengths = self.lengths[rows]
        ends = np.cumsum(lengths)
        index = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
        return Jagged(self.values[index], lengths, None if self.weights is None else self.weights[index])

    def slices(self) -> Callable[[int, int], "Jagged"]:
        """A function (first row, past-the-last row) → those rows, without copying."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])

        def rows(start: int, stop: int) -> Jagged:
            ids = slice(ends[start], ends[stop])
            return Jagged(
                self.values[ids], self.lengths[start:stop], None if self.weights is None else self.weights[ids]
            )

        return rows

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
    """Which columns of the shards a model reads, in the order in which it sees them."""

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
        """The columns of numbers, in the order of `Rows.floats`."""
        return (*self.dense, self.label, *([self.weight] if self.weight else []))

    @classmethod
    def of(cls, manifest: Manifest, features: Sequence[str] | None = None) -> "Layout":
        """The layout of a data set; `features` limits it to the id columns that a model looks up."""
        wanted = [c for c in manifest.columns if features is None or c.name in features]
        jagged_weights = {column.weights for column in manifest.columns}
        row_weights = [name for name in manifest.names("weight") if name not in jagged_weights]
        labels = manifest.names("label")
        if len(labels) != 1:
            raise UserError(f"the data has {len(labels)} label columns, training needs one")
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
    """R decoded rows, each contiguous: they are dealt and joined by whole rows."""

    floats: Array
    """Dense features, then the label, then the row weight if there is one, float32 [R, N + 1 or 2]."""
    categorical: Array
    """int32 [R, C]."""
    jagged: dict[str, Jagged]

    def __len__(self) -> int:
        return len(self.floats)


@dataclass(frozen=True)
class Piece:
    """A run of rows of a shard."""

    record: pa.RecordBatch
    shard: str
    """Path of the shard, for messages."""
    first_row: int
    """The row of the shard at which `record` begins."""


def gather(pieces: Sequence[Piece], permutation: Array | None, layout: Layout, manifest: Manifest) -> Rows:
    """Joins pieces, puts their rows in order and checks every id against its table.

    Args:
        pieces: R rows in all.
        permutation: the place among the pieces' rows of each row, int64 [R]; None keeps them as they are.
        layout: the columns to take.
        manifest: for the sizes of the tables and the columns of jagged weights.

    Raises:
        UserError: naming the shard, row, feature and table of an id outside its table, or the column of an empty value.
    """
    floats = np.concatenate([_matrix(piece, layout.floats, np.float32) for piece in pieces])
    categorical = np.concatenate([_matrix(piece, layout.categorical, np.int32) for piece in pieces])
    _check_columns(categorical, layout, manifest, pieces)
    jagged = {}
    for name in layout.bags + layout.weighted:
        column = Jagged.concatenate([_jagged(piece, manifest, name) for piece in pieces])
        _check(column.values, column.lengths, manifest, name, pieces)
        jagged[name] = column if permutation is None else column.take(permutation)
    return Rows(_deal(floats, permutation), _deal(categorical, permutation), jagged)


def _matrix(piece: Piece, names: tuple[str, ...], dtype: type[np.generic]) -> Array:
    """Columns of one type, turned into rows, [R, names]; raises UserError if a value is empty."""
    if not names:
        return np.empty((piece.record.num_rows, 0), dtype)
    columns = piece.record.select(names)
    try:
        return columns.to_tensor().to_numpy()
    except pa.ArrowTypeError:
        raise _empty_value(piece, next(name for name in names if columns.column(name).null_count)) from None


def _numbers(piece: Piece, name: str, values: pa.Array) -> Array:
    """Numbers of a column, without a copy; raises UserError if one is empty."""
    try:
        return values.to_numpy()
    except pa.ArrowInvalid:
        raise _empty_value(piece, name) from None


def _empty_value(piece: Piece, name: str) -> UserError:
    row = piece.first_row + _first_empty(piece.record.column(name))
    return UserError(f"{piece.shard}, row {row}: column {name!r} has an empty value; fill it in and prepare again")


def _first_empty(column: pa.Array) -> int:
    if column.null_count:
        return int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
    at = np.flatnonzero(column.flatten().is_null().to_numpy(zero_copy_only=False))[0]
    return int(np.searchsorted(np.cumsum(np.diff(column.offsets.to_numpy())), at, side="right"))


def _deal(rows: Array, permutation: Array | None) -> Array:
    # "clip" only because "raise" would go through a buffer: a permutation has no place outside.
    return rows if permutation is None else np.take(rows, permutation, axis=0, mode="clip")


def _jagged(piece: Piece, manifest: Manifest, name: str) -> Jagged:
    column, weights = piece.record.column(name), manifest.column(name).weights
    if column.null_count:
        _numbers(piece, name, column)
    lengths = np.diff(column.offsets.to_numpy())
    factors = _numbers(piece, weights, piece.record.column(weights).flatten()) if weights else None
    return Jagged(_numbers(piece, name, column.flatten()), lengths, factors)


def _check_columns(ids: Array, layout: Layout, manifest: Manifest, pieces: Sequence[Piece]) -> None:
    """Checks the categorical ids, int32 [R, C]."""
    for column in np.flatnonzero(_column_max(ids.view(np.uint32)) >= layout.table_rows):
        _check(ids[:, column], None, manifest, layout.categorical[column], pieces)


def _column_max(ids: Array) -> Array:
    """The largest of every column, 16 rows at a time: one row is short for the processor's vector units."""
    groups, columns = len(ids) // 16, ids.shape[1]
    largest = ids[: groups * 16].reshape(groups, 16 * columns).max(0, initial=0).reshape(16, columns).max(0)
    return np.maximum(largest, ids[groups * 16 :].max(0, initial=0))


def _check(ids: Array, lengths: Array | None, manifest: Manifest, name: str, pieces: Sequence[Piece]) -> None:
    rows = manifest.rows_of(name)
    # As unsigned numbers, negative ids are large ones.
    if not len(ids) or ids.view(np.uint32).max() < rows:
        return
    at = int(np.flatnonzero(ids.view(np.uint32) >= rows)[0])
    row = at if lengths is None else int(np.searchsorted(np.cumsum(lengths), at, side="right"))
    for piece in pieces:
        if row < piece.record.num_rows:
            break
        row -= piece.record.num_rows
    raise UserError(
        f"{piece.shard}, row {piece.first_row + row}: feature {name!r} has id {ids[at]}, outside its table "
        f"{manifest.column(name).table!r} of {rows} rows; prepare the data again or give the table more rows"
    )


class Slice(NamedTuple):
    """A run of rows of a window."""

    rows: Rows
    jagged: dict[str, Callable[[int, int], Jagged]]
    start: int
    stop: int


def collate(slices: Sequence[Slice], layout: Layout, padded: int, scale: float) -> Batch:
    """Joins slices into a batch of B rows; an empty list gives an empty batch.

    Args:
        slices: where the rows are.
        layout: the columns, in order.
        padded: rows of the id features, P (see `Batch.ids`).
        scale: see `Batch.scale`.
    """
    num_dense = len(layout.dense)
    # Few calls on whole batches: each gives way to the thread that reads, and then waits for it.
    floats = _joined([part.rows.floats[part.start : part.stop] for part in slices], len(layout.floats), np.float32)
    rows = _joined(
        [part.rows.categorical[part.start : part.stop] for part in slices], len(layout.categorical), np.int32
    )
    ids = rows.T.astype(np.int64, order="C")
    labels, *weights = torch.from_numpy(np.ascontiguousarray(floats[:, num_dense:].T))
    return Batch(
        dense=torch.from_numpy(np.ascontiguousarray(floats[:, :num_dense])),
        ids=_keyed(slices, layout.categorical, ids, layout.bags, padded, weighted=False),
        weighted_ids=_keyed(slices, (), ids[:0], layout.weighted, padded, weighted=True),
        labels=labels,
        weights=weights[0] if weights else torch.ones(len(floats)),
        scale=torch.tensor(scale),
    )


def _joined(parts: list[Array], columns: int, dtype: type[np.generic]) -> Array:
    return np.concatenate(parts) if parts else np.empty((0, columns), dtype)


def _keyed(
    slices: Sequence[Slice],
    categorical: tuple[str, ...],
    ids: Array,
    jagged: tuple[str, ...],
    padded: int,
    weighted: bool,
) -> KeyedJaggedTensor:
    lengths = np.zeros((len(categorical) + len(jagged), padded), np.int32)
    lengths[: len(categorical), : ids.shape[1]] = 1
    values: list[Array] = [ids.reshape(-1)]
    weights: list[Array] = []
    for name, row in zip(jagged, lengths[len(categorical) :], strict=True):
        at = 0
        for part in slices:
            piece = part.jagged[name](part.start, part.stop)
            row[at : at + len(piece.lengths)] = piece.lengths
            at += len(piece.lengths)
            values.append(piece.values)
            if piece.weights is not None:
                weights.append(piece.weights)
    return KeyedJaggedTensor(
        keys=[*categorical, *jagged],
        values=_tensor(values, np.int64),
        lengths=torch.from_numpy(lengths.reshape(-1)),
        weights=_tensor(weights, np.float32) if weighted else None,
        stride=padded,
    )


def _tensor(parts: list[Array], dtype: type[np.generic]) -> Tensor:
    if len(parts) == 1:
        return torch.from_numpy(parts[0].astype(dtype, copy=False))
    return torch.from_numpy(np.concatenate(parts, dtype=dtype) if parts else np.empty(0, dtype))
