"""Dropout that is fast on CPUs: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from
Overfitting", with units scaled up in training.

PyTorch draws a 64-bit number a unit in one thread there, which took half of a DeepFM's step; here a unit takes 16 bits,
and which units are dropped does not depend on how the rows are dealt to processes. On GPUs it is PyTorch's own.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_rec.core.noise import noise

LEVELS = 1 << 16


class Dropout(nn.Module):
    """Drops units in training; any shape whose first dimension is the rows.

    Args:
        p: probability that a unit is dropped. On CPUs it is rounded so that 1 / (1 - p), by which others are scaled, is
            a number of the input's type, and a unit's mean stays what it is: .1 becomes .0986 in bfloat16.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        if not self.training or not self.p:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.p)
        return x * _factors(x, self.p)


def _factors(x: Tensor, p: float) -> Tensor:
    """Zeros with probability p and 1 / (1 - p) elsewhere, in the shape and type of x."""
    scale = float(torch.tensor(1 / (1 - p), dtype=x.dtype))
    dropped = min(round(LEVELS * (1 - 1 / scale)), LEVELS - 1)
    rows, columns = len(x), math.prod(x.shape[1:])
    bits = noise.bits(rows, -(-columns // 4)).view(torch.int16)[:, :columns]
    # Written to a type of the same width: a comparison that gives bools is a hundred times slower.
    kept = torch.empty(rows, columns, dtype=torch.bfloat16)
    torch.ge(bits, dropped - LEVELS // 2, out=kept)
    return kept.view(x.shape).to(x.dtype).mul_(scale)
