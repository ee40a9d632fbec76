"""Causal attention: each position of a sequence looks at itself and those before it.

Shapes: V positions of all sequences end to end, D columns of a position; of a rectangle N sequences, T positions, C any
columns; H heads, K columns of a head's queries and keys, E of its values, M = N H matrices.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_rec.nn.dropout import Dropout
from dist_rec.nn.sequences import Sequences

# Of a score whose position comes later; large, but its product with SiLU's zero is no NaN as that of infinity would be.
LATER = -1e30


class PositionedItems(nn.Module):
    """Items with the place where they stand, √D e + p, and dropout: Kang and McAuley 2018, "Self-Attentive Sequential
    Recommendation", equation 1, with items scaled as in Vaswani et al. 2017, section 3.4.

    Positions are counted from the start of a sequence, so that what comes later changes nothing before it.

    Args:
        longest: positions that there are vectors for.
        dim: D.
        dropout: probability of dropping a unit.
    """

    def __init__(self, longest: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.empty(longest, dim).normal_(std=dim**-0.5))
        self.dropout = Dropout(dropout)

    def forward(self, x_VD: Tensor, sequences: Sequences) -> Tensor:
        """[V, D] → [V, D]."""
        position_VD = functional.embedding(sequences.number_V, self.position)
        return self.dropout(math.sqrt(x_VD.shape[1]) * x_VD + position_VD, sequences.lengths_B)


class SelfAttention(nn.Module):
    """Softmax attention of several heads: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.

    Args:
        dim: D, a multiple of the heads.
        heads: H.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project, self.output = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        for part in self.project.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        nn.init.xavier_uniform_(self.output.weight)
        for layer in (self.project, self.output):
            nn.init.zeros_(layer.bias)

    def forward(self, x_VD: Tensor, sequences: Sequences) -> Tensor:
        """[V, D] → [V, D]."""
        return self.output(sequences.in_rectangles(self._attend, self.project(x_VD)))

    def _attend(self, x_NTC: Tensor) -> Tensor:
        q_MTK, k_MTK, v_MTK = (_by_head(part, self.heads) for part in x_NTC.chunk(3, dim=2))
        later_TT = q_MTK.new_full((q_MTK.shape[1],) * 2, -torch.inf).triu_(1)
        q_MTK = q_MTK / math.sqrt(q_MTK.shape[2])
        return _together(torch.bmm(_scores(q_MTK, k_MTK, later_TT).softmax(2), v_MTK), self.heads)


class PointwiseAttention(nn.Module):
    """Attention without softmax, SiLU(Q Kᵀ + bias) V, with a bias for each distance of two positions: Zhai et al. 2024,
    "Actions Speak Louder than Words", equation 2, whose bias of time is left out.

    As in the authors' code, the result is divided by the longest length.

    Args:
        longest: of the sequences that may come.
        heads: H.
        key: K.
        value: E.
    """

    def __init__(self, longest: int, heads: int, key: int, value: int) -> None:
        super().__init__()
        self.longest, self.heads, self.sizes = longest, heads, (heads * value, heads * key, heads * key)
        self.distance = nn.Parameter(torch.empty(longest).normal_(std=0.02))

    def forward(self, x_VC: Tensor, sequences: Sequences) -> Tensor:
        """Values, queries and keys of all heads side by side, [V, H (E + 2 K)] → [V, H E]."""
        bias_TT = self._bias(sequences.longest).to(x_VC.dtype)

        def attend(x_NTC: Tensor) -> Tensor:
            v_MTE, q_MTK, k_MTK = (_by_head(part, self.heads) for part in x_NTC.split(self.sizes, dim=2))
            now_TT = bias_TT[: x_NTC.shape[1], : x_NTC.shape[1]]
            return _together(torch.bmm(functional.silu(_scores(q_MTK, k_MTK, now_TT)), v_MTE), self.heads)

        return sequences.in_rectangles(attend, x_VC) / self.longest

    def _bias(self, positions: int) -> Tensor:
        """Of a query (row) and a key (column), [T, T]."""
        later = self.distance.new_full((max(0, positions - 1),), LATER)
        by_difference = torch.cat([self.distance[:positions].flip(0), later])
        return by_difference.unfold(0, positions, 1).flip(0) if positions else by_difference.view(0, 0)


def _scores(q_MTK: Tensor, k_MTK: Tensor, bias_TT: Tensor) -> Tensor:
    """Q Kᵀ + bias, [M, T, T]."""
    return torch.baddbmm(bias_TT.expand(len(q_MTK), -1, -1), q_MTK, k_MTK.mT)


def _by_head(x_NTC: Tensor, heads: int) -> Tensor:
    """[N, T, H K] → [M, T, K]."""
    return x_NTC.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)


def _together(x_MTK: Tensor, heads: int) -> Tensor:
    """[M, T, K] → [N, T, H K]."""
    return x_MTK.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)
