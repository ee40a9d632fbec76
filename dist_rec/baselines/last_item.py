"""Baselines that know a session by its last item: Item-KNN, and a Markov chain of first order.

Shapes: S sessions, V queries, I items, X of a matrix' numbers that are not 0.
"""

from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dist_rec.baselines.item_knn import similarities
from dist_rec.baselines.sessions import Ints, Queries, Sessions


class LastItem:
    """Scores items by a matrix' row of the last item.

    Args:
        scores_II: where it is not 0.
        base_I: for the others.
    """

    def __init__(self, scores_II: csr_array, base_I: NDArray[np.float64]) -> None:
        self.scores_II, self.base_I = scores_II, base_I

    @classmethod
    def item_knn(
        cls, sessions: Sessions, neighbors: int | None, shrinkage: float, alpha: float, distinct: bool = False
    ) -> Self:
        """Cosine of the last item's sessions and another's, c_ij / ((n_i + λ)^α (n_j + λ)^(1 - α)).

        In the code of Hidasi et al. 2016 n_i are events of i, and c_ij are those in sessions that have j. In their text
        (section 4) both are sessions.

        Args:
            sessions: of training.
            neighbors: nearest items that are kept of each item; None: all.
            shrinkage: λ, draws similarities that little speaks for to 0.
            alpha: α, of the last item i; the less, the more popular ones j are drawn to 0.
            distinct: whether sessions are counted instead of events.
        """
        events_SI = sessions.matrix()
        sessions_SI = events_SI.sign()
        one_SI = sessions_SI if distinct else events_SI
        n_I = one_SI.sum(axis=0) + shrinkage
        one_I, other_I = n_I**alpha, n_I ** (1 - alpha)
        scores_II = similarities(one_SI, sessions_SI, lambda one_X, other_X: one_I[one_X] * other_I[other_X], neighbors)
        scores_II.sort_indices()
        return cls(scores_II, np.zeros(sessions.items))

    @classmethod
    def markov(cls, sessions: Sessions, count_I: Ints, smoothing: float) -> Self:
        """How likely an item comes next, by how often it did: (c_ij + μ p_j) / (n_i + μ).

        c_ij times j followed i, n_i times anything did; p_j is the share of j in all training events.

        Args:
            sessions: of training.
            count_I: training events of each item.
            smoothing: μ, as many events after each item as popularity speaks for.
        """
        count_II = sessions.transitions()
        base_I = smoothing * count_I / max(1, count_I.sum())
        # Without the norm, which is the same for all items that may come next.
        count_II.data += base_I[count_II.indices]
        return cls(count_II, base_I)

    def scores(self, queries: Queries) -> csr_array:
        """Rows of the matrix, [V, I]."""
        return csr_array(self.scores_II[queries.last()])
