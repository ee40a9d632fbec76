"""Dropout that is fast on CPUs: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from
Overfitting", with units scaled up in training.

On CPUs PyTorch draws 64 bits a unit in one thread, which took half of a DeepFM's step; here a unit takes 16 bits, and
the dropped units do not depend on the assignment of rows to processes. On GPUs it is PyTorch's dropout.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_rec.core.noise import noise

LEVELS = 1 << 16
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Dropout(nn.Module):
    """Drops units in training; the first dimension of the input is the rows, or their ids end to end.

    Args:
        p: probability that a unit is dropped. On CPUs it is rounded so that the input's type represents the scale of
            the other units, 1 / (1 - p), exactly, and a unit keeps its mean: .1 becomes .0986 in bfloat16.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """The same shape; `lengths_B` says how many ids each row has, where the first dimension is ids."""
        if not self.training or not self.p:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.p)
        return x * _scaled(*_kept(x, self.p, lengths_B), x.dtype)


class ReLUDropout(Dropout):
    """ReLU, then dropout; on CPUs one product with a mask of both, forward and backward.

    On CPUs -inf gives NaN in training, where ReLU alone gives 0.
    """

    def forward(self, x: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """As of `Dropout`."""
        if not self.training or not self.p or x.device.type != "cpu":
            return super().forward(functional.relu(x), lengths_B)
        kept, scale = _kept(x, self.p, lengths_B)
        # The bits of a positive float are a positive integer, and integers compare three times as fast as bfloat16.
        positive = torch.gt(x.detach().view(kept.dtype), 0, out=torch.empty_like(kept))
        return x * _scaled(kept.mul_(positive), scale, x.dtype)


def _kept(x: Tensor, p: float, lengths_B: Tensor | None = None) -> tuple[Tensor, float]:
    """1 for units that are kept and 0 for others, as integers of the width of x's type; and the scale."""
    scale = float(torch.tensor(1 / (1 - p), dtype=x.dtype))
    dropped = min(round(LEVELS * (1 - 1 / scale)), LEVELS - 1)
    rows, columns = len(x), math.prod(x.shape[1:])
    words = -(-columns // 4)
    words_RC = noise.bits(rows, words) if lengths_B is None else noise.bits_of_ids(lengths_B, words)
    bits = words_RC.view(torch.int16)[:, :columns]
    # In place, which keeps the type: a comparison that gives bools is a hundred times slower.
    return bits.ge_(dropped - LEVELS // 2).reshape(x.shape).to(INTEGERS[x.element_size()]), scale


def _scaled(ones: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Zeros and ones, which are overwritten, to 0 and `scale` in a float type of the same width."""
    return ones.mul_(torch.tensor(scale, dtype=dtype).view(ones.dtype)).view(dtype)
