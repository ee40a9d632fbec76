"""Negative sampling: for each positive (user, item) some items that the user has not seen, by a seed.

Implicit feedback has only positives; the items to contrast them with are drawn (He et al. 2017, section 3.1). A draw
is a pure function of (seed, step, user, item): it needs no state, and does not depend on how a batch is dealt.

Shapes: B positives, N negatives of each, S seen pairs, I items with row 0, U users, D draws.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.core.splitmix import U64, stream, words
from dist_rec.data.seen import seen_pairs
from dist_rec.data.shards import Dataset

ATTEMPTS = 64
"""Rejected proposals after which an item is drawn from the unseen ones directly, in O(I) time."""
Ints = NDArray[Any]


class Negatives:
    """Draws items that a user has not seen; row 0 of the item table, which is not an item, is never drawn.

    Args:
        seen_S: sorted distinct pairs `user * items + item`, int64; may be mapped from a file.
        users: rows of the user table.
        items: rows of the item table.
        seed: seed of all draws.
        by: uniformly, or in proportion to a power of the popularity, the number of users who have seen an item.
        alpha: that power: 1 for the popularity itself; Mikolov et al. 2013 take 0.75 for words.
        name: (row of a user) → name in messages.
        popularity_I: number of users who have seen each item; None counts them in `seen_S`.
    """

    def __init__(
        self,
        seen_S: NDArray[np.int64],
        users: int,
        items: int,
        seed: int,
        by: Literal["uniform", "popularity"] = "uniform",
        alpha: float = 1.0,
        name: Callable[[int], str] = str,
        popularity_I: Ints | None = None,
    ) -> None:
        self._items, self._seed, self._name = items, seed, name
        # A lookup needs at least one pair; -1 matches none.
        self._seen_S = np.asarray(seen_S) if seen_S.size else np.array([-1])
        self._free_U = items - 1 - np.diff(np.searchsorted(seen_S, np.arange(users + 1) * items))
        self._log_weight_I = np.zeros(items)
        self._cumulative_I: NDArray[np.float64] | None = None
        if by == "popularity":
            # An item that no user has seen counts as seen once, so that every user has an item to draw.
            count_I = np.bincount(seen_S % items, minlength=items) if popularity_I is None else popularity_I
            self._log_weight_I = alpha * np.log(np.maximum(count_I, 1))
            self._cumulative_I = _cumulative(self._log_weight_I[1:])

    @classmethod
    def of(
        cls, dataset: Dataset, seed: int, by: Literal["uniform", "popularity"] = "uniform", alpha: float = 1.0
    ) -> "Negatives":
        """For a prepared folder with users on a local disk; its pairs are verified, then mapped into memory.

        Raises:
            UserError: if the folder has no seen pairs, they are damaged, or a user has seen all items.
        """
        tables = dataset.manifest.tables
        users, items = tables["user"].rows, tables["item"].rows
        negatives = cls(seen_pairs(dataset), users, items, seed, by, alpha, lambda user: _raw_user(dataset, user))
        negatives._check(np.arange(users), 1)
        return negatives

    def draw(self, step: int, user_B: Ints, item_B: Ints, num: int, distinct: bool = False) -> NDArray[np.int32]:
        """Negatives of a batch, int32 [B, N].

        Args:
            step: the global step; other steps give other draws.
            user_B: row of the user of each positive.
            item_B: row of the item of each positive.
            num: negatives of each positive, N; the first n < N do not depend on N, unless `distinct`.
            distinct: the negatives of a positive are distinct.

        Raises:
            UserError: naming a user with too few unseen items.
        """
        self._check(user_B, num if distinct else 1)
        # Sorted by user, so that consecutive searches end in the same part of the seen pairs.
        order_B = np.argsort(user_B, kind="stable")
        user_B, base_B = user_B[order_B], stream(self._seed, step, user_B, item_B)[order_B]
        drawn_BN = np.empty((user_B.size, num), np.int32)
        flat, pending = drawn_BN.reshape(-1), np.arange(drawn_BN.size)
        for attempt in range(ATTEMPTS):
            row, place = np.divmod(pending, num)
            flat[pending] = self._propose(words(base_B[row], place + (attempt << 32)))
            pending = pending[self._seen(user_B[row], flat[pending])]
            if distinct:
                pending = np.union1d(pending, np.flatnonzero(repeats(drawn_BN)))
            if not pending.size:
                break
        for row, place in zip(*np.divmod(pending, num), strict=True):
            word_D = words(base_B[row : row + 1], np.array([place + (ATTEMPTS << 32)]))
            taken = drawn_BN[row] if distinct else drawn_BN[row, :0]
            drawn_BN[row, place : place + 1] = self._among_free(user_B[row], taken, word_D)
        result_BN = np.empty_like(drawn_BN)
        result_BN[order_B] = drawn_BN
        return result_BN

    def _check(self, user_B: Ints, needed: int) -> None:
        short = np.flatnonzero(self._free_U[user_B] < needed)
        if short.size:
            user = int(user_B[short[0]])
            raise UserError(
                f"user {self._name(user)} has seen all but {self._free_U[user]} of {self._items - 1} items, but "
                f"{needed} negatives are to be drawn; draw fewer, or leave out users with so many ratings"
            )

    def _propose(self, word_D: NDArray[np.uint64]) -> NDArray[np.int64]:
        """An item for each of D words."""
        if self._cumulative_I is not None:
            return 1 + np.searchsorted(self._cumulative_I, _fractions(word_D), side="right")
        # Multiply and shift, on the upper half of a word (Lemire 2019).
        return 1 + ((word_D >> U64(32)) * U64(self._items - 1) >> U64(32)).astype(np.int64)

    def _among_free(self, user: int, taken: Ints, word_D: NDArray[np.uint64]) -> NDArray[np.int64]:
        """An item for each word, of those neither seen nor taken, with the same weights."""
        log_weight_I, first = self._log_weight_I.copy(), int(user) * self._items
        low, high = np.searchsorted(self._seen_S, (first, first + self._items))
        for excluded in ([0], self._seen_S[low:high] - first, taken):
            log_weight_I[excluded] = -np.inf
        return np.searchsorted(_cumulative(log_weight_I), _fractions(word_D), side="right")

    def _seen(self, user_D: Ints, item_D: NDArray[np.int32]) -> NDArray[np.bool_]:
        pair_D = user_D.astype(np.int64) * self._items + item_D
        place_D = np.searchsorted(self._seen_S, pair_D)
        return self._seen_S.take(place_D, mode="clip") == pair_D


def _cumulative(log_weight_I: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cumulative probability of each item; the last is exactly 1, so larger than any fraction."""
    cumulative_I = np.exp(log_weight_I - log_weight_I.max()).cumsum()
    return cumulative_I / cumulative_I[-1]


def _fractions(word_D: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Maps words to numbers in [0, 1)."""
    return (word_D >> U64(11)).astype(np.float64) * 2.0**-53


def _raw_user(dataset: Dataset, user: int) -> str:
    """The user's id in the rating files; row 0 stands for all users that training never saw."""
    ids = Path(dataset.path, "vocabulary", "user.txt").read_text(encoding="utf-8").split("\n")
    return ids[user - 1] if user else "(unknown)"


def repeats(drawn_BN: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Places that repeat an earlier item of their row, [B, N]."""
    order_BN = np.argsort(drawn_BN, axis=1, kind="stable")
    sorted_BN = np.take_along_axis(drawn_BN, order_BN, axis=1)
    repeat_BN = np.zeros(drawn_BN.shape, np.bool_)
    np.put_along_axis(repeat_BN, order_BN[:, 1:], sorted_BN[:, 1:] == sorted_BN[:, :-1], axis=1)
    return repeat_BN
