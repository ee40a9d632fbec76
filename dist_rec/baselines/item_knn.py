"""Item-KNN: Deshpande and Karypis 2004, "Item-Based Top-N Recommendation Algorithms" (sections 4.1 and 4.2).

The similarity of two items is the cosine of their columns of seen pairs, c_ij / (√(n_i n_j) + shrinkage): c_ij users
have both, n_i have i. The score of item j for a user is the sum of its similarities to the items i of the user that
have j among their nearest items.

Shapes: U users, B of them to score, I items, C rows of a block, X its numbers that are not 0.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

# Numbers in a block of similarities, at most 64 MiB.
BLOCK = 1 << 24


class ItemKNN:
    """Scores items by their similarity to the items of a user.

    Args:
        seen_UI: 1 where training has the pair.
        neighbors: nearest items kept for each item, those with smaller numbers in ties; None: all.
        shrinkage: reduces similarities that are based on few users.
    """

    def __init__(self, seen_UI: csr_array, neighbors: int | None = None, shrinkage: float = 0.0) -> None:
        seen_UI = seen_UI.astype(np.float32)
        seen_IU, root_I = seen_UI.T.tocsr(), np.sqrt(seen_UI.sum(axis=0, dtype=np.float64))
        blocks = []
        rows = max(1, BLOCK // len(root_I))
        for start in range(0, len(root_I), rows):
            block_CI = csr_array(seen_IU[start : start + rows] @ seen_UI)
            row_X = start + np.repeat(np.arange(block_CI.shape[0]), np.diff(block_CI.indptr))
            block_CI.data /= root_I[row_X] * root_I[block_CI.indices] + shrinkage
            block_CI.data[row_X == block_CI.indices] = 0
            if neighbors is not None:
                order_X = np.lexsort((block_CI.indices, -block_CI.data, row_X))
                place_X = np.arange(len(order_X)) - block_CI.indptr[row_X - start]
                block_CI.data[order_X[place_X >= neighbors]] = 0
            block_CI.eliminate_zeros()
            blocks.append(block_CI)
        self.similarity_II = csr_array(vstack(blocks, format="csr"))

    def scores(self, history_BI: csr_array) -> NDArray[np.float32]:
        """Sums of similarities for each of B users, [B, I]."""
        return (history_BI @ self.similarity_II).toarray()
