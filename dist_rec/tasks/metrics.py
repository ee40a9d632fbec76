"""Exact metrics over the rows of all processes: what scikit-learn gives on the gathered predictions.

A metric is updated with each batch of this process and computed once, together. Every count, sum and refusal is of all
processes, so that all of them return the same numbers or raise the same error, however unevenly the rows lie.

Shape suffixes: B rows of a batch, N rows of this process.
"""

import logging
import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from dist_rec.core.errors import UserError
from dist_rec.tasks.auc import auc

log = logging.getLogger(__name__)


class ClickMetrics:
    """AUC, log loss, normalised entropy and calibration of clicks; labels are 0 or 1.

    Keeps 12 bytes a row on the device. `compute` needs about 150 bytes a row for a moment, wherever the rows lie: AUC
    sorts them by score over the processes and gathers them nowhere.

    Args:
        device: of the tensors, on every process, also on one that has no rows.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._chunks = [torch.empty(3, 0, device=device)]

    def update(self, logits_B: Tensor, labels_B: Tensor, weights_B: Tensor | None = None) -> None:
        """Adds the rows of a batch, of any length; the tensors are copied."""
        if weights_B is None:
            weights_B = torch.ones_like(labels_B)
        self._chunks.append(torch.stack([logits_B.detach().float(), labels_B.float(), weights_B.float()]))

    def compute(self, group: dist.ProcessGroup | None = None) -> dict[str, float]:
        """The metrics over all rows; called by every process of the group (default: all; alone: without one).

        Returns:
            rows: number of rows.
            auc: area under the ROC curve, ties counted half; NaN if all labels are equal.
            logloss: mean of -log p(label), in nats.
            ne: normalised entropy, log loss over the entropy of the mean label (He et al. 2014, section 2); NaN if
                all labels are equal.
            calibration: mean prediction over mean label (He et al. 2014); NaN without a positive label.

        Raises:
            UserError: without rows, or with non-finite scores, labels other than 0 and 1, or bad weights.
        """
        sums = torch.stack([_click_sums(*chunk_3B) for chunk_3B in self._chunks]).sum(0)
        rows, bad_scores, bad_labels, bad_weights, weight, positive, logloss, predicted = _all_sum(sums, group)
        _refuse(rows, bad_scores, bad_weights, weight)
        if bad_labels:
            raise UserError(f"{bad_labels:.0f} of {rows:.0f} labels are neither 0 nor 1; click metrics need clicks")
        rate = positive / weight
        entropy = -rate * math.log(rate) - (1 - rate) * math.log1p(-rate) if 0 < rate < 1 else math.nan
        if math.isnan(entropy) and _first(group):
            log.warning("AUC and normalised entropy are undefined: all %d labels are %.0f", rows, rate)
        return {
            "rows": rows,
            "auc": self._auc(group),
            "logloss": logloss / weight,
            "ne": logloss / weight / entropy,
            "calibration": predicted / positive if positive else math.nan,
        }

    def _auc(self, group: dist.ProcessGroup | None) -> float:
        logits_N, labels_N, weights_N = torch.cat(self._chunks, 1)
        positive_N = weights_N.double() * labels_N
        weight_N2 = torch.stack([weights_N - positive_N, positive_N], 1)
        return auc(logits_N, weight_N2, group)


class RatingMetrics:
    """Root mean squared and mean absolute error of ratings; keeps six numbers.

    Args:
        device: of the tensors, on every process, also on one that has no rows.
        limits: smallest and largest rating; scores outside count as these.
    """

    def __init__(self, device: torch.device | str, limits: tuple[float, float] | None = None) -> None:
        self._limits = limits
        self._sums = torch.zeros(6, dtype=torch.float64, device=device)

    def update(self, scores_B: Tensor, labels_B: Tensor, weights_B: Tensor | None = None) -> None:
        """Adds the rows of a batch, of any length."""
        if weights_B is None:
            weights_B = torch.ones_like(labels_B)
        if self._limits is not None:
            scores_B = scores_B.clamp(*self._limits)
        self._sums += _rating_sums(scores_B.detach().double(), labels_B.double(), weights_B.double())

    def compute(self, group: dist.ProcessGroup | None = None) -> dict[str, float]:
        """`rows`, `rmse` and `mae` over all rows, in the unit of the labels; called by every process of the group.

        Raises:
            UserError: without rows, or with non-finite scores or bad weights.
        """
        rows, bad_scores, bad_weights, weight, squared, absolute = _all_sum(self._sums, group)
        _refuse(rows, bad_scores, bad_weights, weight)
        return {"rows": rows, "rmse": math.sqrt(squared / weight), "mae": absolute / weight}


def _click_sums(logits_B: Tensor, labels_B: Tensor, weights_B: Tensor) -> Tensor:
    logits, labels, weights = logits_B.double(), labels_B.double(), weights_B.double()
    return torch.stack(
        [
            logits.new_full((), len(logits)),
            _count(~logits.isfinite()),
            _count((labels != 0) & (labels != 1)),
            _count(_bad_weights(weights)),
            weights.sum(),
            (weights * labels).sum(),
            functional.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum"),
            (weights * logits.sigmoid()).sum(),
        ]
    )


def _rating_sums(scores_B: Tensor, labels_B: Tensor, weights_B: Tensor) -> Tensor:
    error_B = scores_B - labels_B
    return torch.stack(
        [
            error_B.new_full((), len(error_B)),
            _count(~error_B.isfinite()),
            _count(_bad_weights(weights_B)),
            weights_B.sum(),
            (weights_B * error_B.square()).sum(),
            (weights_B * error_B.abs()).sum(),
        ]
    )


def _count(true_B: Tensor) -> Tensor:
    return true_B.sum(dtype=torch.float64)


def _bad_weights(weights_B: Tensor) -> Tensor:
    return ~(weights_B.isfinite() & (weights_B >= 0))


def _refuse(rows: float, bad_scores: float, bad_weights: float, weight: float) -> None:
    if not rows:
        raise UserError("the split has no rows to compute metrics of")
    if bad_scores:
        raise UserError(f"{bad_scores:.0f} of {rows:.0f} scores are NaN or infinite; the model has diverged")
    if bad_weights:
        raise UserError(f"{bad_weights:.0f} of {rows:.0f} row weights are negative, NaN or infinite")
    if not weight:
        raise UserError(f"the weights of all {rows:.0f} rows are 0")


def _first(group: dist.ProcessGroup | None) -> bool:
    return not dist.is_initialized() or dist.get_rank(group) == 0


def _all_sum(sums: Tensor, group: dist.ProcessGroup | None) -> list[float]:
    sums = sums.clone()
    if dist.is_initialized():
        dist.all_reduce(sums, group=group)
    return sums.tolist()
