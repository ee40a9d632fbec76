"""Exact ranking by the scores of a catalog: the best rows, and the ranks of given rows, from local shards.

Shapes: B queries of this process, G of all processes, W processes, C rows of a chunk, K best rows, V targets,
X excluded pairs. A target has two places (suffix 2): the first and the last over all orders of equal scores.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from dist_rec.core.head import Ids
from dist_rec.embedding.scores import CatalogScores, TableShard, rows_at_once

# Numbers in a chunk of the matrix of scores, 64 MiB.
CHUNK = 1 << 24
# Queries ranked at a time: few, so that a chunk has many rows, for which `topk` takes less time a row.
QUERIES = 256


@torch.no_grad()
def top_k(scores: CatalogScores, k: int, exclude: Ids | None = None) -> tuple[Tensor, Tensor]:
    """The K rows with the highest scores, best first; equal scores have no defined order. Called by all processes.

    Args:
        scores: scores of B queries.
        k: K.
        exclude: rows that are left out for each query, such as items that a user has seen.

    Returns:
        Their scores and their numbers, [B, K]; -inf and -1 where there are fewer rows.
    """
    queries, excluded = scores.queries, _excluded(scores, exclude)
    blocks = [
        _best_here(k, scores.shard, block_GD, excluded.of_queries(number * QUERIES, len(block_GD)))
        for number, block_GD in enumerate(queries.rows.split(QUERIES))
    ]
    best = tuple(torch.cat(tensors) for tensors in zip(*blocks, strict=True))
    if len(queries.counts) > 1:
        parts = [_deal(part_GK, queries.counts, len(scores)) for part_GK in best]
        best = best_of(k, *zip(*(part.unbind(0) for part in parts), strict=True))
    top_BK, ids_BK = best
    return top_BK, ids_BK.masked_fill(top_BK == -torch.inf, -1)


def _best_here(k: int, shard: TableShard, queries_GD: Tensor, excluded: "_Excluded") -> tuple[Tensor, Tensor]:
    """The best rows of this process, padded with -inf."""
    shape = (len(queries_GD), k)
    best = queries_GD.new_full(shape, -torch.inf), queries_GD.new_full(shape, -1, dtype=torch.int64)
    for chunk, s_GC in shard.chunks(queries_GD, rows_at_once(len(queries_GD), CHUNK)):
        excluded.mask(s_GC, chunk)
        top_GK, place_GK = s_GC.topk(min(k, s_GC.shape[1]))
        best = best_of(k, best, (top_GK, place_GK + shard.start + chunk.start))
    return best


def best_of(k: int, *parts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The K highest scores and their rows, [G, K], from several lists of scores and rows."""
    scores, ids = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
    top_GK, place_GK = scores.topk(k)
    return top_GK, ids.gather(1, place_GK)


@torch.no_grad()
def places(scores: CatalogScores, targets: Ids, exclude: Ids | None = None) -> Tensor:
    """The places of each target, [V, 2]: numbers of rows with a higher score, and of others with a score not lower.

    They are NaN if the target's score is NaN. Called by all processes.

    Args:
        scores: scores of B queries.
        targets: rows of each query; a target is ranked among all rows, also the query's other targets.
        exclude: rows that are left out for each query; a target may be one of them, and is ranked among the rest.

    Returns:
        float64, 0 for the best. A target's score and a chunk's come from two products, whose rounding can break ties.
    """
    pairs = scores.gather_pairs(targets)
    excluded = _excluded(scores, exclude)
    target_V, row_V = scores.of_gathered(pairs), pairs.id_V - scores.shard.start
    places_V2 = target_V.new_zeros(len(target_V), 2, dtype=torch.float64)
    rows = rows_at_once(max(len(target_V), len(scores.queries.rows)), CHUNK)
    for chunk, s_GC in scores.shard.chunks(scores.queries.rows, rows):
        excluded.mask(s_GC, chunk)
        s_VC = s_GC.index_select(0, pairs.query_V)
        (here_U,) = ((row_V >= chunk.start) & (row_V < chunk.stop)).nonzero(as_tuple=True)
        s_VC[here_U, row_V[here_U] - chunk.start] = -torch.inf
        places_V2 += places_among(s_VC, target_V)
    if len(pairs.gathered.counts) > 1 and len(places_V2):
        dist.all_reduce(places_V2)
    return pairs.gathered.own(places_V2)


def places_among(s_VC: Tensor, target_V: Tensor) -> Tensor:
    """The places of a target among other scores, [V, 2]; NaN scores come before it; a NaN target has NaN places."""
    last_V = s_VC.shape[1] - (s_VC < target_V.unsqueeze(1)).sum(1)
    first_V = last_V - (s_VC == target_V.unsqueeze(1)).sum(1)
    places_V2 = torch.stack([first_V, last_V], dim=1).double()
    return places_V2.masked_fill(target_V.isnan().unsqueeze(1), torch.nan)


@dataclass(frozen=True)
class _Excluded:
    """Excluded rows of this process, sorted by row so that those of a chunk are adjacent."""

    row_X: Tensor
    """In the shard, ascending."""
    query_X: Tensor

    def of_queries(self, start: int, number: int) -> Self:
        """The excluded rows of some queries, renumbered from 0."""
        (here,) = ((self.query_X >= start) & (self.query_X < start + number)).nonzero(as_tuple=True)
        return replace(self, row_X=self.row_X[here], query_X=self.query_X[here] - start)

    def mask(self, s_GC: Tensor, chunk: slice) -> None:
        """Sets the scores of a chunk's excluded rows to -inf."""
        ends = torch.tensor([chunk.start, chunk.stop], device=s_GC.device)
        first, last = torch.searchsorted(self.row_X, ends).tolist()
        s_GC[self.query_X[first:last], self.row_X[first:last] - chunk.start] = -torch.inf


def _excluded(scores: CatalogScores, ids: Ids | None) -> _Excluded:
    if ids is None:
        nothing = torch.empty(0, dtype=torch.int64, device=scores.queries_BD.device)
        return _Excluded(nothing, nothing)
    pairs = scores.gather_pairs(ids)
    here = scores.shard.holds(pairs.id_V)
    row_X, order_X = (pairs.id_V[here] - scores.shard.start).sort()
    return _Excluded(row_X, pairs.query_V[here][order_X])


def _deal(part_GK: Tensor, counts: tuple[int, ...], own: int) -> Tensor:
    """Sends each process this one's results for its queries; returns all results for this process's, [W, B, K]."""
    received_WBK = part_GK.new_empty(len(counts), own, part_GK.shape[1])
    dist.all_to_all_single(received_WBK.flatten(0, 1), part_GK, [own] * len(counts), list(counts))
    return received_WBK
