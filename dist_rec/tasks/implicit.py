"""Implicit feedback: each row is a user and an item that they chose; a model scores it above items they did not choose.

A row becomes a group (`Batch.groups`) of the chosen item and others: drawn negatives in training, the row's candidates
from the data in evaluation (leave-one-out with 99 of them in He et al. 2017, section 4.1). Row 0 of the item table
stands for all items that do not occur in training: they cannot be recommended and are ranked last.

Shapes: Q rows of the data, G members of a group, the chosen item first, C = G - 1 candidates, B = Q G scored rows.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.core.batch import Batch, Groups
from dist_rec.core.errors import UserError
from dist_rec.data.negatives import Negatives
from dist_rec.data.shards import Dataset
from dist_rec.embedding.ranking import places_among
from dist_rec.tasks import task
from dist_rec.tasks.ranking_metrics import RankingConfig, RankingMetrics

USER, ITEM, CANDIDATES = "user", "item", "candidates"


class Implicit(task.Task):
    """Log loss, squared loss or BPR against drawn negatives."""

    class Config(RankingConfig):
        """Settings of the loss, the negatives and the ranking."""

        name: Literal["implicit"] = "implicit"
        loss: Literal["logistic", "squared", "bpr"] = "logistic"
        """Binary cross-entropy or weighted squared error of each member of a group, or BPR: binary cross-entropy of
        each pair of the positive and a negative."""
        negative_weight: float = Field(1.0, gt=0)
        """w of the negatives in the squared loss, Σ w (y - ŷ)²; the positives have w = 1."""
        negatives: int = Field(4, gt=0)
        """Items drawn for each positive in every step, from those that the user does not have in training."""
        by: Literal["uniform", "popularity"] = "uniform"
        """Probability of drawing an item: equal, or proportional to (number of its users)^alpha."""
        alpha: float = Field(0.75, ge=0)
        """Exponent of the popularity."""
        candidates: int = Field(99, gt=0)
        """Largest number of candidates of a row in evaluation."""
        cutoffs: tuple[int, ...] = Field((10,), min_length=1)
        """Lengths of the lists that metrics are computed of."""
        best: str = Field("ndcg@10", validate_default=True)
        """The metric that early stopping and the best checkpoint go by."""

        @field_validator("negative_weight")
        @classmethod
        def _is_used(cls, weight: float, info: ValidationInfo) -> float:
            loss = info.data.get("loss")
            if weight != 1 and loss in ("logistic", "bpr"):
                raise ValueError(f"loss {loss!r} does not weight negatives; leave it at 1, or set loss to 'squared'")
            return weight

    judges = ("rows",)

    @property
    def training_columns(self) -> tuple[str, ...]:
        """User and item."""
        return (USER, ITEM)

    @property
    def evaluation_columns(self) -> tuple[str, ...]:
        """User, item and candidates."""
        return (USER, ITEM, CANDIDATES)

    def for_training(self, dataset: Dataset, seed: int) -> task.Transform:
        """Adds negatives to each row."""
        negatives = Negatives.of(dataset, seed, self.config.by, self.config.alpha)
        return lambda batch, step: _with_negatives(batch, step, negatives, self.config.negatives)

    def for_evaluation(self, dataset: Dataset) -> task.Transform:
        """Adds candidates to each row."""
        return lambda batch, step: with_candidates(batch, self.config.candidates)

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean loss over the members or the pairs of each group, [Q]."""
        assert batch.groups is not None
        scores_QG = batch.groups.of(scores)
        if self.config.loss == "bpr":
            return functional.softplus(scores_QG[:, 1:] - scores_QG[:, :1]).mean(1)
        chosen_QG = torch.zeros_like(scores_QG)
        chosen_QG[:, 0] = 1
        if self.config.loss == "squared":
            return weighted_squared_error(scores_QG, chosen_QG, self.config.negative_weight).mean(1)
        return functional.binary_cross_entropy_with_logits(scores_QG, chosen_QG, reduction="none").mean(1)

    def evidence(self, scores: Tensor, batch: Batch) -> task.Evidence:
        """See `evidence_of`."""
        assert batch.groups is not None
        return evidence_of(batch.groups.of(scores.float()), batch.groups)

    def metrics(self, device: torch.device) -> RankingMetrics:
        """Hit rate, NDCG, recall and precision at the cutoffs; MRR, MAP and AUC."""
        return RankingMetrics(device, self.config.cutoffs)


def weighted_squared_error(scores_QG: Tensor, chosen_QG: Tensor, negative_weight: float) -> Tensor:
    """w (y - ŷ)² of each member, [Q, G]: He et al. 2017, "Neural Collaborative Filtering", equation 5.

    Args:
        scores_QG: ŷ, the head's scores as they are, without a sigmoid.
        chosen_QG: y, 1 for the chosen items and 0 for the others.
        negative_weight: w of the others; the chosen items have w = 1.
    """
    weight_QG = chosen_QG + negative_weight * (1 - chosen_QG)
    return weight_QG * (chosen_QG - scores_QG).square()


def evidence_of(scores_QG: Tensor, groups: Groups) -> task.Evidence:
    """Places of the chosen item in each group [Q, 2], and numbers of targets and of members, [Q] each."""
    lowest = torch.finfo(scores_QG.dtype).min
    scores_QG = scores_QG.masked_fill(~groups.known, lowest).masked_fill(~groups.present, -torch.inf)
    members_Q = groups.present.sum(1)
    return places_among(scores_QG[:, 1:], scores_QG[:, 0]), torch.ones_like(members_Q), members_Q


def _with_negatives(batch: Batch, step: int, negatives: Negatives, num: int) -> Batch:
    user_Q, item_Q = (batch.ids[name].values().numpy() for name in (USER, ITEM))
    drawn_QC = negatives.draw(step, user_Q, item_Q, num)
    items_QG = torch.from_numpy(np.concatenate([item_Q[:, None], drawn_QC], axis=1))
    return _grouped(batch, items_QG, torch.ones(items_QG.shape, dtype=torch.bool))


def with_candidates(batch: Batch, num: int | None = None) -> Batch:
    """Each row of the batch as a group of its item and its candidates.

    Args:
        batch: a batch with the columns user, item and candidates.
        num: candidates of a group, C; None: the largest number of a row.

    Raises:
        UserError: if a row has more candidates, or none, with which its item would always be first.
    """
    candidates = batch.column(CANDIDATES)
    without, most = int((candidates.lengths == 0).sum()), int(max(candidates.lengths, default=0))
    if without:
        raise UserError(
            f"{without} of {batch.rows} rows have no candidates and cannot be ranked; evaluate a split in which all "
            "rows have candidates, such as test"
        )
    if num is not None and most > num:
        raise UserError(f"a row has {most} candidates; set task.candidates to at least that many")
    present_QC = torch.arange(most if num is None else num) < candidates.lengths.unsqueeze(1)
    items_QC = torch.zeros(present_QC.shape, dtype=torch.int64)
    items_QC[present_QC] = candidates.values
    chosen_Q1 = batch.ids[ITEM].values().unsqueeze(1)
    items_QG = torch.cat([chosen_Q1, items_QC], dim=1)
    return _grouped(batch, items_QG, torch.cat([torch.ones_like(chosen_Q1, dtype=torch.bool), present_QC], dim=1))


def _grouped(batch: Batch, items_QG: Tensor, present_QG: Tensor) -> Batch:
    """Each row repeated G times with the items of its group; raises UserError if the head reads bags or sequences."""
    members, rows = items_QG.shape[1], batch.rows
    names = [name for name in batch.ids.keys() if name != CANDIDATES]  # noqa: SIM118
    values = []
    for name in names:
        if len(batch.ids[name].values()) != rows or batch.weighted_ids.keys():
            raise UserError(f"task implicit needs one id a row; feature {name!r} is a bag or a sequence")
        repeated = batch.ids[name].values().repeat_interleave(members)
        values.append(items_QG.reshape(-1).to(repeated.dtype) if name == ITEM else repeated)
    stride = batch.ids.stride() * members
    lengths = torch.zeros(len(names), stride, dtype=torch.int32)
    lengths[:, : rows * members] = 1
    return replace(
        batch,
        dense=batch.dense.repeat_interleave(members, dim=0),
        ids=KeyedJaggedTensor(names, torch.cat(values), lengths=lengths.view(-1), stride=stride),
        groups=Groups(present_QG, known=items_QG != 0),
    )
