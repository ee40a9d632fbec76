"""Rows of users and items in their tables: by descending count in training, ties by first appearance; row 0: unknown.

Shapes: N ratings, K codes, S pairs.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.data.seen import sorted_pairs
from dist_rec.data.shards import checksum
from dist_rec.prepare.ratings.lines import Ratings
from dist_rec.prepare.ratings.split import TRAIN, Mask, Parts

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
        return cls(
            ratings,
            parts,
            np.ones(len(ratings), np.float32) if implicit else ratings.rating_N,
            number(ratings.user_N[train_N], len(ratings.users)),
            number(ratings.item_N[train_N], len(ratings.items)),
        )

    @cached_property
    def user_N(self) -> Ids:
        """The row of each rating's user."""
        return self.user_K[self.ratings.user_N]

    @cached_property
    def item_N(self) -> Ids:
        """The row of each rating's item."""
        return self.item_K[self.ratings.item_N]

    @property
    def users(self) -> int:
        """Rows of the user table."""
        return int(self.user_K.max()) + 1

    @property
    def items(self) -> int:
        """Rows of the item table."""
        return int(self.item_K.max()) + 1

    def pairs(self, among_N: Mask) -> NDArray[np.int64]:
        """The sorted pairs `user * items + item` of some ratings, without unknown items, int64 [S]."""
        return sorted_pairs(self.user_N[among_N], self.item_N[among_N], self.items)


def number(code_N: Ids, codes: int) -> Ids:
    """The row of each of K codes: from 1 by descending count, ties by ascending code; 0 for codes that do not occur."""
    count_K = np.bincount(code_N, minlength=codes)
    row_K = np.empty(codes, np.int32)
    row_K[np.argsort(-count_K, kind="stable")] = np.arange(1, codes + 1)
    row_K[count_K == 0] = 0
    return row_K


def save_vocabulary(path: Path, row_K: Ids, raw_K: pa.StringArray) -> str:
    """Writes the raw id of row k to line k, counted from 1, and returns the checksum of the file."""
    path.parent.mkdir(exist_ok=True)
    codes = np.argsort(row_K, kind="stable")[np.count_nonzero(row_K == 0) :]
    path.write_text("".join(f"{raw}\n" for raw in raw_K.take(pa.array(codes)).to_pylist()), encoding="utf-8")
    return checksum(path)
