"""The rules against torch.optim and the papers' formulas; rows' gradients against a plain sum."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.embedding.row_rules import FTRL, SGD, Adagrad, Adam, Momentum, RowRule, RowWiseAdagrad, row_gradients

ROWS, DIM, STEPS, LR = 9, 4, 12, 0.05
RULES: list[RowRule] = [
    SGD(),
    Adagrad(1e-6),
    RowWiseAdagrad(1e-6),
    Momentum(Adagrad(1e-6), 0.5),
    Adam(0.9, 0.99, 1e-6),
    FTRL(0.1, 0.2, 1.0),
]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def train(rule: RowRule, weights: Tensor, touched: list[Tensor], gradients: list[Tensor]) -> Tensor:
    weights = weights.clone()
    row_wise = isinstance(rule, RowWiseAdagrad)
    state = [torch.zeros_like(weights[:, 0] if row_wise else weights) for _ in rule.state]
    for step, (rows, gradient) in enumerate(zip(touched, gradients, strict=True), 1):
        gathered, parts = weights[rows], [part[rows] for part in state]
        rule.update(gathered, gradient[rows].clone(), parts, LR, step)
        weights[rows] = gathered
        for part, updated in zip(state, parts, strict=True):
            part[rows] = updated
    return weights


def steps(seed: int, all_rows: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    touched = [torch.arange(ROWS) if all_rows else torch.arange(ROWS)[normal(seed + t, ROWS) > 0] for t in range(STEPS)]
    return normal(seed, ROWS, DIM), touched, [normal(seed + 100 + t, ROWS, DIM) for t in range(STEPS)]


@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [
        (Adam(0.9, 0.99, 1e-6), lambda w: torch.optim.Adam([w], lr=LR, betas=(0.9, 0.99), eps=1e-6)),
        (Adagrad(1e-6), lambda w: torch.optim.Adagrad([w], lr=LR, eps=1e-6)),
        (SGD(), lambda w: torch.optim.SGD([w], lr=LR)),
        (Momentum(SGD(), 0.7), lambda w: torch.optim.SGD([w], lr=LR, momentum=0.7)),
    ],
)
def test_with_all_rows_touched_a_rule_is_the_dense_optimizer(rule: RowRule, optimizer: type) -> None:
    weights, touched, gradients = steps(1, all_rows=True)
    expected = weights.clone().requires_grad_()
    dense = optimizer(expected)
    for gradient in gradients:
        expected.grad = gradient
        dense.step()
    torch.testing.assert_close(train(rule, weights, touched, gradients), expected.detach())


def test_adam_is_the_sparse_one() -> None:
    weights, touched, gradients = steps(2, all_rows=False)
    expected = weights.clone().requires_grad_()
    # SparseAdam adds eps before the bias correction of the root.
    sparse = torch.optim.SparseAdam([expected], lr=LR, betas=(0.9, 0.99), eps=1e-30)
    for rows, gradient in zip(touched, gradients, strict=True):
        expected.grad = torch.sparse_coo_tensor(rows[None], gradient[rows], (ROWS, DIM), check_invariants=False)
        sparse.step()
    torch.testing.assert_close(train(Adam(0.9, 0.99, 1e-30), weights, touched, gradients), expected.detach())


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9])
def test_momentum_of_adagrad_is_of_the_rows_of_the_batch(momentum: float) -> None:
    weights, touched, gradients = steps(6, all_rows=False)
    w, n, v = weights.numpy().copy(), np.zeros((ROWS, DIM)), np.zeros((ROWS, DIM))
    for rows, all_gradients in zip(touched, gradients, strict=True):
        for i in rows.tolist():
            g = all_gradients[i].numpy()
            n[i] += g**2
            v[i] = momentum * v[i] - LR * g / (np.sqrt(n[i]) + 1e-6)
            w[i] += v[i]
    trained = train(Momentum(Adagrad(1e-6), momentum), weights, touched, gradients)
    np.testing.assert_allclose(trained.numpy(), w, rtol=1e-12)


@settings(max_examples=50)
@given(st.integers(0, 1000), st.sampled_from([0, 0.3, 3.0]), st.sampled_from([0, 0.5]), st.sampled_from([0.1, 1.0]))
def test_ftrl_is_algorithm_1(seed: int, l1: float, l2: float, beta: float) -> None:
    _, touched, gradients = steps(seed, all_rows=False)
    w, z, n = (np.zeros((ROWS, DIM)) for _ in range(3))
    for rows, all_gradients in zip(touched, gradients, strict=True):
        for i in rows.tolist():
            g = all_gradients[i].numpy()
            w[i] = np.where(abs(z[i]) <= l1, 0, -(z[i] - np.sign(z[i]) * l1) / ((beta + np.sqrt(n[i])) / LR + l2))
            sigma = (np.sqrt(n[i] + g**2) - np.sqrt(n[i])) / LR
            z[i] += g - sigma * w[i]
            n[i] += g**2
    w = np.where(abs(z) <= l1, 0, -(z - np.sign(z) * l1) / ((beta + np.sqrt(n)) / LR + l2))
    trained = train(FTRL(l1, l2, beta), torch.zeros(ROWS, DIM, dtype=torch.float64), touched, gradients)
    np.testing.assert_allclose(trained.numpy(), w, atol=1e-12, rtol=1e-9)


def test_ftrl_without_penalties_is_gradient_descent_at_any_schedule() -> None:
    weights = normal(3, ROWS, DIM)
    expected, n = weights.clone(), torch.zeros(ROWS, DIM, dtype=torch.float64)
    state = [torch.zeros_like(weights) for _ in range(2)]
    for step, lr in enumerate((0.01, 0.1, 0.05, 0.001, 0.0), 1):
        gradient = normal(10 + step, ROWS, DIM)
        n += gradient**2
        expected -= lr * gradient / (1 + n.sqrt())
        FTRL(0.0, 0.0, 1.0).update(weights, gradient.clone(), state, lr, step)
        torch.testing.assert_close(weights, expected)


def test_l1_makes_zeros() -> None:
    weights, touched, gradients = steps(4, all_rows=True)
    few, many = (train(FTRL(l1, 0.0, 1.0), 0 * weights, touched, gradients).eq(0).sum() for l1 in (0.5, 3.0))
    assert 0 < few < many < weights.numel()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_padding_stays_zero(rule: RowRule) -> None:
    weights, touched, gradients = steps(5, all_rows=False)
    weights[:, 2:] = 0
    for gradient in gradients:
        gradient[:, 2:] = 0
    trained = train(rule, weights, touched, gradients)
    assert (trained[:, 2:] == 0).all()
    assert (trained[:, :2] != weights[:, :2]).any()


@given(st.data())
def test_gradients_of_rows_are_sums_over_lookups(data: st.DataObject) -> None:
    lookups, places = data.draw(st.integers(0, 30)), 5
    rows = torch.tensor(data.draw(st.lists(st.integers(0, 6), min_size=lookups, max_size=lookups)), dtype=torch.int64)
    place = torch.tensor(
        data.draw(st.lists(st.integers(0, places - 1), min_size=lookups, max_size=lookups)), dtype=torch.int64
    )
    gradient = torch.arange(places * 2.0).view(places, 2)
    factors = torch.arange(lookups) * 1.0 if data.draw(st.booleans()) else None
    found, sums = row_gradients(rows, place, gradient, factors)
    expected = torch.zeros(7, 2).index_add_(0, rows, gradient[place] * (1 if factors is None else factors[:, None]))
    assert found.tolist() == sorted(set(rows.tolist()))
    torch.testing.assert_close(sums, expected[found])
