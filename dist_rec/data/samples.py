"""Samples of a catalog's rows by a power of how often training has them, as a pure function of (seed, step).

All queries of a global batch share them. Hidasi and Karatzoglou 2018, "Recurrent Neural Networks with Top-k Gains for
Session-based Recommendations", section 3.2: in proportion to count^α, with replacement.

Shapes: I rows of the catalog, with row 0, S samples.
"""

import numpy as np
from numpy.typing import NDArray

from dist_rec.core.splitmix import stream, words


class Samples:
    """Draws rows; those without a count, row 0 among them, are never drawn.

    Args:
        count_I: how often training has each row; at least one is not 0.
        alpha: the power: 0 draws all rows alike, 1 by popularity.
        seed: of all draws.
    """

    def __init__(self, count_I: NDArray[np.int64], alpha: float, seed: int) -> None:
        weight_I = np.where(count_I > 0, count_I.astype(np.float64) ** alpha, 0)
        self._cumulative_I, self._seed = weight_I.cumsum(), seed
        self.probability_I = weight_I / self._cumulative_I[-1]
        """Of each row in a draw."""

    def draw(self, step: int, samples: int) -> NDArray[np.int64]:
        """The samples of a global step, [S]."""
        word_S = words(stream(self._seed, step), np.arange(samples))
        place_S = (word_S >> np.uint64(11)) * 2.0**-53 * self._cumulative_I[-1]
        return np.searchsorted(self._cumulative_I, place_S, side="right")
