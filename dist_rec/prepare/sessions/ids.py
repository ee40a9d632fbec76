"""Items and users as rows of tables: by descending count in training, ties by first appearance, row 0 for the unknown.

Shapes: N events, Q sequences, K codes, I rows of the item table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.prepare.sessions.events import Ints
from dist_rec.prepare.sessions.sequences import Sequences

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """Sequences whose items are rows of a table."""

    sequences: Sequences
    item_K: Ints
    """The row of each item's code."""
    user_K: Ints | None
    """The row of each user's code."""
    items: pa.Array
    """The id of each item's code."""
    users: pa.Array | None
    counts_I: Counts
    """Training events of each item; 0 for row 0."""
    first_unknown: str | None
    """The first item of validation or test that training never saw, by the id in the files."""
    emptied: tuple[int, ...]
    """Sequences of each split of which no event is left, because training never saw their items."""


def encode(
    sequences: Sequences,
    items: pa.Array,
    users: pa.Array | None,
    unknown: Literal["miss", "drop"],
    warn: Callable[[str], None],
) -> Encoded:
    """Numbers items and users.

    Args:
        sequences: of codes.
        items: the id of each code.
        users: likewise.
        unknown: whether events of items that training never saw stay, as row 0, or are left out.
        warn: is called for what is left out.

    Raises:
        UserError: if no event is for training.
    """
    code_N = sequences.item_N
    count_K = np.bincount(code_N[sequences.is_training()], minlength=len(items))
    if not count_K.any():
        raise UserError("no event is left for training; leave less for the test, or give more sessions")
    item_K, counts_I = number(count_K), np.sort(count_K[count_K > 0])[::-1]
    user_K = None
    if users is not None and sequences.user_Q is not None:
        trained_Q = sequences.train_Q - sequences.begin_Q
        user_K = number(np.bincount(sequences.user_Q, trained_Q, minlength=len(users)))
    sequences = sequences.numbered(item_K)
    unknown_N = sequences.item_N == 0
    first = items[int(code_N[unknown_N.argmax()])].as_py() if unknown_N.any() else None
    before = sequences.filled()
    if first is not None and unknown == "drop":
        sequences = sequences.where(~unknown_N)
        warn(f"{int(unknown_N.sum())} events of items that training never saw are left out, first item {first}")
    emptied = tuple(was - now for was, now in zip(before, sequences.filled(), strict=True))
    return Encoded(sequences, item_K, user_K, items, users, np.concatenate(([0], counts_I)), first, emptied)


def number(count_K: NDArray[np.number]) -> Ints:
    """The row of each of K codes: from 1 by descending count, ties by ascending code; 0 if it does not occur."""
    row_K = np.empty(count_K.size, np.int32)
    row_K[np.argsort(-count_K, kind="stable")] = np.arange(1, count_K.size + 1)
    row_K[count_K == 0] = 0
    return row_K
