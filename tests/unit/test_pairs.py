"""Scores of pairs and sums of rows equal what dense matrices give, with their gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.embedding.pairs import QueryRows, score_pairs, sum_rows

GENERATED = dict(
    seed=st.integers(0, 2**32), queries=st.integers(1, 5), rows=st.integers(1, 6), pairs=st.integers(0, 20)
)


def drawn(seed: int, queries: int, rows: int, pairs: int) -> tuple[QueryRows, list[torch.Tensor]]:
    """Pairs, some of them twice, and queries, weights and biases."""
    generator = torch.Generator().manual_seed(seed)
    query_U = torch.randint(queries, (pairs,), generator=generator).sort()[0]
    row_U = torch.randint(rows, (pairs,), generator=generator)
    shapes = [(queries, 3), (rows, 3), (rows, 1)]
    tensors = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    return QueryRows(query_U, row_U, queries), tensors


def assert_same(ours: torch.Tensor, dense: torch.Tensor, inputs: list[torch.Tensor], seed: int) -> None:
    torch.testing.assert_close(ours, dense)
    gradient = torch.randn(dense.shape, generator=torch.Generator().manual_seed(seed + 1))
    found, expected = (torch.autograd.grad(output, inputs, gradient) for output in (ours, dense))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.to_dense(), other)


@pytest.mark.parametrize("with_bias", [True, False])
@given(**GENERATED)
def test_scores(with_bias: bool, seed: int, queries: int, rows: int, pairs: int) -> None:
    which, (q, w, b) = drawn(seed, queries, rows, pairs)
    dense = (q @ w.t() + (b.t() if with_bias else 0))[which.query_U, which.row_U]
    ours = score_pairs(which, q, w, b if with_bias else None)
    assert_same(ours, dense, [q, w, b] if with_bias else [q, w], seed)


@given(**GENERATED)
def test_sums(seed: int, queries: int, rows: int, pairs: int) -> None:
    which, (_, w, _) = drawn(seed, queries, rows, pairs)
    dense = torch.zeros(queries, 3).index_add(0, which.query_U, w[which.row_U])
    assert_same(sum_rows(which, w), dense, [w], seed)


@given(**GENERATED)
def test_the_gradient_names_each_row_once(seed: int, queries: int, rows: int, pairs: int) -> None:
    which, (q, w, b) = drawn(seed, queries, rows, pairs)
    for gradient in torch.autograd.grad(score_pairs(which, q, w, b).sum(), [w, b]):
        assert gradient.is_coalesced()
        assert gradient.indices()[0].tolist() == sorted(set(which.row_U.tolist()))
