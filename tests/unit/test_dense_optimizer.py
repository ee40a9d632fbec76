"""The optimizer of the dense parameters: PyTorch's own, and momentum against a plain loop."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_rec.train.config import OptimizerConfig
from dist_rec.train.dense_optimizer import MomentumOptimizer, dense_optimizer

LR, STEPS = 0.1, 6
SHAPES = [(3, 2), (4,), ()]


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in SHAPES]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1 + step)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def train(optimizer: torch.optim.Optimizer, some: list[Tensor], steps: range) -> list[Tensor]:
    for step in steps:
        for parameter, gradient in zip(some, gradients(step), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return [parameter.detach() for parameter in some]


def build(some: list[Tensor], **settings: str | float) -> torch.optim.Optimizer:
    return dense_optimizer(OptimizerConfig.parse({"lr": LR, **settings}), some)


@pytest.mark.parametrize("name", ["adam", "adagrad", "sgd"])
def test_without_momentum_it_is_pytorch(name: str) -> None:
    optimizer = build(parameters(), name=name, momentum=0.0)
    assert type(optimizer).__module__.startswith("torch.optim")
    assert optimizer.defaults["fused"]


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_momentum_of_sgd_is_that_of_pytorch(decay: float) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = build(ours, name="sgd", momentum=0.5, weight_decay=decay)
    assert isinstance(optimizer, MomentumOptimizer)
    expected = torch.optim.SGD(theirs, lr=LR, momentum=0.5, weight_decay=decay)
    torch.testing.assert_close(train(optimizer, ours, range(STEPS)), train(expected, theirs, range(STEPS)))


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_momentum_of_adagrad_holds_the_learning_rate(decay: float) -> None:
    ours, expected = parameters(), [parameter.detach().numpy().copy() for parameter in parameters()]
    optimizer = build(ours, name="adagrad", momentum=0.5, weight_decay=decay, eps=1e-3)
    n, v = ([np.zeros(shape) for shape in SHAPES] for _ in range(2))
    for step in range(STEPS):
        lr = optimizer.param_groups[0]["lr"] = LR / (1 + step)
        train(optimizer, ours, range(step, step + 1))
        for i, gradient in enumerate(gradients(step)):
            g = gradient.numpy() + decay * expected[i]
            n[i] = n[i] + g**2
            v[i] = 0.5 * v[i] - lr * g / (np.sqrt(n[i]) + 1e-3)
            expected[i] = expected[i] + v[i]
    for ours_i, expected_i in zip(ours, expected, strict=True):
        np.testing.assert_allclose(ours_i.detach().numpy(), expected_i, rtol=1e-12)


def test_its_state_loads() -> None:
    whole, halves = parameters(), parameters()
    settings = {"name": "adagrad", "momentum": 0.5}
    expected = train(build(whole, **settings), whole, range(STEPS))
    first = build(halves, **settings)
    train(first, halves, range(3))
    second = build(halves, **settings)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(train(second, halves, range(3, STEPS)), expected, rtol=0, atol=0)


def test_what_has_no_gradient_stands_still() -> None:
    some = parameters()
    optimizer = build(some, name="adagrad", momentum=0.5)
    train(optimizer, some, range(2))
    before = [parameter.detach().clone() for parameter in some]
    optimizer.zero_grad()
    optimizer.step()
    torch.testing.assert_close([parameter.detach() for parameter in some], before, rtol=0, atol=0)
