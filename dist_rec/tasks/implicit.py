"""Implicit feedback: each row is a user and an item that they chose, to be told from items that they did not.

In training a row becomes a group: the positive and negatives that are drawn on the way. In evaluation it is ranked
among the candidates that the data gives for it: leave-one-out with 99 of them in He et al. 2017, section 4.1. Row 0
of the item table stands for all items that training never saw: they cannot be recommended and come last.

Shapes: B rows, G members of a group, the positive first.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.core import config
from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.data.negatives import Negatives
from dist_rec.data.shards import Dataset
from dist_rec.embedding.ranking import places_among
from dist_rec.tasks import task
from dist_rec.tasks.ranking_metrics import RankingMetrics

USER, ITEM, CANDIDATES = "user", "item", "candidates"
UNKNOWN = -1.0
"""The label of a member that is row 0."""
LOWEST = torch.finfo(torch.float32).min
"""Its score, above that of what fills a group up."""


class Implicit(task.PairTask):
    """Log loss or BPR against drawn negatives; the best model has the largest NDCG@10."""

    class Config(config.Config):
        """How negatives are drawn, and what is ranked."""

        name: Literal["implicit"] = "implicit"
        loss: Literal["logistic", "bpr"] = "logistic"
        """Binary cross-entropy of each member of a group, or of each pair of the positive and a negative."""
        negatives: int = Field(4, gt=0)
        """Items drawn for each positive, anew in every step; none of those that the user has in training."""
        by: Literal["uniform", "popularity"] = "uniform"
        """Every item alike, or in proportion to how many users have it."""
        alpha: float = Field(0.75, ge=0)
        """Power of the popularity."""
        candidates: int = Field(99, gt=0)
        """The most candidates that a row of the evaluation has."""
        cutoffs: tuple[int, ...] = Field((10,), min_length=1)
        """Lengths of the lists that are judged; 10 must be among them."""

        @field_validator("cutoffs")
        @classmethod
        def _has_ten(cls, cutoffs: tuple[int, ...]) -> tuple[int, ...]:
            if 10 not in cutoffs:
                raise ValueError("10 must be among them")
            return cutoffs

    best = ("ndcg@10", max)

    def columns(self, training: bool) -> tuple[str, ...]:
        """User and item, and the candidates in evaluation."""
        return (USER, ITEM) if training else (USER, ITEM, CANDIDATES)

    def expand(self, dataset: Dataset, training: bool, seed: int) -> task.Expand:
        """Groups."""
        if not training:
            return lambda batch, step: _with_candidates(batch, self.config.candidates)
        negatives = Negatives.of(dataset, seed, self.config.by, self.config.alpha)
        return lambda batch, step: _with_negatives(batch, step, negatives, self.config.negatives)

    def loss_sum(self, scores_B: Tensor, labels_B: Tensor, weights_B: Tensor) -> Tensor:
        """Sum over the groups of the weighted mean over their members, or pairs."""
        scores_BG = scores_B.view(-1, 1 + self.config.negatives)
        weights_BG = weights_B.view_as(scores_BG)
        if self.config.loss == "logistic":
            labels_BG = labels_B.view_as(scores_BG)
            losses = functional.binary_cross_entropy_with_logits(scores_BG, labels_BG, weights_BG, reduction="none")
        else:
            losses = weights_BG[:, 1:] * functional.softplus(scores_BG[:, 1:] - scores_BG[:, :1])
        return losses.mean(1).sum()

    def evidence(self, scores_B: Tensor, labels_B: Tensor, weights_B: Tensor) -> task.Evidence:
        """Places of the positive in each group, [B, 2], number of targets and of members, [B] each."""
        there_BG = weights_B.view(-1, 1 + self.config.candidates) > 0
        unknown_BG = labels_B.view_as(there_BG) == UNKNOWN
        scores_BG = scores_B.view_as(there_BG).masked_fill(unknown_BG, LOWEST).masked_fill(~there_BG, -torch.inf)
        members_B = there_BG.sum(1)
        return places_among(scores_BG[:, 1:], scores_BG[:, 0]), torch.ones_like(members_B), members_B

    def metrics(self, device: torch.device) -> RankingMetrics:
        """Hit rate, NDCG, recall and precision at the cutoffs; MRR, MAP and AUC."""
        return RankingMetrics(device, self.config.cutoffs)


def _with_negatives(batch: Batch, step: int, negatives: Negatives, num: int) -> Batch:
    user_B, item_B = (batch.ids[name].values().numpy() for name in (USER, ITEM))
    drawn_BN = negatives.draw(step, user_B, item_B, num)
    items_BG = torch.from_numpy(np.concatenate([item_B[:, None], drawn_BN], axis=1))
    return grouped(batch, items_BG, torch.ones(items_BG.shape))


def _with_candidates(batch: Batch, num: int) -> Batch:
    candidates = batch.ids[CANDIDATES]
    lengths_B = candidates.lengths()[: len(batch.labels)]
    check_candidates(lengths_B)
    most = int(lengths_B.max()) if len(lengths_B) else 0
    if most > num:
        raise UserError(f"a row has {most} candidates; set task.candidates to at least that many")
    there_BN = torch.arange(num) < lengths_B.unsqueeze(1)
    items_BN = torch.zeros(there_BN.shape, dtype=torch.int64)
    items_BN[there_BN] = candidates.values()
    positives_B1 = batch.ids[ITEM].values().unsqueeze(1)
    there_BG = torch.cat([torch.ones_like(positives_B1, dtype=torch.bool), there_BN], dim=1)
    items_BG = torch.cat([positives_B1, items_BN], dim=1)
    groups = grouped(batch, items_BG, there_BG.float())
    return replace(groups, labels=groups.labels.masked_fill(items_BG.view(-1) == 0, UNKNOWN))


def check_candidates(lengths_B: Tensor) -> None:
    """Raises UserError if a row has no candidates: its item would come first whatever the scores."""
    if not lengths_B.all():
        raise UserError(
            f"{int((lengths_B == 0).sum())} of {len(lengths_B)} rows have no candidates and cannot be ranked: evaluate "
            "a split whose rows all have some, such as test"
        )


def grouped(batch: Batch, items_BG: Tensor, weights_BG: Tensor) -> Batch:
    """Each row G times, with other items; the first of them has label 1.

    Args:
        batch: of categorical features.
        items_BG: int64.
        weights_BG: times the row's weight; 0 for what fills a group up.

    Raises:
        UserError: if the head reads bags or sequences.
    """
    members, rows = items_BG.shape[1], len(batch.labels)
    names = [name for name in batch.ids.keys() if name != CANDIDATES]  # noqa: SIM118
    values = []
    for name in names:
        if len(batch.ids[name].values()) != rows or batch.weighted_ids.keys():
            raise UserError(f"task implicit needs one id a row; feature {name!r} is a bag or a sequence")
        repeated = batch.ids[name].values().repeat_interleave(members)
        values.append(items_BG.reshape(-1).to(repeated.dtype) if name == ITEM else repeated)
    stride = batch.ids.stride() * members
    lengths = torch.zeros(len(names), stride, dtype=torch.int32)
    lengths[:, : rows * members] = 1
    labels_BG = torch.zeros(items_BG.shape)
    labels_BG[:, 0] = 1
    return Batch(
        dense=batch.dense.repeat_interleave(members, dim=0),
        ids=KeyedJaggedTensor(names, torch.cat(values), lengths=lengths.view(-1), stride=stride),
        weighted_ids=batch.weighted_ids,
        labels=labels_BG.view(-1),
        weights=(weights_BG * batch.weights.unsqueeze(1)).view(-1),
        scale=batch.scale,
    )
