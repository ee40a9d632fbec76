"""Update rules for the rows of a batch: pure functions of rows, their gradients and their state.

Only rows that the batch looked up are changed ("lazy" updates): moments of other rows do not decay and L2 does not
shrink them, unlike under `torch.optim.Adam` and similar optimizers, which change every row in every step.

Shapes: R rows of a matrix, U of them touched, D columns, V lookups.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dist_rec.embedding.tables import TableSettings

# Rows updated at a time, so that gathered rows and temporaries stay in the cache.
CHUNK = 16384


class RowRule(ABC):
    """An element-wise update that keeps padding zero: weight, gradient and state of zero give a weight of zero."""

    @property
    @abstractmethod
    def state(self) -> tuple[str, ...]:
        """Names of the state tensors; where FBGEMM has the rule, TorchRec's names for its state."""

    def initial_state(self, w_RD: Tensor) -> list[Tensor]:
        """State of a matrix before the first step, in the order of `self.state`."""
        return [torch.zeros_like(w_RD) for _ in self.state]

    @abstractmethod
    def update(self, w_UD: Tensor, g_UD: Tensor, state: list[Tensor], lr: float, step: int) -> None:
        """Updates weights and state in place.

        Args:
            w_UD: weights of the rows.
            g_UD: their gradients; may be overwritten.
            state: state of the rows, in the order of `self.state`, each [U, D] (row-wise Adagrad's [U]).
            lr: learning rate of this step.
            step: number of this step, which starts at 1.
        """


@dataclass(frozen=True)
class SGD(RowRule):
    """w ← w − lr g."""

    state = ()

    def update(self, w_UD: Tensor, g_UD: Tensor, state: list[Tensor], lr: float, step: int) -> None:
        """See `RowRule.update`."""
        w_UD.sub_(g_UD, alpha=lr)


@dataclass(frozen=True)
class Adagrad(RowRule):
    """Duchi, Hazan and Singer 2011: n ← n + g², w ← w − lr g / (√n + eps)."""

    eps: float
    state = ("momentum1",)

    def update(self, w_UD: Tensor, g_UD: Tensor, state: list[Tensor], lr: float, step: int) -> None:
        """See `RowRule.update`."""
        (n_UD,) = state
        n_UD.addcmul_(g_UD, g_UD)
        w_UD.addcdiv_(g_UD, n_UD.sqrt().add_(self.eps), value=-lr)


@dataclass(frozen=True)
class RowWiseAdagrad(RowRule):
    """Adagrad with one accumulator a row, as in FBGEMM: n ← n + mean(g²) over a shard's D columns with padding."""

    eps: float
    state = ("momentum1",)

    def initial_state(self, w_RD: Tensor) -> list[Tensor]:
        """See `RowRule.initial_state`."""
        return [w_RD.new_zeros(len(w_RD))]

    def update(self, w_UD: Tensor, g_UD: Tensor, state: list[Tensor], lr: float, step: int) -> None:
        """See `RowRule.update`."""
        (n_U,) = state
        n_U.add_(g_UD.square().mean(1))
        w_UD.addcdiv_(g_UD, n_U.sqrt().add_(self.eps).unsqueeze(1), value=-lr)


@dataclass(frozen=True)
class Momentum(RowRule):
    """v ← μv + Δ, w ← w + v, where Δ is what SGD or Adagrad would add to the weights; other rows stand still.

    As in the code of Hidasi et al. 2016, "Session-based Recommendations with Recurrent Neural Networks": v includes the
    learning rate. There Adagrad divides by √(n + eps), here by √n + eps, as without momentum.
    """

    rule: SGD | Adagrad
    momentum: float

    @property
    def state(self) -> tuple[str, ...]:
        """See `RowRule.state`."""
        return (*self.rule.state, "velocity")

    def update(self, w_UD: Tensor, g_UD: Tensor, state: list[Tensor], lr: float, step: int) -> None:
        """See `RowRule.update`."""
        *state, v_UD = state
        self.rule.update(v_UD.mul_(self.momentum), g_UD, state, lr, step)
        w_UD.add_(v_UD)


@dataclass(frozen=True)
class Adam(RowRule):
    """Kingma and Ba 2015, algorithm 1, on the rows of the batch: "LazyAdam", as `torch.optim.SparseAdam`.

    Moments of other rows keep their values; t of the bias correction is the global step, not the number of updates of
    the row. FBGEMM's CUDA kernel computes the same:
    m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², w ← w − lr m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + eps).
    """

    beta1: float
    beta2: float
    eps: float
    state = ("momentum1", "exp_avg_sq")

    def update(self, w_UD: Tensor, g_UD: Tensor, state: list[Tensor], lr: float, step: int) -> None:
        """See `RowRule.update`."""
        m_UD, v_UD = state
        m_UD.lerp_(g_UD, 1 - self.beta1)
        v_UD.mul_(self.beta2).addcmul_(g_UD, g_UD, value=1 - self.beta2)
        root = v_UD.sqrt().div_(math.sqrt(1 - self.beta2**step)).add_(self.eps)
        w_UD.addcdiv_(m_UD, root, value=-lr / (1 - self.beta1**step))


@dataclass(frozen=True)
class FTRL(RowRule):
    """FTRL-proximal: McMahan et al. 2013, "Ad Click Prediction: a View from the Trenches", algorithm 1; α is lr.

    With Q = (β + √n)/α, the algorithm is z ← z + g − (Q' − Q)w, w ← −(z − sign(z)λ₁) / (Q' + λ₂), or 0 if |z| ≤ λ₁.
    Where w ≠ 0 it implies z = −(Q + λ₂)w − sign(w)λ₁, which is computed in place of z here: the same numbers for a
    constant α, the proximal step of the new rate for a scheduled α (the printed algorithm would scale the weights by
    the change of α), and a valid start for initial weights other than 0. g is the gradient of the mean loss of the
    global batch; the scale of λ₁ and λ₂ is that of its sum over steps.
    """

    l1: float
    l2: float
    beta: float
    state = ("z", "n")

    def update(self, w_UD: Tensor, g_UD: Tensor, state: list[Tensor], lr: float, step: int) -> None:
        """See `RowRule.update`."""
        if lr == 0:  # the end of a schedule: Q is infinite
            return
        z_UD, n_UD = state
        n_UD.addcmul_(g_UD, g_UD)
        curvature = n_UD.sqrt().add_(self.beta).div_(lr).add_(self.l2)
        z_UD.masked_fill_(w_UD != 0, 0).addcmul_(curvature, w_UD, value=-1).sub_(w_UD.sign(), alpha=self.l1).add_(g_UD)
        w_UD.copy_(z_UD).clamp_(-self.l1, self.l1).sub_(z_UD).div_(curvature)


def row_gradients(
    rows_V: Tensor, places_V: Tensor, gradient: Tensor, factors_V: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of the rows of a matrix: sums over the lookups of each row.

    Args:
        rows_V: row that each of V lookups read.
        places_V: row of `gradient` that each lookup contributed to.
        gradient: [P, D].
        factors_V: factor of each lookup; None: 1.

    Returns:
        The different rows, ascending, [U], and their gradients, [U, D].
    """
    rows_V, order_V = rows_V.sort(stable=True)
    rows_U, counts_U = rows_V.unique_consecutive(return_counts=True)
    factors_V = None if factors_V is None else factors_V[order_V]
    starts_U = counts_U.cumsum(0) - counts_U
    return rows_U, functional.embedding_bag(
        places_V[order_V], gradient, starts_U, mode="sum", per_sample_weights=factors_V
    )


def by_row(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [V] of a dense or sparse gradient of a matrix, which may repeat, and their gradients, [V, D]."""
    if gradient.is_sparse:
        return gradient._indices()[0], gradient._values()
    return torch.arange(len(gradient), device=gradient.device), gradient


def sum_by_row(rows_V: Tensor, gradient_VD: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows, ascending, [U], and the sums of their gradients, [U, D]."""
    return row_gradients(rows_V, torch.arange(len(rows_V), device=rows_V.device), gradient_VD)


@dataclass(frozen=True)
class Rows:
    """A rule with L2 that updates rows of a matrix and of its state."""

    rule: RowRule
    weight_decay: float
    """L2: weight_decay times the weight is added to the gradient of each updated row."""

    def update(self, matrices: list[Tensor], rows_U: Tensor, gradient_UD: Tensor, lr: float, step: int) -> None:
        """Updates some rows.

        Args:
            matrices: weights [R, D] and the rule's state.
            rows_U: distinct rows.
            gradient_UD: their gradients, which are overwritten.
            lr: learning rate of this step.
            step: number of this step, which starts at 1.
        """
        for rows, gradient in zip(rows_U.split(CHUNK), gradient_UD.split(CHUNK), strict=True):
            touched = [matrix.index_select(0, rows) for matrix in matrices]
            self._update(touched, gradient, lr, step)
            for matrix, updated in zip(matrices, touched, strict=True):
                matrix.index_copy_(0, rows, updated)

    def update_all(self, matrices: list[Tensor], gradient_RD: Tensor, lr: float, step: int) -> None:
        """Updates all rows; for the arguments see `update`."""
        for *parts, gradient in zip(*(matrix.split(CHUNK) for matrix in (*matrices, gradient_RD)), strict=True):
            self._update(parts, gradient, lr, step)

    def _update(self, matrices: list[Tensor], gradient: Tensor, lr: float, step: int) -> None:
        weights, *state = matrices
        if self.weight_decay:
            gradient.add_(weights, alpha=self.weight_decay)
        self.rule.update(weights, gradient, state, lr, step)


def with_momentum(rule: SGD | Adagrad, momentum: float) -> RowRule:
    """The rule itself if momentum is 0."""
    return Momentum(rule, momentum) if momentum else rule


def row_update(settings: TableSettings) -> Rows:
    """The row rule and the L2 of a table's settings."""
    rule: RowRule
    match settings.optimizer:
        case "sgd":
            rule = with_momentum(SGD(), settings.momentum)
        case "adagrad":
            rule = with_momentum(Adagrad(settings.eps), settings.momentum)
        case "rowwise_adagrad":
            rule = RowWiseAdagrad(settings.eps)
        case "adam":
            rule = Adam(settings.beta1, settings.beta2, settings.eps)
        case "ftrl":
            rule = FTRL(settings.l1, settings.l2, settings.beta)
    return Rows(rule, settings.weight_decay)
