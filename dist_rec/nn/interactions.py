"""Interactions between feature embeddings.

Shapes: B rows, F features, D embedding dimension, P = F (F - 1) / 2 pairs, I = F D inputs, R rank, H feature maps.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dist_rec.core.errors import UserError


class _PairwiseDots(torch.autograd.Function):
    """z_BP, the entries below the diagonal of X X^T.

    The gradient of X X^T is symmetric: one gather puts the pairs on both sides of the diagonal, and one product
    is enough: dX = (G + G^T) X.
    """

    @staticmethod
    def forward(ctx: Any, x_BFD: Tensor, pair_P: Tensor, place_FF: Tensor) -> Tensor:
        dots_BFF = torch.bmm(x_BFD, x_BFD.transpose(1, 2))
        ctx.save_for_backward(x_BFD, place_FF)
        return _columns(dots_BFF.flatten(1), pair_P)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x_BFD, place_FF = ctx.saved_tensors
        features = x_BFD.shape[1]
        grad_BFF = _columns(grads[0].to(x_BFD.dtype), place_FF).unflatten(1, (features, features))
        grad_BFF.diagonal(dim1=1, dim2=2).zero_()
        return torch.bmm(grad_BFF, x_BFD), None, None


def _columns(x_BC: Tensor, columns_P: Tensor) -> Tensor:
    """The columns of these numbers, [B, P]; `index_select` takes three to five times as long for bfloat16 on CPUs."""
    return x_BC.gather(1, columns_P.expand(len(x_BC), -1))


class PairwiseDots(nn.Module):
    """Dot products of all pairs of F vectors: [B, F, D] → [B, P].

    Raises:
        UserError: if there are no pairs.
    """

    pair_P: Tensor
    place_FF: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        if features < 2:
            raise UserError(f"pairwise dot products need two features or more, but there is {features}")
        rows, columns = torch.tril_indices(features, features, offset=-1)
        place_FF = torch.zeros(features, features, dtype=torch.int64)
        place_FF[rows, columns] = place_FF[columns, rows] = torch.arange(len(rows))
        self.register_buffer("pair_P", rows * features + columns, persistent=False)
        self.register_buffer("place_FF", place_FF.flatten(), persistent=False)
        self.outputs = len(rows)

    def forward(self, x_BFD: Tensor) -> Tensor:
        """[B, F, D] → [B, P]."""
        return _PairwiseDots.apply(x_BFD, self.pair_P, self.place_FF)


def bi_interaction(x_BFD: Tensor, *more_BD: Tensor) -> Tensor:
    """Sum over all pairs of features of the element-wise product of their vectors: [B, F, D] → [B, D].

    He and Chua 2017, equation 4, in O(F D): (squared sum - sum of squares) / 2. Its sum over D is the
    second-order term of a factorization machine (Rendle 2010, lemma 3.1).

    Args:
        x_BFD: vectors of the features.
        more_BD: sum of the vectors of further features, and sum of their squares.
    """
    return _BiInteraction.apply(x_BFD, *more_BD)


class _BiInteraction(torch.autograd.Function):
    """The gradient by x_f is the sum of the other features: two passes over [B, F, D] where autograd makes six."""

    @staticmethod
    def forward(ctx: Any, x_BFD: Tensor, *more_BD: Tensor) -> Tensor:
        sum_BD, squares_BD = x_BFD.sum(1), x_BFD.square().sum(1)
        if more_BD:
            sum_BD, squares_BD = sum_BD + more_BD[0], squares_BD + more_BD[1]
        ctx.save_for_backward(x_BFD, sum_BD)
        return 0.5 * (sum_BD.square() - squares_BD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        x_BFD, sum_BD = ctx.saved_tensors
        grad_BFD = (sum_BD.unsqueeze(1) - x_BFD).mul_(grads[0].unsqueeze(1))
        return (grad_BFD, sum_BD * grads[0], -0.5 * grads[0])[: len(ctx.needs_input_grad)]


def summed_outer(x_BFD: Tensor) -> Tensor:
    """Outer products of all pairs of features, summed: [B, F, D] → [B, D D].

    Qu et al. 2016, section III-C, "superposition": the outer product of the sum of the vectors with itself.
    """
    sum_BD = x_BFD.sum(1)
    return (sum_BD.unsqueeze(2) * sum_BD.unsqueeze(1)).flatten(1)


class CrossNet(nn.Module):
    """Wang et al. 2017, equation 3: x' = x_0 (x . w) + b + x for each layer; [B, I] → [B, I]."""

    def __init__(self, inputs: int, layers: int) -> None:
        super().__init__()
        self.weights_LI = nn.Parameter(torch.empty(layers, inputs).normal_(std=inputs**-0.5))
        self.biases_LI = nn.Parameter(torch.zeros(layers, inputs))

    def forward(self, x_BI: Tensor) -> Tensor:
        """[B, I] → [B, I]."""
        first_BI = x_BI
        for weight_I, bias_I in zip(self.weights_LI, self.biases_LI, strict=True):
            x_BI = first_BI * (x_BI @ weight_I).unsqueeze(1) + bias_I + x_BI
        return x_BI


class CrossNetV2(nn.Module):
    """Wang et al. 2021, equations 1 and 2: x' = x_0 * (W x + b) + x for each layer; [B, I] → [B, I].

    Args:
        inputs: I.
        layers: number of cross layers.
        rank: R of W = U V^T; None: W is a full matrix.
    """

    def __init__(self, inputs: int, layers: int, rank: int | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_cross_weight(inputs, rank) for _ in range(layers))

    def forward(self, x_BI: Tensor) -> Tensor:
        """[B, I] → [B, I]."""
        first_BI = x_BI
        for layer in self.layers:
            x_BI = torch.addcmul(x_BI, first_BI, layer(x_BI))
        return x_BI


def _cross_weight(inputs: int, rank: int | None) -> nn.Module:
    if rank is None:
        return nn.Linear(inputs, inputs)
    return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, inputs))


class CompressedInteractions(nn.Module):
    """The compressed interaction network, CIN: Lian et al. 2018, equations 6 and 7.

    Feature map h of a layer is the sum, with weights W_h, of the element-wise products of all pairs of a map of the
    layer before and an input feature. The output is every map summed over D. There is no activation.

    Args:
        features: F.
        maps: H of each layer.
    """

    def __init__(self, features: int, maps: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (features, *maps)
        self.layers = nn.ModuleList(
            nn.Linear(size, after * features, bias=False) for size, after in zip(sizes, maps, strict=False)
        )
        self.outputs = sum(maps)

    def forward(self, x_BFD: Tensor) -> Tensor:
        """[B, F, D] → [B, sum of maps]."""
        rows, features, dim = x_BFD.shape
        # Over N = B D independent coordinates, weighting the maps first: two matrix products, no outer product.
        x_NH = first_NF = x_BFD.transpose(1, 2).flatten(0, 1)
        pooled = []
        for layer in self.layers:
            weighted_NHF = layer(x_NH).unflatten(1, (-1, features))
            x_NH = torch.bmm(weighted_NHF, first_NF.unsqueeze(2)).squeeze(2)
            pooled.append(x_NH.unflatten(0, (rows, dim)).sum(1))
        return torch.cat(pooled, dim=1)
