"""Top-N recommendation by full ranking: the targets of a user among all items that the user has not seen.

Row 0 of the item table stands for all items that do not occur in training. It is not ranked; a target that is one of
these items cannot be recommended and is ranked last.

Shapes: B queries, V targets or seen items of all of them end to end.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from dist_rec.core.batch import Batch
from dist_rec.core.head import Ids
from dist_rec.embedding.catalog_losses import cross_entropy
from dist_rec.embedding.ranking import places
from dist_rec.embedding.scores import CatalogScores
from dist_rec.tasks import task
from dist_rec.tasks.ranking_metrics import RankingConfig, RankingMetrics

SEEN = "seen"


class TopN(task.Task):
    """Softmax cross-entropy of a user's targets, and their exact ranks among all items."""

    class Config(RankingConfig):
        """Settings of the ranking."""

        name: Literal["top_n"] = "top_n"
        seen: str = SEEN
        """Column of the items that are not recommended again: `seen`, all that a user has in earlier splits as well, or
        `history`, what the head is given."""
        cutoffs: tuple[int, ...] = Field((20, 50, 100), min_length=1)
        """Lengths of the lists that metrics are computed of."""
        best: str = Field("ndcg@100", validate_default=True)
        """The metric that early stopping and the best checkpoint go by."""

    judges = ("catalog",)

    @property
    def evaluation_columns(self) -> tuple[str, ...]:
        """The seen items."""
        return (self.config.seen,)

    def loss(self, scores: CatalogScores, batch: Batch) -> Tensor:
        """Multinomial log-likelihood of the targets, [B]."""
        return cross_entropy(scores, self.targets(batch))

    def evidence(self, scores: CatalogScores, batch: Batch) -> task.Evidence:
        """Places of the targets [V, 2], and each query's numbers of targets and of candidates, [B] each."""
        targets, seen = self.targets(batch), batch.column(self.config.seen)
        return evidence_of(places(scores, targets, exclude=and_row_0(seen)), targets, seen, scores.table_rows)

    def metrics(self, device: torch.device) -> RankingMetrics:
        """Hit rate, NDCG, recall and precision at the cutoffs; MRR, MAP and AUC."""
        return RankingMetrics(device, self.config.cutoffs)


def evidence_of(places_V2: Tensor, targets: Ids, seen: Ids, table_rows: Tensor | int) -> task.Evidence:
    """Places of the targets, and the numbers of targets and of candidates; targets of row 0 are last, in any order.

    Args:
        places_V2: places among the rows that are neither seen nor row 0.
        targets: targets of each query.
        seen: distinct items of each query.
        table_rows: number of rows of the item table.
    """
    unknown_B = _count_row_0(targets)
    seen_B = seen.lengths - _count_row_0(seen)
    candidates_B = table_rows - 1 - seen_B + unknown_B
    last_B2 = torch.stack([candidates_B - unknown_B, candidates_B - 1], dim=1).double()
    last_V2 = last_B2.repeat_interleave(targets.lengths, dim=0)
    places_V2 = torch.where(targets.values.unsqueeze(1) == 0, last_V2, places_V2)
    return places_V2, targets.lengths, candidates_B


def row_of(ids: Ids) -> Tensor:
    """The row that each id belongs to, [V]."""
    rows = torch.arange(len(ids.lengths), device=ids.lengths.device)
    return rows.repeat_interleave(ids.lengths, output_size=len(ids.values))


def _count_row_0(ids: Ids) -> Tensor:
    return torch.zeros_like(ids.lengths).index_add(0, row_of(ids), (ids.values == 0).to(ids.lengths.dtype))


def and_row_0(ids: Ids) -> Ids:
    """The ids of each query, and 0 after them."""
    query_V = row_of(ids)
    values = ids.values.new_zeros(len(query_V) + len(ids.lengths))
    values[torch.arange(len(query_V), device=values.device) + query_V] = ids.values
    return Ids(values, ids.lengths + 1)
