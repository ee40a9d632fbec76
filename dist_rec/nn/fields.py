"""The convention of the CTR heads: every feature, dense or not, is a field with one vector.

The vector of an id feature is looked up (for bags and sequences, summed over their ids). Dense feature j of value x has
the vector x v_j, as in factorization machines (Rendle 2010, section III), so that dense features take part in every
kind of interaction; x is first standardised by batch normalisation. A first-order weight is column 0 of the same
vector, so it needs no lookup of its own.

Shapes: B rows, N dense features, F fields (the dense ones first), D dimension, O outputs.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_rec.core import head
from dist_rec.core.errors import UserError
from dist_rec.core.schema import ID_KINDS, Manifest
from dist_rec.nn.interactions import bi_interaction
from dist_rec.nn.norm import BatchNorm

INIT = 0.1


def id_features(manifest: Manifest, chosen: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The chosen id features, or all id features of the data if none are chosen.

    Raises:
        UserError: if the data has no id feature, or a chosen one is unknown or holds no ids.
    """
    features = chosen or manifest.names(*ID_KINDS)
    if not features:
        raise UserError("this head needs id features (categorical, bag or sequence columns); the data has none")
    for feature in features:
        manifest.rows_of(feature)
    return features


class Fields(nn.Module):
    """Joins dense features and looked-up id features.

    Args:
        manifest: gives the number of dense features, N.
        ids: number of id features.
        dim: D.
    """

    def __init__(self, manifest: Manifest, ids: int, dim: int) -> None:
        super().__init__()
        dense = len(manifest.names("dense"))
        self.count = dense + ids
        self.norm = BatchNorm(dense) if dense else None
        self.dense_ND = nn.Parameter(torch.empty(dense, dim).uniform_(-INIT, INIT)) if dense else None

    def forward(self, dense_BN: Tensor, ids_BFD: Tensor) -> Tensor:
        """[B, N] and [B, F - N, D] → [B, F, D]."""
        if self.norm is None:
            return ids_BFD
        return torch.cat([self.norm(dense_BN).unsqueeze(2) * self.dense_ND, ids_BFD], dim=1)

    def factored(self, dense_BN: Tensor, ids_BFD: Tensor) -> "FactoredFields":
        """The same fields, with the dense ones kept as factors x and v."""
        if self.norm is None or self.dense_ND is None:
            return FactoredFields(dense_BN[:, :0], ids_BFD.new_zeros(0, ids_BFD.shape[2]), ids_BFD)
        return FactoredFields(self.norm(dense_BN), self.dense_ND, ids_BFD)


class FieldsHead(head.Head):
    """A head whose input is one vector for each field: lookup `factors` of all id features, joined by `self.fields`.

    The dimension is `config.dim`, D. With `first_order` a vector has 1 + D columns and the lookup's name is `fields`.
    """

    first_order: ClassVar[bool] = False
    """Whether column 0 of each vector is a first-order weight."""

    @classmethod
    def lookups(cls, config: Any, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """One vector for each id."""
        name = "fields" if cls.first_order else "factors"
        return (head.Lookup(name, id_features(manifest), cls.first_order + config.dim),)

    def __init__(self, config: Any, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.fields = Fields(manifest, len(id_features(manifest)), self.first_order + config.dim)


@dataclass(frozen=True)
class FactoredFields:
    """Fields with the dense ones as factors, x_n v_n: functions linear in them cost N columns instead of N D."""

    x_BN: Tensor
    vectors_ND: Tensor
    ids_BFD: Tensor
    """Only the id features."""

    def split_weights(self) -> tuple[Tensor, "FactoredFields"]:
        """See the function of this name."""
        weight_N1, vectors_ND = self.vectors_ND.split((1, self.vectors_ND.shape[1] - 1), dim=1)
        linear_B, ids_BFD = split_weights(self.ids_BFD)
        return linear_B + self._sum(self.x_BN, weight_N1).squeeze(1), FactoredFields(self.x_BN, vectors_ND, ids_BFD)

    def bi_interaction(self) -> Tensor:
        """See the function of this name; [B, D]."""
        squares_BD = self._sum(self.x_BN.square(), self.vectors_ND.square())
        return bi_interaction(self.ids_BFD, self._sum(self.x_BN, self.vectors_ND), squares_BD)

    def linear(self, layer: nn.Linear) -> Tensor:
        """A linear layer on the concatenated fields, [B, O]."""
        columns = self.vectors_ND.numel()
        of_dense, of_ids = layer.weight.split((columns, layer.in_features - columns), dim=1)
        weight_ON = (of_dense.unflatten(1, self.vectors_ND.shape) * self.vectors_ND).sum(2)
        x_BI = torch.cat([self.x_BN, self.ids_BFD.flatten(1)], dim=1)
        return functional.linear(x_BI, torch.cat([weight_ON, of_ids], dim=1), layer.bias)

    @staticmethod
    def _sum(x_BN: Tensor, vectors_ND: Tensor) -> Tensor:
        with torch.autocast(x_BN.device.type, enabled=False):
            return x_BN.to(vectors_ND.dtype) @ vectors_ND


def split_weights(x_BFD: Tensor) -> tuple[Tensor, Tensor]:
    """Fields with first-order weights in column 0: [B, F, 1 + D] → sum of the weights [B], factors [B, F, D].

    It uses `split`, whose gradient is one concatenation; the gradients of two slices would be zeros, copies and a sum.
    """
    weights_BF1, factors_BFD = x_BFD.split((1, x_BFD.shape[2] - 1), dim=2)
    return weights_BF1.sum((1, 2)), factors_BFD
