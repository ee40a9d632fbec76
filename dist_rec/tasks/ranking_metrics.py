"""Metrics of ranked lists from the places of the targets.

Equal scores, which are frequent in low precision, leave the order open: metrics at a cutoff k are then means over all
orders (McSherry and Najork 2008, "Computing Information Retrieval Performance Measures Efficiently in the Presence of
Tied Scores"). The mean place instead would make a tie across the cutoff a hit or a miss as a whole.

Shape suffixes: B queries of a batch, V targets of all of them end to end, 2 first and last place over all orders.
"""

from typing import ClassVar

import torch
from pydantic import ValidationInfo, field_validator
from torch import Tensor

from dist_rec.core.collective import sum_over_processes
from dist_rec.core.config import Config
from dist_rec.core.errors import UserError

MEASURES = ("hr", "ndcg", "recall", "precision")
"""Of a list that is cut off; `RankingMetrics` knows mrr and map as well."""


class RankingConfig(Config):
    """Settings of tasks with ranking metrics: `cutoffs`, and `best`, which is one of the metrics at these cutoffs."""

    measures: ClassVar[tuple[str, ...]] = MEASURES

    @field_validator("best", check_fields=False)
    @classmethod
    def _is_computed(cls, best: str, info: ValidationInfo) -> str:
        known = metric_names(info.data.get("cutoffs", ()), cls.measures)
        if best not in known:
            raise ValueError(f"with these task.cutoffs it is one of {', '.join(known)}")
        return best


def metric_names(cutoffs: tuple[int, ...], measures: tuple[str, ...] = MEASURES) -> list[str]:
    """Names of the metrics with these cutoffs; for each, larger is better."""
    return [*(f"{name}@{k}" for k in cutoffs for name in measures), "mrr", "map", "auc"]


class RankingMetrics:
    """Means over queries that have targets; keeps one sum for each metric.

    Args:
        device: of the tensors, on every process, also on one that has no queries.
        cutoffs: lengths of the lists.
        measures: of each list.
        capped: whether recall@k is a share of at most k targets, not of all.
    """

    def __init__(
        self,
        device: torch.device | str,
        cutoffs: tuple[int, ...],
        measures: tuple[str, ...] = MEASURES,
        capped: bool = True,
    ) -> None:
        self._cutoffs, self._measures, self._capped = cutoffs, measures, capped
        self._names = ["rows", *metric_names(cutoffs, measures)]
        self._sums = torch.zeros(len(self._names), dtype=torch.float64, device=device)

    def update(self, places_V2: Tensor, targets_B: Tensor, candidates_B: Tensor) -> None:
        """Adds queries.

        Args:
            places_V2: least and greatest number of candidates before each target, 0 for the best; NaN if its score is
                NaN.
            targets_B: number of targets of each query; queries without any are left out.
            candidates_B: number of candidates of each query, targets among them.
        """
        has_targets_B = targets_B > 0
        lengths_B, candidates_B = targets_B[has_targets_B].long(), candidates_B[has_targets_B]
        if len(lengths_B):
            self._sums += torch.stack(self._of_queries(places_V2.double(), lengths_B, candidates_B)).sum(1)

    def compute(self) -> dict[str, float]:
        """The metrics over all queries; called by every process.

        Returns:
            rows: number of queries with targets.
            hr@k: whether a target is among the first k; an upper bound if several targets are in ties across k.
            ndcg@k: Σ 1 / log₂(rank + 2) over targets among the first k, divided by that of the best order (Järvelin and
                Kekäläinen 2002).
            recall@k: share of the targets among the first k, of at most k (Liang et al. 2018, section 4.2) or of all.
            precision@k: targets among the first k, over k.
            mrr@k: 1 / (rank + 1) of the first target if that is among the first k, else 0.
            map@k: sum over the targets among the first k of the precision at their rank, over min(k, T).
            mrr: 1 / (rank + 1) of the first target, by the mean of its places.
            map: mean over targets of the precision at its rank, likewise.
            auc: share of the pairs of a target and another candidate that are in the right order (Rendle et al. 2009);
                1 if there is no other.

        Raises:
            UserError: without targets, or if a target's score is NaN.
        """
        sums = sum_over_processes(self._sums)
        rows, *values = sums.tolist()
        if not rows:
            raise UserError("no row of the split has a target to rank")
        if sums.isnan().any():
            raise UserError("a target's score is NaN; the model has diverged")
        return dict(zip(self._names, [rows, *(value / rows for value in values)], strict=True))

    def _of_queries(self, places_V2: Tensor, lengths_B: Tensor, candidates_B: Tensor) -> list[Tensor]:
        """Each metric of each query, [B]."""
        query_V = torch.arange(len(lengths_B), device=lengths_B.device).repeat_interleave(lengths_B)
        order_V = torch.argsort(places_V2.sum(1), stable=True)
        order_V = order_V[torch.argsort(query_V[order_V], stable=True)]
        places_V2 = places_V2[order_V]  # ascending within each query
        ranks_V = places_V2.mean(1)
        starts_B = lengths_B.cumsum(0) - lengths_B
        place_V = torch.arange(len(ranks_V), device=ranks_V.device) - starts_B[query_V]

        def summed(values_V: Tensor) -> Tensor:
            return ranks_V.new_zeros(len(lengths_B)).index_add(0, query_V, values_V)

        best_gain_V = 1 / torch.log2(place_V.double() + 2)
        precision_V = (place_V + 1) / (ranks_V + 1)
        found = [torch.ones_like(ranks_V[starts_B])]
        for k in self._cutoffs:
            within_V, gain_V, reciprocal_V = _within(places_V2, k)
            hits_B, most_B = summed(within_V), lengths_B.clamp(max=k)
            at_k = {
                "hr": hits_B.clamp(max=1),
                "ndcg": summed(gain_V) / summed(best_gain_V * (place_V < k)),
                "recall": hits_B / (most_B if self._capped else lengths_B),
                "precision": hits_B / k,
                "mrr": reciprocal_V[starts_B],
                "map": summed(within_V * precision_V) / most_B,
            }
            found += [at_k[name] for name in self._measures]
        wrong_B = summed(ranks_V - place_V)
        pairs_B = lengths_B * (candidates_B - lengths_B)
        map_B = summed(precision_V) / lengths_B
        return [*found, 1 / (ranks_V[starts_B] + 1), map_B, 1 - wrong_B / pairs_B.clamp(min=1)]


def _within(places_V2: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Probability that each target is among the first k, its expected discount and reciprocal rank there, [V] each."""
    ranks = torch.arange(1, k + 1, dtype=torch.float64, device=places_V2.device)
    first_V, last_V = places_V2.unbind(1)
    start_V, end_V = (place_V.clamp(max=k).nan_to_num(k).long() for place_V in (first_V, last_V + 1))
    orders_V = last_V - first_V + 1

    def expected(gains: Tensor) -> Tensor:
        before = torch.cat([gains.new_zeros(1), gains.cumsum(0)])
        return (before[end_V] - before[start_V]) / orders_V

    return (end_V - start_V) / orders_V, expected(1 / torch.log2(ranks + 1)), expected(1 / ranks)
