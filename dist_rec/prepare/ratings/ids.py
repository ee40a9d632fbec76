"""Rows of users and items in their tables: by descending count in training, ties by first appearance; row 0: unknown.

Shapes: N ratings, K codes, S pairs.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.core.spans import spans
from dist_rec.data.shards import checksum
from dist_rec.prepare.ratings.codes import Mask, count, gather
from dist_rec.prepare.ratings.lines import Ratings
from dist_rec.prepare.ratings.split import TRAIN, Parts

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Encoded:
    """Ratings with the rows of their users and items."""

    ratings: Ratings
    parts: Parts
    label_N: NDArray[np.float32]
    """The rating, or 1 for implicit feedback."""
    user_K: Ids
    """The row of each user's code."""
    item_K: Ids

    @classmethod
    def of(cls, ratings: Ratings, parts: Parts, implicit: bool) -> "Encoded":
        """Assigns rows to users and items; raises UserError if no rating is left for training."""
        train_N = parts.targets(TRAIN)
        if not train_N.any():
            raise UserError("no rating is left for training; lower --test-share, or give more ratings")
        one_N = np.broadcast_to(np.float32(1), len(ratings))
        return cls(
            ratings,
            parts,
            one_N if implicit else ratings.rating_N,
            number(count(ratings.user_N, train_N, len(ratings.users))),
            number(count(ratings.item_N, train_N, len(ratings.items))),
        )

    @property
    def users(self) -> int:
        """Rows of the user table."""
        return int(self.user_K.max()) + 1

    @property
    def items(self) -> int:
        """Rows of the item table."""
        return int(self.item_K.max()) + 1

    def pairs(self, among_N: Mask, user_K: NDArray[np.integer]) -> NDArray[np.int64]:
        """The sorted pairs `user * items + item` of some ratings, without unknown items, int64 [S].

        Args:
            among_N: the ratings.
            user_K: the number of the user of each code.
        """
        ratings, items = self.ratings, self.items
        index = np.flatnonzero(among_N & gather(self.item_K > 0, ratings.item_N))
        pair_S = np.empty(index.size, np.int64)
        for span in spans(index.size):
            place = index[span]
            user = user_K[ratings.user_N[place]].astype(np.int64)
            pair_S[span] = user * items + self.item_K[ratings.item_N[place]]
        pair_S.sort()
        return pair_S


def number(count_K: NDArray[np.int64]) -> Ids:
    """The row of each of K codes: from 1 by descending count, ties by ascending code; 0 for codes that do not occur."""
    row_K = np.empty(count_K.size, np.int32)
    row_K[np.argsort(-count_K, kind="stable")] = np.arange(1, count_K.size + 1)
    row_K[count_K == 0] = 0
    return row_K


def save_vocabulary(path: Path, row_K: Ids, raw_K: pa.StringArray) -> str:
    """Writes the raw id of row k to line k, counted from 1, and returns the checksum of the file."""
    path.parent.mkdir(exist_ok=True)
    codes = np.argsort(row_K, kind="stable")[np.count_nonzero(row_K == 0) :]
    with path.open("w", encoding="utf-8") as file:
        for span in spans(codes.size):
            file.writelines(f"{raw}\n" for raw in raw_K.take(pa.array(codes[span])).to_pylist())
    return checksum(path)
