"""POP and S-POP, Hidasi et al. 2016, "Session-based Recommendations with Recurrent Neural Networks", section 4.

POP is what training has most often; S-POP what the session so far has most often, then what training has.

Shapes: V queries, I items.
"""

import numpy as np
from scipy.sparse import csr_array

from dist_rec.baselines.sessions import Ints, Queries


class SessionPop:
    """The same for all sessions: items by their events in training.

    Args:
        count_I: training events of each item.
    """

    def __init__(self, count_I: Ints) -> None:
        self.base_I = count_I.astype(np.float64)

    def scores(self, queries: Queries) -> csr_array:
        """Nothing, [V, I]."""
        return csr_array((len(queries), len(self.base_I)), dtype=np.float64)


class SPop:
    """The items of the session so far, by their number there; then all by training events, and so where numbers tie.

    Args:
        count_I: training events of each item.
    """

    def __init__(self, count_I: Ints) -> None:
        distinct, place_I = np.unique(count_I, return_inverse=True)
        self.base_I = place_I.astype(np.float64)
        self._more = len(distinct)

    def scores(self, queries: Queries) -> csr_array:
        """Of the items of the session, [V, I]: once more there is more than any popularity."""
        scores_VI = queries.matrix(len(self.base_I))
        scores_VI.data = scores_VI.data * self._more + self.base_I[scores_VI.indices]
        return scores_VI
