"""Interactions between feature embeddings.

Shapes: B rows, F features, D embedding dimension, P = F (F - 1) / 2 pairs.
"""

from typing import Any

import torch
from torch import Tensor, nn


class _PairwiseDots(torch.autograd.Function):
    """z_BP = the entries below the diagonal of X X^T.

    The gradient of X X^T is symmetric, so one gather lays the pairs out on both sides of the diagonal and one product
    is enough: dX = (G + G^T) X.
    """

    @staticmethod
    def forward(ctx: Any, x_BFD: Tensor, pair_P: Tensor, place_FF: Tensor) -> Tensor:
        dots_BFF = torch.bmm(x_BFD, x_BFD.transpose(1, 2))
        ctx.save_for_backward(x_BFD, place_FF)
        return dots_BFF.flatten(1).index_select(1, pair_P)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x_BFD, place_FF = ctx.saved_tensors
        features = x_BFD.shape[1]
        grad_BFF = grads[0].to(x_BFD.dtype).index_select(1, place_FF).unflatten(1, (features, features))
        grad_BFF.diagonal(dim1=1, dim2=2).zero_()
        return torch.bmm(grad_BFF, x_BFD), None, None


class PairwiseDots(nn.Module):
    """Dot products of all pairs of F vectors: [B, F, D] → [B, P]."""

    pair_P: Tensor
    place_FF: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        rows, columns = torch.tril_indices(features, features, offset=-1)
        place_FF = torch.zeros(features, features, dtype=torch.int64)
        place_FF[rows, columns] = place_FF[columns, rows] = torch.arange(len(rows))
        self.register_buffer("pair_P", rows * features + columns, persistent=False)
        self.register_buffer("place_FF", place_FF.flatten(), persistent=False)
        self.outputs = len(rows)

    def forward(self, x_BFD: Tensor) -> Tensor:
        """[B, F, D] → [B, P]."""
        return _PairwiseDots.apply(x_BFD, self.pair_P, self.place_FF)
