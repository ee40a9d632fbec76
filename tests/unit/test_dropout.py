"""Dropout: how many units are dropped, what becomes of the others, and what their gradients are."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dist_rec.core.noise import noise
from dist_rec.nn.dropout import Dropout, ReLUDropout


@given(p=st.floats(0.01, 0.99), dtype=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 99))
def test_units_are_dropped_or_scaled(p: float, dtype: torch.dtype, seed: int) -> None:
    noise.begin(seed, 0, 0, 101)
    x = torch.rand(101, 97).to(dtype).requires_grad_()
    y = Dropout(p)(x)
    kept = y != 0
    assert abs(kept.float().mean() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / x.numel())
    torch.testing.assert_close(y[kept], (x / (1 - p))[kept], rtol=2e-2 if dtype == torch.bfloat16 else 1e-3, atol=0)
    y.sum().backward()
    torch.testing.assert_close(x.grad, kept / (1 - p), rtol=1e-2, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [96, 97])
def test_after_relu_it_is_one_factor(dtype: torch.dtype, columns: int) -> None:
    found = []
    for module in (nn.Sequential(nn.ReLU(), Dropout(0.3)), ReLUDropout(0.3)):
        noise.begin(0, 0, 0, 50)
        x = torch.randn(50, columns, generator=torch.manual_seed(0)).to(dtype)
        x[0, :5] = torch.tensor([0.0, -0.0, torch.nan, -torch.nan, torch.inf])
        x.requires_grad_()
        y = module(x)
        y[1:].float().sum().backward()
        found.append((y, x.grad))
    (y, gradient), (expected, expected_gradient) = found
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(gradient, expected_gradient)
    assert y[0, 2:4].isnan().all()


@pytest.mark.parametrize("shape", [(0, 3), (1,), (5, 7, 3)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    assert Dropout(0.5)(torch.ones(shape)).shape == ReLUDropout(0.5)(torch.ones(shape)).shape == shape


@pytest.mark.parametrize("dropout", [Dropout, ReLUDropout])
def test_ids_are_dropped_alike_however_their_rows_are_dealt(dropout: type[Dropout]) -> None:
    lengths_B, x = torch.tensor([3, 0, 700, 1, 296]), torch.rand(1000, 13) + 1
    whole, parts = dropped(dropout, x, lengths_B, 0), []
    for first, last in ((0, 2), (2, 2), (2, 5)):
        before = int(lengths_B[:first].sum())
        own = x[before : before + int(lengths_B[first:last].sum())]
        parts.append(dropped(dropout, own, lengths_B[first:last], first))
    assert torch.equal(torch.cat(parts), whole)
    assert abs((whole == 0).float().mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / x.numel())


def dropped(dropout: type[Dropout], x: torch.Tensor, lengths_B: torch.Tensor, first_row: int) -> torch.Tensor:
    noise.begin(0, 0, first_row, len(lengths_B))
    return dropout(0.3)(x, lengths_B)


def test_neighbours_are_dropped_independently() -> None:
    noise.begin(0, 0, 0, 1)
    kept = Dropout(0.5)(torch.ones(1, 1 << 20)).squeeze(0) != 0
    for distance in (1, 2, 3, 4, 5, 8):
        together = (kept[distance:] & kept[:-distance]).float().mean()
        assert abs(together - 0.25) < 0.003, distance


def test_the_seed_decides() -> None:
    def draw(seed: int) -> torch.Tensor:
        noise.begin(seed, 0, 0, 1)
        return Dropout(0.3)(torch.ones(1, 1000))

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_evaluation_drops_nothing() -> None:
    x = torch.rand(10, 10)
    assert torch.equal(Dropout(0.9).eval()(x), x) and torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(ReLUDropout(0.9).eval()(x - 0.5), (x - 0.5).relu())
