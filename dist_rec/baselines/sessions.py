"""Sessions out of folders of `dist-rec prepare sessions`: what baselines are fit to, and the queries they answer.

A row has a history of n items and m targets, which belong to its last m places: what comes next. In windows all targets
follow the whole history instead.

Shapes: E events of sessions end to end, S sessions, V queries, one for each target, I rows of the item table, X of a
matrix' numbers that are not 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest
from dist_rec.data.loader import Loader, LoaderConfig
from dist_rec.data.shards import Dataset

HISTORY, TARGET, ITEM = "history", "target", "item"
ROWS = 4096
"""Of the data that are read at a time."""
Ints = NDArray[np.int64]


def has_sessions(manifest: Manifest) -> bool:
    """Whether rows are items in their order and what comes next."""
    sequences = manifest.names("sequence")
    return all(name in sequences and manifest.column(name).table == ITEM for name in (HISTORY, TARGET))


def has_windows(manifest: Manifest) -> bool:
    """Whether rows are windows, which overlap in training."""
    return manifest.transform.get("options", {}).get("layout") == "windows"


def rows_of(dataset: Dataset, split: str, features: tuple[str, ...]) -> Iterator[Batch]:
    """The rows of a split, some at a time."""
    loader = Loader(dataset, split, LoaderConfig(path=dataset.path), batch=ROWS, features=features, shuffle=False)
    return loader.batches(0, loader.steps_per_epoch)


@dataclass(frozen=True)
class Sessions:
    """Whole sessions."""

    item_E: Ints
    length_S: Ints
    items: int
    """Rows of the item table, I."""

    @classmethod
    def of_training(cls, dataset: Dataset) -> "Sessions":
        """The training split; raises UserError for windows."""
        if has_windows(dataset.manifest):
            raise UserError(
                f"{dataset.path} has windows of sessions, which overlap; prepare it with --layout sessions or users"
            )
        item_E, length_S = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for batch in rows_of(dataset, "train", (HISTORY, TARGET)):
            history, target = batch.column(HISTORY), batch.column(TARGET)
            lengths, ends = history.lengths.numpy().astype(np.int64), np.cumsum(target.lengths.numpy())
            followed = np.flatnonzero(target.lengths.numpy())
            item_E.append(
                np.insert(history.values.numpy(), lengths.cumsum()[followed], target.values.numpy()[ends[followed] - 1])
            )
            lengths[followed] += 1
            length_S.append(lengths)
        return cls(np.concatenate(item_E), np.concatenate(length_S), dataset.manifest.tables[ITEM].rows)

    def matrix(self) -> csr_array:
        """How often a session has an item, [S, I], without row 0, which is no item."""
        session_E = np.repeat(np.arange(len(self.length_S)), self.length_S)
        return _counts(session_E, self.item_E, (len(self.length_S), self.items))

    def transitions(self) -> csr_array:
        """How often one item follows another, [I, I], without row 0."""
        ends_E = np.zeros(len(self.item_E), np.bool_)
        ends_E[self.length_S.cumsum()[self.length_S > 0] - 1] = True
        (from_T,) = np.nonzero(~ends_E)
        from_T = from_T[self.item_E[from_T] > 0]
        return _counts(self.item_E[from_T], self.item_E[from_T + 1], (self.items, self.items))


@dataclass(frozen=True)
class Queries:
    """Sessions up to some event, and what comes next."""

    item_E: Ints
    """The items of rows, end to end."""
    start_V: Ints
    """Where among them the session of each query begins."""
    end_V: Ints
    """And where it ends, up to the query."""
    target_V: Ints
    row_V: Ints
    """The row of the batch."""

    @classmethod
    def of(cls, batch: Batch, windows: bool) -> "Queries":
        """One for each target of a batch; raises UserError for targets that no event comes before."""
        history, target = batch.column(HISTORY), batch.column(TARGET)
        row_V = np.repeat(np.arange(batch.rows), target.lengths.numpy())
        length_B, targets_B = (ids.lengths.numpy().astype(np.int64) for ids in (history, target))
        end_B = length_B.cumsum()
        end_V = end_B[row_V]
        if not windows:
            if (targets_B > length_B).any():
                raise UserError(f"a row has {TARGET!r} of more ids than {HISTORY!r}; each follows an event")
            end_V = end_V - targets_B.cumsum()[row_V] + np.arange(1, len(row_V) + 1)
        return cls(history.values.numpy(), (end_B - length_B)[row_V], end_V, target.values.numpy(), row_V)

    def __len__(self) -> int:
        return len(self.row_V)

    def slice(self, start: int, stop: int) -> "Queries":
        """Some of them."""
        of = slice(start, stop)
        return Queries(self.item_E, self.start_V[of], self.end_V[of], self.target_V[of], self.row_V[of])

    def last(self) -> Ints:
        """The item before each target, [V]; 0 where there is none."""
        return np.where(self.end_V > self.start_V, self.item_E[self.end_V - 1] if len(self.item_E) else 0, 0)

    def matrix(self, items: int) -> csr_array:
        """How often an item was in the session so far, [V, I], without row 0."""
        length_V = self.end_V - self.start_V
        shift_V = self.start_V - (length_V.cumsum() - length_V)
        query_E = np.repeat(np.arange(len(self)), length_V)
        return _counts(query_E, self.item_E[np.arange(len(query_E)) + shift_V[query_E]], (len(self), items))

    def blocks(self, size: int, items: int) -> Iterator["Queries"]:
        """Neighbouring queries whose scores, or the events before them, are not many more than a number."""
        cost_V = np.maximum(self.end_V - self.start_V, items)
        borders = np.flatnonzero(np.diff(cost_V.cumsum() // size)) + 1
        for start, stop in zip([0, *borders.tolist()], [*borders.tolist(), len(self)], strict=True):
            yield self.slice(start, stop)


def _counts(row_E: Ints, item_E: Ints, shape: tuple[int, int]) -> csr_array:
    """How often each pair comes; those of row 0 of the items are left out."""
    known_E = item_E > 0
    pairs = np.ones(int(known_E.sum()), np.float64), (row_E[known_E], item_E[known_E])
    return csr_array(pairs, shape=shape)
