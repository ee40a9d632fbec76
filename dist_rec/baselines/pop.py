"""POP: items ranked by their number of users, equally for all users.

Shapes: U users, B of them to score, I items.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


class Pop:
    """Scores items by their number of users in training.

    Args:
        seen_UI: 1 where training has the pair.
    """

    def __init__(self, seen_UI: csr_array) -> None:
        self._count_I = np.asarray(seen_UI.sum(axis=0), np.float32)

    def scores(self, history_BI: csr_array) -> NDArray[np.float32]:
        """The counts for each of B users, [B, I]; only the shape of `history_BI` matters."""
        return np.tile(self._count_I, (history_BI.shape[0], 1))
