"""Baselines, evaluated with the metrics of heads: by the ranks of chosen items among candidates or among all items.

A baseline is fit in one pass over the pairs of user and item in training, without gradients or seeds.

Shapes: U users, B of them in a batch, I items, V candidates or targets of all of them end to end.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from dist_rec.baselines.sessions import HISTORY, TARGET
from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.core.head import Ids
from dist_rec.data.loader import Loader, LoaderConfig
from dist_rec.data.seen import seen_pairs
from dist_rec.data.shards import Dataset
from dist_rec.embedding.ranking import places_among
from dist_rec.tasks.implicit import CANDIDATES, ITEM, USER, Implicit, with_candidates
from dist_rec.tasks.implicit import evidence_of as candidates_evidence
from dist_rec.tasks.ranking_metrics import RankingMetrics
from dist_rec.tasks.task import Evidence
from dist_rec.tasks.top_n import SEEN, TopN, evidence_of

# Numbers in a matrix of scores, 64 MiB.
BLOCK = 1 << 24


class Baseline(Protocol):
    """A fitted baseline."""

    def scores(self, history_BI: csr_array) -> NDArray[np.float32]:
        """Scores of all items, [B, I], for users who have the items where `history_BI` is 1."""


def seen_matrix(dataset: Dataset) -> csr_array:
    """The pairs of the training split, float32 [U, I], 1 where a user has an item.

    Raises:
        UserError: if the data was not prepared by `dist-rec prepare ratings`.
    """
    seen_V = seen_pairs(dataset)
    users, items = (dataset.manifest.tables[name].rows for name in (USER, ITEM))
    ends_U = np.searchsorted(seen_V, np.arange(users + 1) * items)
    return csr_array((np.ones(len(seen_V), np.float32), seen_V % items, ends_U), shape=(users, items))


def score_split(
    baseline: Baseline, dataset: Dataset, split: str, seen_UI: csr_array, cutoffs: tuple[int, ...] | None = None
) -> dict[str, float]:
    """Metrics of a baseline on a split: those of task `implicit` if its rows have candidates, else those of `top_n`.

    Args:
        baseline: the fitted baseline.
        dataset: the prepared data.
        split: name of the split.
        seen_UI: result of `seen_matrix`.
        cutoffs: lengths of the lists that metrics are computed of; None: the task's.

    Raises:
        UserError: if the rows have neither candidates nor histories of items, or do not say what is seen.
    """
    among_candidates = _has_candidates(dataset)
    task = Implicit.Config() if among_candidates else TopN.Config()
    metrics = RankingMetrics("cpu", cutoffs or task.cutoffs)
    features = (USER, ITEM, CANDIDATES) if among_candidates else (HISTORY, TARGET, SEEN)
    rows = max(1, BLOCK // seen_UI.shape[1])
    loader = Loader(dataset, split, LoaderConfig(path=dataset.path), batch=rows, features=features, shuffle=False)
    for batch in loader.batches(0, loader.steps_per_epoch):
        if among_candidates:
            metrics.update(*_among_candidates(baseline, batch, seen_UI))
        else:
            metrics.update(*_among_all(baseline, batch, seen_UI.shape[1]))
    return metrics.compute()


def _has_candidates(dataset: Dataset) -> bool:
    column, names = dataset.manifest.column, dataset.manifest.names
    if CANDIDATES in names("sequence"):
        return True
    if not all(name in names("bag", "sequence") and column(name).table == ITEM for name in (HISTORY, TARGET)):
        raise UserError(
            f"{dataset.path} has neither candidates nor histories of items to rank; prepare the ratings with "
            "--split leave-one-out, or with --layout users"
        )
    if SEEN not in names("bag"):
        raise UserError(f"{dataset.path} does not say what users have {SEEN}: prepare the ratings again")
    return False


def _among_candidates(baseline: Baseline, batch: Batch, seen_UI: csr_array) -> Evidence:
    """Evidence of task `implicit`: the item among its candidates; raises UserError if it has none."""
    scores_QI = torch.from_numpy(baseline.scores(seen_UI[batch.ids[USER].values().numpy()]))
    grouped = with_candidates(batch)
    assert grouped.groups is not None
    return candidates_evidence(scores_QI.gather(1, grouped.groups.of(grouped.ids[ITEM].values())), grouped.groups)


def _among_all(baseline: Baseline, batch: Batch, items: int) -> Evidence:
    """Evidence of task `top_n`: the targets among all items except the seen ones and row 0."""
    target, seen = batch.column(TARGET), batch.column(SEEN)
    scores_BI = torch.from_numpy(baseline.scores(_matrix(batch.column(HISTORY), items)))
    query_V = torch.arange(batch.rows).repeat_interleave(target.lengths)
    target_V = scores_BI[query_V, target.values]
    scores_BI[_matrix(seen, items).nonzero()] = -torch.inf
    scores_BI[:, 0] = -torch.inf
    return evidence_of(_places(scores_BI, query_V, target.values, target_V), target, seen, items)


def _places(scores_BI: Tensor, query_V: Tensor, item_V: Tensor, target_V: Tensor) -> Tensor:
    """The places of each target, [V, 2], computed for B targets at a time."""
    places = [torch.empty(0, 2, dtype=torch.float64)]
    for some_U in torch.arange(len(item_V)).split(len(scores_BI)):
        s_UI = scores_BI[query_V[some_U]]
        s_UI[torch.arange(len(some_U)), item_V[some_U]] = -torch.inf
        places.append(places_among(s_UI, target_V[some_U]))
    return torch.cat(places)


def _matrix(ids: Ids, items: int) -> csr_array:
    """1 where a row names an item, float32 [B, I]."""
    ends_B = np.concatenate([[0], np.cumsum(ids.lengths.numpy())])
    ones_V = np.ones(len(ids.values), np.float32)
    return csr_array((ones_V, ids.values.numpy(), ends_B), shape=(len(ends_B) - 1, items))
