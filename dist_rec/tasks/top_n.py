"""Top-N recommendation by full ranking: which items, out of all that the user has not seen, come next?"""

from typing import Literal

import torch
from pydantic import Field
from torchrec.sparse.jagged_tensor import JaggedTensor

from dist_rec.core import config
from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.core.head import CatalogHead
from dist_rec.embedding.ranking import ranks
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
        """Ranks of the targets [V], how many there are for each query and among how many items they are, [B] each."""
        seen = column_of(batch, self.config.seen)
        rows = len(scores)
        seen_B, targets_B = seen.lengths()[:rows], targets.lengths()[:rows]
        return ranks(scores, targets, exclude=seen), targets_B, scores.table_rows - seen_B

    def metrics(self, device: torch.device) -> RankingMetrics:
        """Hit rate, NDCG, recall and precision at the cutoffs; MRR, MAP and AUC."""
        return RankingMetrics(device, self.config.cutoffs)


def column_of(batch: Batch, name: str) -> JaggedTensor:
    """A bag or sequence of the batch, weighted or not; raises UserError if it was not read."""
    for ids in (batch.ids, batch.weighted_ids):
        if name in ids.keys():  # noqa: SIM118
            return ids[name]
    known = [*batch.ids.keys(), *batch.weighted_ids.keys()]
    raise UserError(f"the batches have no column {name!r}; they have {', '.join(known)}")
