"""Joins slices of rows into a batch of tensors, without a Python step per row."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.core.batch import Batch
from dist_rec.data.columns import Array, Layout, Rows


class Slice(NamedTuple):
    """The rows [start, stop) of a window."""

    rows: Rows
    start: int
    stop: int


def collate(slices: Sequence[Slice], layout: Layout, padded: int, scale: float, step: int = 0) -> Batch:
    """Joins slices into a batch of B rows, its id features `padded` to P rows; no slices give an empty batch."""
    num_dense = len(layout.dense)
    # Few calls, each on the whole batch: a call releases the interpreter's lock and then waits to get it back.
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
        step=step,
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
    lengths = _one_each(len(categorical), ids.shape[1], padded)
    if jagged:
        lengths = np.concatenate([lengths, np.zeros((len(jagged), padded), np.int32)])
    values: list[Array] = [ids.reshape(-1)]
    weights: list[Array] = []
    for name, row in zip(jagged, lengths[len(categorical) :], strict=True):
        at = 0
        for part in slices:
            piece = part.rows.jagged[name].slice(part.start, part.stop)
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


@lru_cache(4)
def _one_each(features: int, rows: int, padded: int) -> Array:
    """Lengths of categorical features, int32 [features, padded]; shared by batches, so never written to."""
    lengths = np.zeros((features, padded), np.int32)
    lengths[:, :rows] = 1
    return lengths


def _tensor(parts: list[Array], dtype: type[np.generic]) -> Tensor:
    if len(parts) == 1:
        return torch.from_numpy(parts[0].astype(dtype, copy=False))
    return torch.from_numpy(np.concatenate(parts, dtype=dtype) if parts else np.empty(0, dtype))
