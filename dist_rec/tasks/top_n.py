"""Top-N recommendation by full ranking: which items, out of all that the user has not seen, come next?

Row 0 of the item table stands for all items that training never saw. It is no item and not ranked; a target that is
one of them cannot be recommended and comes last.

Shapes: B queries, V targets or seen items of all of them end to end.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torchrec.sparse.jagged_tensor import JaggedTensor

from dist_rec.core import config
from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.core.head import CatalogHead
from dist_rec.embedding.ranking import places
from dist_rec.embedding.scores import CatalogScores
from dist_rec.tasks import task
from dist_rec.tasks.ranking_metrics import RankingMetrics


class TopN(task.CatalogTask):
    """Exact ranks of a user's targets among all items; the best model has the largest NDCG@100."""

    class Config(config.Config):
        """What is ranked."""

        name: Literal["top_n"] = "top_n"
        seen: str = "history"
        """The column of items that are not recommended again."""
        cutoffs: tuple[int, ...] = Field((20, 50, 100), min_length=1)
        """Lengths of the lists that are judged; 100 must be among them."""

    best = ("ndcg@100", max)

    def columns(self, training: bool) -> tuple[str, ...]:
        """The seen items."""
        return (self.config.seen,)

    def catalog_evidence(
        self, head: CatalogHead, scores: CatalogScores, targets: JaggedTensor, batch: Batch
    ) -> task.Evidence:
        """Places of the targets, [V, 2], how many there are for each query and among how many items, [B] each."""
        seen = column_of(batch, self.config.seen)
        places_V2 = places(scores, targets, exclude=_and_row_0(seen, len(scores)))
        return evidence_of(places_V2, targets, seen, scores.table_rows, len(scores))

    def metrics(self, device: torch.device) -> RankingMetrics:
        """Hit rate, NDCG, recall and precision at the cutoffs; MRR, MAP and AUC."""
        return RankingMetrics(device, self.config.cutoffs)


def evidence_of(
    places_V2: Tensor, targets: JaggedTensor, seen: JaggedTensor, table_rows: Tensor | int, queries: int
) -> task.Evidence:
    """Places of the targets, their number and that of the candidates; targets of row 0 come last, in any order.

    Args:
        places_V2: among the rows that are neither seen nor row 0.
        targets: of each query.
        seen: distinct items.
        table_rows: of the item table.
        queries: B; further rows of targets and seen items are empty ones.
    """
    targets_B, unknown_B = targets.lengths()[:queries], _count_row_0(targets, queries)
    seen_B = seen.lengths()[:queries] - _count_row_0(seen, queries)
    candidates_B = table_rows - 1 - seen_B + unknown_B
    last_B2 = torch.stack([candidates_B - unknown_B, candidates_B - 1], dim=1).double()
    last_V2 = last_B2.repeat_interleave(targets_B, dim=0)
    places_V2 = torch.where(targets.values().unsqueeze(1) == 0, last_V2, places_V2)
    return places_V2, targets_B, candidates_B


def _count_row_0(ids: JaggedTensor, queries: int) -> Tensor:
    lengths_B = ids.lengths()[:queries]
    query_V = torch.arange(queries, device=lengths_B.device).repeat_interleave(lengths_B)
    return torch.zeros_like(lengths_B).index_add(0, query_V, (ids.values() == 0).to(lengths_B.dtype))


def _and_row_0(ids: JaggedTensor, queries: int) -> JaggedTensor:
    """The ids of each query, and 0 after them."""
    lengths_B = ids.lengths()[:queries]
    query_V = torch.arange(queries, device=lengths_B.device).repeat_interleave(lengths_B)
    values = ids.values().new_zeros(len(query_V) + queries)
    values[torch.arange(len(query_V), device=values.device) + query_V] = ids.values()
    return JaggedTensor(values, lengths=lengths_B + 1)


def column_of(batch: Batch, name: str) -> JaggedTensor:
    """A bag or sequence of the batch, weighted or not; raises UserError if it was not read."""
    for ids in (batch.ids, batch.weighted_ids):
        if name in ids.keys():  # noqa: SIM118
            return ids[name]
    known = [*batch.ids.keys(), *batch.weighted_ids.keys()]
    raise UserError(f"the batches have no column {name!r}; they have {', '.join(known)}")
