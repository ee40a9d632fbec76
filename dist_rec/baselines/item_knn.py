"""Item-KNN: Deshpande and Karypis 2004, "Item-Based Top-N Recommendation Algorithms" (sections 4.1 and 4.2).

The similarity of two items is the cosine of their columns of seen pairs, c_ij / (√(n_i n_j) + shrinkage): c_ij users
have both, n_i have i. A user's score of an item is the sum of the similarities to it of the items that they have, as
far as it is among the nearest ones of each.

Shapes: U users, B of them to score, I items, C rows of a block, X its numbers that are not 0.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

# Numbers in a block of similarities, at most 64 MiB.
BLOCK = 1 << 24
Norm = Callable[[NDArray[np.integer], NDArray[np.integer]], NDArray[np.float64]]


class ItemKNN:
    """Scores items by their similarity to what a user has.

    Args:
        seen_UI: 1 where training has the pair.
        neighbors: nearest items that are kept of each item; of equally near ones those with smaller numbers. None: all.
        shrinkage: draws similarities that few users speak for to 0.
    """

    def __init__(self, seen_UI: csr_array, neighbors: int | None = None, shrinkage: float = 0.0) -> None:
        root_I = np.sqrt(seen_UI.sum(axis=0, dtype=np.float64))
        self.similarity_II = similarities(
            seen_UI, seen_UI, lambda one_X, other_X: root_I[one_X] * root_I[other_X] + shrinkage, neighbors
        )

    def scores(self, history_BI: csr_array) -> NDArray[np.float32]:
        """Sums of similarities for each of B users, [B, I]."""
        return (history_BI @ self.similarity_II).toarray()


def similarities(one_UI: csr_array, other_UI: csr_array, norm: Norm, neighbors: int | None) -> csr_array:
    """How many users have both of two items over a norm, float32 [I, I]; 0 of an item to itself.

    Args:
        one_UI: how often a user counts for one of the two.
        other_UI: and for the other.
        norm: of pairs of items, [X] each → [X].
        neighbors: nearest items that are kept of each item; None: all.
    """
    one_IU, other_UI = one_UI.astype(np.float32).T.tocsr(), other_UI.astype(np.float32)
    items = one_IU.shape[0]
    blocks = []
    rows = max(1, BLOCK // items)
    for start in range(0, items, rows):
        block_CI = csr_array(one_IU[start : start + rows] @ other_UI)
        row_X = start + np.repeat(np.arange(block_CI.shape[0]), np.diff(block_CI.indptr))
        block_CI.data /= norm(row_X, block_CI.indices)
        block_CI.data[row_X == block_CI.indices] = 0
        blocks.append(_nearest(block_CI, neighbors))
    return csr_array(vstack(blocks, format="csr"))


def _nearest(block_CI: csr_array, neighbors: int | None) -> csr_array:
    """The largest numbers of each row; 0 for the others."""
    if neighbors is not None:
        row_X = np.repeat(np.arange(block_CI.shape[0]), np.diff(block_CI.indptr))
        order_X = np.lexsort((block_CI.indices, -block_CI.data, row_X))
        place_X = np.arange(len(order_X)) - block_CI.indptr[row_X]
        block_CI.data[order_X[place_X >= neighbors]] = 0
    block_CI.eliminate_zeros()
    return block_CI
