"""Dropout: how many units are dropped, what becomes of the others, and what their gradients are."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.core.noise import noise
from dist_rec.nn.dropout import Dropout


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


@pytest.mark.parametrize("shape", [(0, 3), (1,), (5, 7, 3)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    assert Dropout(0.5)(torch.ones(shape)).shape == shape


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
