"""Baselines judged as heads are by the task `next_item`: by the exact ranks of all targets among all items.

A session says something of a few items alone. So all others are ranked once, and what a session says of moves: a rank
takes as much time as there are such items, not as there are items in all.

Shapes: V queries, one for each target, I items, K pairs of a query and an item, X of which the session says something.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dist_rec.baselines.sessions import HISTORY, ITEM, TARGET, Ints, Queries, has_windows, rows_of
from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.core.head import Ids
from dist_rec.data.shards import Dataset
from dist_rec.tasks.next_item import NextItem, repeated
from dist_rec.tasks.ranking_metrics import RankingMetrics
from dist_rec.tasks.task import Evidence
from dist_rec.tasks.top_n import evidence_of

# Queries at a time have as many scores, or as many events before them, if all were written out.
BLOCK = 1 << 24


class SessionBaseline(Protocol):
    """What has been fit."""

    base_I: NDArray[np.float64]
    """Scores of the items that a session says nothing of."""

    def scores(self, queries: Queries) -> csr_array:
        """Scores of those that it says something of, [V, I], but not of row 0."""


def score_sessions(
    baseline: SessionBaseline,
    dataset: Dataset,
    split: str,
    cutoffs: tuple[int, ...] | None = None,
    seen: str | None = None,
) -> dict[str, float]:
    """Metrics of a baseline on a split, those of the task `next_item`.

    Args:
        baseline: what has been fit.
        dataset: the prepared data.
        split: its part.
        cutoffs: lengths of the lists that are judged; None: the task's.
        seen: a column of items that are not recommended again; None: all items are ranked.

    Raises:
        UserError: if there is no such column, or nothing to predict.
    """
    manifest = dataset.manifest
    if seen is not None and (seen not in manifest.names("bag", "sequence") or manifest.column(seen).table != ITEM):
        raise UserError(f"{dataset.path} has no column {seen!r} of items; leave out --seen")
    task, ranking = NextItem.Config(), Ranking(baseline)
    metrics = RankingMetrics("cpu", cutoffs or task.cutoffs, task.measures, capped=False)
    for batch in rows_of(dataset, split, (HISTORY, TARGET, *([seen] if seen else []))):
        metrics.update(*ranking.evidence(batch, seen, has_windows(manifest)))
    return metrics.compute()


class Ranking:
    """All items in the order of a baseline, before it knows of a session.

    Args:
        baseline: what has been fit.
    """

    def __init__(self, baseline: SessionBaseline) -> None:
        self._baseline, self._base_I = baseline, baseline.base_I
        self._sorted_I = np.sort(self._base_I[1:])

    def evidence(self, batch: Batch, seen: str | None, windows: bool) -> Evidence:
        """As of `NextItem`.

        Args:
            batch: rows with histories and targets.
            seen: a column of items that do not count; None: all do.
            windows: whether a row is a query, with all of its targets; else each target is one.
        """
        queries, items = Queries.of(batch, windows), len(self._base_I)
        target = batch.column(TARGET)
        exclude = Ids(target.values[:0], torch.zeros_like(target.lengths)) if seen is None else batch.column(seen)
        per_target = repeated(exclude, torch.from_numpy(queries.row_V))
        query_K = np.repeat(np.arange(len(queries)), per_target.lengths.numpy())
        excluded_K = np.unique(query_K * items + per_target.values.numpy())
        places, first = [np.empty((0, 2))], 0
        for block in queries.blocks(BLOCK, items):
            bounds = np.searchsorted(excluded_K, [first * items, (first + len(block)) * items])
            places.append(self._places(block, excluded_K[slice(*bounds)] - first * items))
            first += len(block)
        places_V2 = torch.from_numpy(np.concatenate(places))
        if windows:
            return evidence_of(places_V2, target, exclude, items)
        return evidence_of(places_V2, Ids(target.values, torch.ones_like(target.values)), per_target, items)

    def _places(self, queries: Queries, excluded_K: Ints) -> NDArray[np.float64]:
        """How many other items score higher than each target, and how many not lower, [V, 2].

        Args:
            queries: V of them.
            excluded_K: items that do not count, `query * items + item`, ascending.
        """
        items, count = len(self._base_I), len(queries)
        scores_VI = self._baseline.scores(queries)
        scores_VI.sort_indices()
        query_X, item_X, score_X = _row_of(scores_VI.indptr), scores_VI.indices, scores_VI.data
        pair_V = np.arange(count) * items + queries.target_V
        at_V = _find(pair_V, query_X * items + item_X)
        own_V = self._base_I[queries.target_V]
        own_V[at_V >= 0] = score_X[at_V[at_V >= 0]]
        higher_V = len(self._sorted_I) - np.searchsorted(self._sorted_I, own_V, "right")
        not_lower_V = len(self._sorted_I) - np.searchsorted(self._sorted_I, own_V, "left")
        excluded_K = excluded_K[excluded_K % items > 0]  # row 0 is no item
        if len(excluded_K):
            kept_X = _find(query_X * items + item_X, excluded_K) < 0
            query_X, item_X, score_X = query_X[kept_X], item_X[kept_X], score_X[kept_X]
        none_K = np.full(len(excluded_K), -np.inf)
        for query, item, now in ((query_X, item_X, score_X), (*np.divmod(excluded_K, items), none_K)):
            own, before = own_V[query], self._base_I[item]
            higher_V += np.bincount(query[now > own], minlength=count)
            higher_V -= np.bincount(query[before > own], minlength=count)
            not_lower_V += np.bincount(query[now >= own], minlength=count)
            not_lower_V -= np.bincount(query[before >= own], minlength=count)
        itself_V = _find(pair_V, excluded_K) < 0
        return np.stack([higher_V, not_lower_V - itself_V], axis=1).astype(np.float64)


def _row_of(indptr: NDArray[np.integer]) -> Ints:
    """The row of each number of a sparse matrix."""
    return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))


def _find(pairs: Ints, among: Ints) -> Ints:
    """The place of each among ascending ones, or -1."""
    at = np.searchsorted(among, pairs)
    return np.where(among[np.minimum(at, len(among) - 1)] == pairs, at, -1) if len(among) else np.full(len(at), -1)
