"""BPR-MF of sessions: a baseline of Hidasi et al. 2016, "Session-based Recommendations with Recurrent Neural Networks"
(section 4.1), by Rendle et al. 2009, "BPR: Bayesian Personalized Ranking from Implicit Feedback".

Matrix factorisation has no vector of a session that it never saw. In its place stands the mean of the vectors of the
session's items so far; items are scored by its product with the same vectors, and a bias: s_j = b_j + q_j·Σ_i q_i / n.
The loss is the task's: `next_item` with `loss = "bpr"`.

Departure: the authors' code learns a vector for each training session, and takes the mean in the test alone. Here the
mean is what is trained as well, so the model is the same in training and in the test, and has no vectors but of items.

Shapes: V items of all histories end to end, Q targets of all rows, D dimension.
"""

from pydantic import Field

from dist_rec.core import head
from dist_rec.nn.histories import ItemsConfig, ItemsHead
from dist_rec.nn.sequences import Sequences


class SessionMF(ItemsHead):
    """Factors of items; those of a session are the mean of its items'."""

    class Config(ItemsConfig):
        """Size of the model."""

        dim: int = Field(100, gt=0)
        """Factors of an item, D."""

    def forward(self, inputs: head.Inputs) -> head.Query:
        """The mean of what came before each target, [Q, D]."""
        history = inputs.sequences["items"][self.config.history]
        sequences = Sequences(history.lengths)
        mean_VD = sequences.means_so_far(history.values)
        return head.Query(sequences.last(mean_VD, inputs.num_targets), per_target=True)
