"""Pairs of a query and a row of a table: their scores, and sums of rows by query, with gradients.

The two vectors of a pair are read but not copied: scores are a sampled product of matrices, gradients are bags of
vectors. The gradient of a table is sparse, with one row for each distinct row of the pairs.

Shapes: G queries, R rows, D dimension, U pairs.
"""

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dist_rec.embedding.row_rules import row_gradients

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")


@dataclass(frozen=True)
class QueryRows:
    """Pairs of a query and a row, by query."""

    query_U: Tensor
    """int64, ascending."""
    row_U: Tensor
    """int64."""
    queries: int
    """Number of queries, G."""

    @cached_property
    def ends(self) -> Tensor:
        """Start of each query's pairs, and the end of the last query's, [G + 1]."""
        return torch.searchsorted(self.query_U, torch.arange(self.queries + 1, device=self.query_U.device))


def score_pairs(pairs: QueryRows, queries_GD: Tensor, weight_RD: Tensor, bias_R1: Tensor | None) -> Tensor:
    """q·w + b of each pair, [U]."""
    return _Scores.apply(pairs, queries_GD, weight_RD, bias_R1)


def sum_rows(pairs: QueryRows, weight_RD: Tensor) -> Tensor:
    """Sum of the rows of each query, [G, D]."""
    return _Sums.apply(pairs, weight_RD)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pairs: QueryRows, queries_GD: Tensor, weight_RD: Tensor, bias_R1: Tensor | None) -> Tensor:
        ctx.pairs, ctx.bias_shape = pairs, None if bias_R1 is None else bias_R1.shape
        ctx.save_for_backward(queries_GD, weight_RD)
        shape = (len(queries_GD), len(weight_RD))
        bias_U = queries_GD.new_zeros(len(pairs.row_U)) if bias_R1 is None else bias_R1[pairs.row_U].squeeze(1)
        if len(bias_U) > math.prod(shape):  # PyTorch allows at most as many values as the matrix has elements
            return bias_U + (queries_GD @ weight_RD.t())[pairs.query_U, pairs.row_U]
        places = torch.sparse_csr_tensor(pairs.ends, pairs.row_U, bias_U, shape, check_invariants=False)
        return torch.sparse.sampled_addmm(places, queries_GD, weight_RD.t()).values()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, Tensor | None]:
        pairs, (queries_GD, weight_RD), (grad_U,) = ctx.pairs, ctx.saved_tensors, grads
        of_queries_GD = _bags(pairs, weight_RD, grad_U)
        of_rows = row_gradients(pairs.row_U, pairs.query_U, queries_GD, grad_U)
        of_bias = None
        if ctx.bias_shape is not None:
            each_U = torch.arange(len(grad_U), device=grad_U.device)
            of_bias = _sparse(ctx.bias_shape, *row_gradients(pairs.row_U, each_U, grad_U.unsqueeze(1)))
        return None, of_queries_GD, _sparse(weight_RD.shape, *of_rows), of_bias


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pairs: QueryRows, weight_RD: Tensor) -> Tensor:
        ctx.pairs, ctx.shape = pairs, weight_RD.shape
        return _bags(pairs, weight_RD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, _sparse(ctx.shape, *row_gradients(ctx.pairs.row_U, ctx.pairs.query_U, grads[0].contiguous()))


def _bags(pairs: QueryRows, weight_RD: Tensor, factors_U: Tensor | None = None) -> Tensor:
    return functional.embedding_bag(
        pairs.row_U, weight_RD, pairs.ends, mode="sum", per_sample_weights=factors_U, include_last_offset=True
    )


def _sparse(shape: torch.Size, rows: Tensor, values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(rows.unsqueeze(0), values, shape, is_coalesced=True, check_invariants=False)
