"""The convention of the CTR heads: every feature, dense or not, is a field with one vector.

An id feature's vector is looked up (of bags and sequences, the sum over their ids). Dense feature j of value x has the
vector x v_j, as in factorization machines (Rendle 2010, section III), so that dense features take part in every kind of
interaction; x is standardised by batch normalisation first. A first-order weight is one more column of the same vector,
column 0: it costs no lookup of its own.

Shapes: B rows, N dense features, F fields (the dense ones first), D dimension.
"""

import torch
from torch import Tensor, nn

from dist_rec.core.errors import UserError
from dist_rec.core.schema import ID_KINDS, Manifest
from dist_rec.nn.norm import BatchNorm

INIT = 0.1


def id_features(manifest: Manifest, chosen: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The chosen id features, or all of the data's if none are.

    Raises:
        UserError: if the data has none, or a chosen one is unknown or holds no ids.
    """
    features = chosen or manifest.names(*ID_KINDS)
    if not features:
        raise UserError("this head needs id features (categorical, bag or sequence columns); the data has none")
    for feature in features:
        manifest.rows_of(feature)
    return features


class Fields(nn.Module):
    """Joins dense features and looked-up ones.

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


def split_weights(x_BFD: Tensor) -> tuple[Tensor, Tensor]:
    """Fields with first-order weights in column 0: [B, F, 1 + D] → sum of the weights [B], factors [B, F, D].

    A split, since its gradient is one concatenation where those of two slices are zeros, copies and a sum.
    """
    weights_BF1, factors_BFD = x_BFD.split((1, x_BFD.shape[2] - 1), dim=2)
    return weights_BF1.sum((1, 2)), factors_BFD
