"""From Arrow columns to tensors without a Python step per row: gather, check, and lay out as KeyedJaggedTensors.

Shapes: R rows of a piece or window, N dense features, C categorical features, V ids of a jagged feature.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
    bags: tuple[str, ...]
    weighted: tuple[str, ...]
    label: str
    weight: str | None

    @classmethod
    def of(cls, manifest: Manifest, features: Sequence[str] | None = None) -> "Layout":
        """The layout of a data set; `features` limits it to the id columns that a model looks up."""
        wanted = [c for c in manifest.columns if features is None or c.name in features]
        jagged_weights = {column.weights for column in manifest.columns}
        row_weights = [name for name in manifest.names("weight") if name not in jagged_weights]
        labels = manifest.names("label")
        if len(labels) != 1:
            raise UserError(f"the data has {len(labels)} label columns, training needs one")
        return cls(
            dense=manifest.names("dense"),
            categorical=tuple(c.name for c in wanted if c.kind == "categorical"),
            bags=tuple(c.name for c in wanted if c.kind in ("bag", "sequence") and c.weights is None),
            weighted=tuple(c.name for c in wanted if c.kind in ("bag", "sequence") and c.weights is not None),
            label=labels[0],
            weight=row_weights[0] if row_weights else None,
        )


@dataclass(frozen=True)
class Rows:
    """R decoded rows."""

    floats: Array
    """Dense features, then the label, then the row weight if there is one, float32 [N + 1 or 2, R]."""
    categorical: Array
    """int32 [C, R]."""
    jagged: dict[str, Jagged]

    def __len__(self) -> int:
        return self.floats.shape[1]


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

    A column is joined in a small buffer that stays in the processor's cache, and from there dealt to its new order.

    Args:
        pieces: R rows in all.
        permutation: the place among the pieces' rows of each row, int64 [R]; None keeps them as they are.
        layout: the columns to take.
        manifest: for the sizes of the tables and the columns of jagged weights.

    Raises:
        UserError: naming the shard, row, feature and table of an id outside its table, or the column of an empty value.
    """
    size = sum(piece.record.num_rows for piece in pieces)
    names = (*layout.dense, layout.label, *([layout.weight] if layout.weight else []))
    floats = np.empty((len(names), size if permutation is None else len(permutation)), np.float32)
    categorical = np.empty((len(layout.categorical), floats.shape[1]), np.int32)
    for name, row in zip(names, floats, strict=True):
        _deal(_join([_values(piece, name) for piece in pieces]), permutation, row)
    for name, row in zip(layout.categorical, categorical, strict=True):
        ids = _join([_values(piece, name) for piece in pieces])
        _check(ids, None, manifest, name, pieces)
        _deal(ids, permutation, row)
    jagged = {}
    for name in layout.bags + layout.weighted:
        column = Jagged.concatenate([_jagged(piece, manifest, name) for piece in pieces])
        _check(column.values, column.lengths, manifest, name, pieces)
        jagged[name] = column if permutation is None else column.take(permutation)
    return Rows(floats, categorical, jagged)


def _values(piece: Piece, name: str) -> Array:
    """The numbers of a column."""
    return _numbers(piece, name, piece.record.column(name))


def _numbers(piece: Piece, name: str, values: pa.Array) -> Array:
    """Numbers of a column, without a copy; raises UserError if one is empty."""
    try:
        return values.to_numpy()
    except pa.ArrowInvalid:
        row = piece.first_row + _first_empty(piece.record.column(name))
        raise UserError(
            f"{piece.shard}, row {row}: column {name!r} has an empty value; fill it in and prepare again"
        ) from None


def _first_empty(column: pa.Array) -> int:
    if column.null_count:
        return int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
    at = np.flatnonzero(column.flatten().is_null().to_numpy(zero_copy_only=False))[0]
    return int(np.searchsorted(np.cumsum(np.diff(column.offsets.to_numpy())), at, side="right"))


def _join(columns: list[Array]) -> Array:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _deal(column: Array, permutation: Array | None, out: Array) -> None:
    if permutation is None:
        out[:] = column
    else:
        # "clip" only because "raise" would go through a buffer: a permutation has no place outside.
        np.take(column, permutation, out=out, mode="clip")


def _jagged(piece: Piece, manifest: Manifest, name: str) -> Jagged:
    column, weights = piece.record.column(name), manifest.column(name).weights
    if column.null_count:
        _numbers(piece, name, column)
    lengths = np.diff(column.offsets.to_numpy())
    factors = _numbers(piece, weights, piece.record.column(weights).flatten()) if weights else None
    return Jagged(_numbers(piece, name, column.flatten()), lengths, factors)


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


@dataclass(frozen=True)
class Slice:
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
    size = sum(part.stop - part.start for part in slices)
    num_floats = len(layout.dense) + 1 + (layout.weight is not None)
    floats = np.empty((num_floats, size), np.float32)
    ids = np.empty((len(layout.categorical), size), np.int64)
    at = 0
    for part in slices:
        end = at + part.stop - part.start
        floats[:, at:end] = part.rows.floats[:, part.start : part.stop]
        ids[:, at:end] = part.rows.categorical[:, part.start : part.stop]
        at = end
    numbers = torch.from_numpy(floats)
    num_dense = len(layout.dense)
    return Batch(
        dense=numbers[:num_dense].t().contiguous(),
        ids=_keyed(slices, layout.categorical, ids, layout.bags, padded, weighted=False),
        weighted_ids=_keyed(slices, (), ids[:0], layout.weighted, padded, weighted=True),
        labels=numbers[num_dense],
        weights=numbers[-1] if layout.weight else torch.ones(size),
        scale=torch.tensor(scale),
    )


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
