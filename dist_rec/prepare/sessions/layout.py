"""What a row of the shards is: a session, all that a user has, or a window of it.

The m targets of a row belong to the last m places of its history of n: target j follows place n - m + j. In windows
alone, all targets follow the whole history.

Shapes: N events, Q sequences, C of them that have rows, R rows, I rows of the item table.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.schema import Column
from dist_rec.data.shards import lists
from dist_rec.prepare.sessions.events import Ints
from dist_rec.prepare.sessions.options import Options
from dist_rec.prepare.sessions.order import Mask
from dist_rec.prepare.sessions.sequences import Places, Sequences
from dist_rec.prepare.sessions.split import TRAIN

VALUES = 1 << 19
"""Values of lists that are made at once, about."""


def columns(options: Options, users: bool) -> tuple[Column, ...]:
    """The columns of a layout; `users` says whether there are any."""
    label = Column(name="label", kind="label")
    user = (Column(name="user", kind="categorical", table="user"),) if users else ()
    ids = tuple(Column(name=name, kind="sequence", table="item") for name in ("history", "target"))
    seen = (Column(name="seen", kind="bag", table="item"),) if options.merged else ()
    return (label, *user, *ids, *seen)


@dataclass(frozen=True)
class Spans:
    """Neighbouring events for each of R rows."""

    begin_R: Places
    end_R: Places

    def take(self, item_N: Ints, low_R: Places) -> pa.ListArray:
        """The items of each row; places before `low_R` are row 0."""
        length_R = self.end_R - self.begin_R
        place = np.arange(length_R.sum()) + np.repeat(self.begin_R - (length_R.cumsum() - length_R), length_R)
        outside = place < np.repeat(low_R, length_R)
        value = item_N[np.maximum(place, 0)]
        value[outside] = 0
        return lists(value, length_R)


@dataclass(frozen=True)
class Rows:
    """R rows."""

    sequence_R: Places
    history: Spans
    target: Spans
    seen: Spans


@dataclass(frozen=True)
class Layout:
    """The rows of a split."""

    sequences: Sequences
    user_K: Ints | None
    """The row of each user's code."""
    items: int
    """Rows of the item table."""
    options: Options
    part: int
    context: bool
    """Whether the sessions of earlier splits of a user come before, without targets."""

    def choose(self) -> tuple[Places, int]:
        """The sequences that have rows, (C,), and how many have events of the split, but too few for a row."""
        begin_Q = self.sequences.begin_Q
        low_Q, high_Q = self.sequences.span(self.part)
        if self.options.layout == "windows":
            enough_Q = (low_Q > begin_Q) | (self.part == TRAIN)
        else:
            enough_Q = high_Q - begin_Q > 1
        mine_Q = high_Q > low_Q
        chosen_Q = mine_Q & enough_Q
        lost = int((mine_Q & ~enough_Q).sum())
        if self.context and self.part != TRAIN:
            chosen_Q |= self._earlier(chosen_Q)
        return np.flatnonzero(chosen_Q), lost

    def _earlier(self, chosen_Q: Mask) -> Mask:
        """The sessions of earlier splits of those users who have rows."""
        begin_Q, end_Q, user_Q = self.sequences.begin_Q, self.sequences.end_Q, self.sequences.user_Q
        assert user_Q is not None
        shown_K = np.zeros(int(user_Q.max()) + 1, np.bool_)
        shown_K[user_Q[chosen_Q]] = True
        low_Q, _ = self.sequences.span(self.part)
        return shown_K[user_Q] & (low_Q == end_Q) & (end_Q - begin_Q > 1)

    def tables(self, chosen_C: Places) -> Iterator[pa.Table]:
        """The rows of some sequences, a few at a time."""
        _, high_Q = self.sequences.span(self.part)
        weight = self._window if self.options.layout == "windows" else 2
        size_C = (high_Q - self.sequences.begin_Q)[chosen_C] * weight
        group_C = size_C.cumsum() // VALUES
        for of_group in np.split(chosen_C, np.flatnonzero(np.diff(group_C)) + 1):
            if of_group.size:
                yield self._table(self._rows(of_group))

    @property
    def _window(self) -> int:
        return (self.options.length or 0) + (self.options.targets or 0)

    def _rows(self, chosen_C: Places) -> Rows:
        begin_C = self.sequences.begin_Q[chosen_C]
        low_C, high_C = (bound[chosen_C] for bound in self.sequences.span(self.part))
        seen = Spans(begin_C, begin_C if self.part == TRAIN else low_C)
        if self.options.layout == "windows":
            if self.part == TRAIN:
                return self._windows(chosen_C, begin_C, high_C)
            return Rows(chosen_C, Spans(low_C - (self.options.length or 0), low_C), Spans(low_C, high_C), seen)
        cut_C = high_C - 1 - (self.options.length or high_C.max())
        history = Spans(np.maximum(begin_C, cut_C), high_C - 1)
        target = Spans(np.maximum(np.maximum(begin_C, cut_C) + 1, low_C), high_C)
        return Rows(chosen_C, history, target, seen)

    def _windows(self, chosen_C: Places, begin_C: Places, end_C: Places) -> Rows:
        """All windows of each sequence, or one that begins before a short one."""
        windows_C = np.maximum(end_C - begin_C - self._window + 1, 1)
        sequence_R = np.repeat(chosen_C, windows_C)
        last_R = np.repeat(windows_C.cumsum(), windows_C) - 1
        end_R: Places = np.repeat(end_C, windows_C) + np.arange(last_R.size) - last_R
        middle_R = end_R - (self.options.targets or 0)
        return Rows(sequence_R, Spans(end_R - self._window, middle_R), Spans(middle_R, end_R), Spans(end_R, end_R))

    def _table(self, rows: Rows) -> pa.Table:
        item_N, low_R = self.sequences.item_N, self.sequences.begin_Q[rows.sequence_R]
        table: dict[str, NDArray | pa.Array] = {"label": np.zeros(low_R.size, np.float32)}
        if self.user_K is not None and self.sequences.user_Q is not None:
            table["user"] = self.user_K[self.sequences.user_Q[rows.sequence_R]]
        for name, spans in (("history", rows.history), ("target", rows.target)):
            table[name] = spans.take(item_N, low_R)
        if self.options.merged:
            table["seen"] = _distinct(rows.seen.take(item_N, low_R), self.items)
        return pa.table(table)


def _distinct(items_R: pa.ListArray, items: int) -> pa.ListArray:
    """The known items of each row, each once, ascending."""
    length_R = items_R.value_lengths().to_numpy()
    row = np.repeat(np.arange(length_R.size), length_R)
    row, item = np.divmod(np.unique(row * items + items_R.flatten().to_numpy()), items)
    return lists(item[item > 0].astype(np.int32), np.bincount(row[item > 0], minlength=length_R.size))
