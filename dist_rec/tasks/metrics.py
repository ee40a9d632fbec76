"""Exact metrics over the rows of all processes: equal to scikit-learn's on the gathered predictions.

A metric is updated with each batch of this process and computed once, by all processes together. Every count, sum and
check is over all processes, so all of them return the same numbers or raise the same error, however uneven their rows.

Shape suffixes: B rows of a batch, N rows of this process.
"""

import logging
import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from dist_rec.core.collective import alone, sum_over_processes
from dist_rec.core.errors import UserError
from dist_rec.tasks.auc import auc

log = logging.getLogger(__name__)


class ClickMetrics:
    """AUC, log loss, normalised entropy and calibration of clicks; labels are 0 or 1.

    Keeps 12 bytes a row on the device. `compute` briefly needs about 150 bytes a row: AUC sorts the rows by score over
    the processes, without gathering them on one.

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

    def compute(self) -> dict[str, float]:
        """The metrics over all rows; called by every process.

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
        sums = torch.stack([_click_sums(*chunk_3B.double()) for chunk_3B in self._chunks]).sum(0)
        rows, weight, bad_labels, positive, logloss, predicted = _checked_totals(sums)
        if bad_labels:
            raise UserError(f"{bad_labels:.0f} of {rows:.0f} labels are neither 0 nor 1; click metrics need clicks")
        rate = positive / weight
        entropy = -rate * math.log(rate) - (1 - rate) * math.log1p(-rate) if 0 < rate < 1 else math.nan
        if math.isnan(entropy) and (alone() or dist.get_rank() == 0):
            log.warning("AUC and normalised entropy are undefined: all %d labels are %.0f", rows, rate)
        return {
            "rows": rows,
            "auc": self._auc(),
            "logloss": logloss / weight,
            "ne": logloss / weight / entropy,
            "calibration": predicted / positive if positive else math.nan,
        }

    def _auc(self) -> float:
        logits_N, labels_N, weights_N = torch.cat(self._chunks, 1)
        positive_N = weights_N.double() * labels_N
        return auc(logits_N, torch.stack([weights_N - positive_N, positive_N], 1))


class RatingMetrics:
    """Root mean squared and mean absolute error of ratings; keeps six numbers.

    Args:
        device: of the tensors, on every process, also on one that has no rows.
        limits: smallest and largest rating, to which scores are clamped.
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
        self._sums += _rating_sums(scores_B.detach().double() - labels_B.double(), weights_B.double())

    def compute(self) -> dict[str, float]:
        """`rows`, `rmse` and `mae` over all rows, in the unit of the labels; called by every process.

        Raises:
            UserError: without rows, or with non-finite scores or bad weights.
        """
        rows, weight, squared, absolute = _checked_totals(self._sums)
        return {"rows": rows, "rmse": math.sqrt(squared / weight), "mae": absolute / weight}


def _click_sums(logits_B: Tensor, labels_B: Tensor, weights_B: Tensor) -> Tensor:
    return torch.stack(
        [
            *_checks(logits_B, weights_B),
            weights_B.sum(),
            _count((labels_B != 0) & (labels_B != 1)),
            (weights_B * labels_B).sum(),
            functional.binary_cross_entropy_with_logits(logits_B, labels_B, weights_B, reduction="sum"),
            (weights_B * logits_B.sigmoid()).sum(),
        ]
    )


def _rating_sums(error_B: Tensor, weights_B: Tensor) -> Tensor:
    squared, absolute = (weights_B * error_B.square()).sum(), (weights_B * error_B.abs()).sum()
    return torch.stack([*_checks(error_B, weights_B), weights_B.sum(), squared, absolute])


def _checks(scores_B: Tensor, weights_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of rows, of non-finite scores and of bad weights."""
    bad_weights_B = ~(weights_B.isfinite() & (weights_B >= 0))
    return scores_B.new_full((), len(scores_B)), _count(~scores_B.isfinite()), _count(bad_weights_B)


def _count(true_B: Tensor) -> Tensor:
    return true_B.sum(dtype=torch.float64)


def _checked_totals(sums: Tensor) -> list[float]:
    """Totals over the processes of `_checks`, the weight and other sums, without the numbers of bad rows, all 0."""
    rows, bad_scores, bad_weights, weight, *others = sum_over_processes(sums).tolist()
    if not rows:
        raise UserError("the split has no rows to compute metrics of")
    if bad_scores:
        raise UserError(f"{bad_scores:.0f} of {rows:.0f} scores are NaN or infinite; the model has diverged")
    if bad_weights:
        raise UserError(f"{bad_weights:.0f} of {rows:.0f} row weights are negative, NaN or infinite")
    if not weight:
        raise UserError(f"the weights of all {rows:.0f} rows are 0")
    return [rows, weight, *others]
