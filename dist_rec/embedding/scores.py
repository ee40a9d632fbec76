"""Scores of queries against the rows of a row-sharded table, s = q·w + b; no process holds the matrix of scores.

If a row's length does not count, w / ‖w‖ takes the place of w.

Each process scores the queries of all processes against its own rows: a loss over all rows gathers the queries and
reduces a few numbers a query over processes. As in `Objective`, a process's loss is that of its own queries, and
gradients are those of the sum of all processes' losses. They are exact for the queries; for the rows, the optimizer of
the shards takes the mean over processes, as DDP does.

Shapes: B queries of this process, G of all processes, D dimension, R rows of this process, C rows of a chunk, V
pairs of a query and a row, S rows that meet all queries.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dist_rec.core.collective import (
    Gathered,
    alone,
    gather_over_processes,
    logsumexp_over_processes,
    sum_over_processes,
)
from dist_rec.core.errors import UserError
from dist_rec.core.head import Ids
from dist_rec.embedding.pairs import QueryRows, score_pairs, sum_rows

# Numbers in a chunk of the matrix of scores, 16 MiB.
CHUNK = 1 << 22
# A row's length, at least, where it is divided by.
SHORTEST = 1e-12


class Reduction(NamedTuple):
    """A reduction of each query's scores of all rows to one number."""

    of_rows: Callable[[Tensor], Tensor]
    """Result for the rows of a chunk: [G, C] → [G]."""
    empty: float
    """Result for no rows."""
    together: Callable[[Tensor, Tensor], Tensor]
    """Result for two sets of rows, from the result of each."""
    over_processes: Callable[[Tensor], Tensor]
    """Result for the rows of all processes, from that of each process."""
    slope: Callable[[Tensor, Tensor], Tensor]
    """Derivative by the scores: from [G, C] and the result of this process's rows, [G]; may overwrite the scores."""


LOGSUMEXP = Reduction(
    lambda s_GC: s_GC.logsumexp(1),
    -torch.inf,
    torch.logaddexp,
    logsumexp_over_processes,
    lambda s_GC, total_G: s_GC.sub_(total_G.unsqueeze(1)).exp_(),
)
SUM_SOFTPLUS = Reduction(
    lambda s_GC: functional.softplus(s_GC).sum(1),
    0.0,
    torch.add,
    sum_over_processes,
    lambda s_GC, _: s_GC.sigmoid_(),
)
SUM_SQUARES = Reduction(
    lambda s_GC: s_GC.square().sum(1),
    0.0,
    torch.add,
    sum_over_processes,
    lambda s_GC, _: s_GC.mul_(2),
)


@dataclass(frozen=True)
class TableShard:
    """The rows of a table that this process holds."""

    weight: Tensor
    """[R, D]."""
    bias: Tensor | None
    """[R, 1]."""
    start: int
    """Number of the first of these rows in the table."""
    cosine: bool = False
    """Whether scores are those of the directions of the rows."""

    def scored(self, weight: Tensor) -> Tensor:
        """What queries are scored against instead of some rows, [..., D]."""
        return functional.normalize(weight, dim=-1, eps=SHORTEST) if self.cosine else weight

    def chunks(self, queries_GD: Tensor, rows: int) -> Iterator[tuple[slice, Tensor]]:
        """Scores of `rows` rows at a time: their slice of the shard, and scores [G, C], which may be overwritten."""
        for start in range(0, len(self.weight), rows):
            chunk = slice(start, min(start + rows, len(self.weight)))
            weight_CD = self.scored(self.weight[chunk])
            if self.bias is None:
                yield chunk, queries_GD @ weight_CD.t()
            else:
                yield chunk, torch.addmm(self.bias[chunk].t(), queries_GD, weight_CD.t())

    def holds(self, ids_V: Tensor) -> Tensor:
        """Whether rows of the table are in the shard, bool [V]."""
        return (ids_V >= self.start) & (ids_V < self.start + len(self.weight))

    def lookup(self, ids_V: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [V, D] and biases [V, 1] (0 if there are none) of rows in the shard; their gradients are sparse."""
        rows_V = ids_V - self.start if self.start else ids_V
        weight_VD = functional.embedding(rows_V, self.weight, sparse=True)
        if self.bias is None:
            return weight_VD, weight_VD.new_zeros(len(rows_V), 1)
        return weight_VD, functional.embedding(rows_V, self.bias, sparse=True)


class _OverShard(torch.autograd.Function):
    """A reduction over the rows of a shard, chunk by chunk; the backward pass recomputes the scores."""

    @staticmethod
    def forward(
        ctx: Any, reduction: Reduction, queries_GD: Tensor, weight_RD: Tensor, bias_R1: Tensor | None
    ) -> Tensor:
        total_G = queries_GD.new_full((len(queries_GD),), reduction.empty)
        for _, s_GC in TableShard(weight_RD, bias_R1, 0).chunks(queries_GD, rows_at_once(len(queries_GD), CHUNK)):
            total_G = reduction.together(total_G, reduction.of_rows(s_GC))
        ctx.reduction = reduction
        ctx.save_for_backward(queries_GD, weight_RD, bias_R1, total_G)
        return total_G

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, Tensor | None]:
        queries_GD, weight_RD, bias_R1, total_G = ctx.saved_tensors
        of_queries, of_weight = torch.zeros_like(queries_GD), torch.empty_like(weight_RD)
        of_bias = None if bias_R1 is None else torch.empty_like(bias_R1)
        for chunk, s_GC in TableShard(weight_RD, bias_R1, 0).chunks(queries_GD, rows_at_once(len(queries_GD), CHUNK)):
            slope_GC = ctx.reduction.slope(s_GC, total_G).mul_(grads[0].unsqueeze(1))
            of_queries.addmm_(slope_GC, weight_RD[chunk])
            torch.mm(slope_GC.t(), queries_GD, out=of_weight[chunk])
            if of_bias is not None:
                of_bias[chunk] = slope_GC.sum(0).unsqueeze(1)
        return None, of_queries, of_weight, of_bias


def rows_at_once(queries: int, numbers: int) -> int:
    """Number of rows to score at a time for a chunk of the matrix of scores with `numbers` numbers."""
    return max(1, numbers // max(1, queries))


@dataclass(frozen=True)
class Pairs:
    """Pairs of a query and a row, of all processes."""

    query_V: Tensor
    """Number of the query among those of all processes."""
    id_V: Tensor
    """Row of the table."""
    gathered: Gathered
    """The gathered pairs, whose `own` selects those of this process."""


class CatalogScores:
    """Scores of this process's queries against all rows of a table; every method is called by all processes.

    Args:
        shard: the rows of this process.
        queries_BD: float32; B may differ between processes, and be 0.
    """

    def __init__(self, shard: TableShard, queries_BD: Tensor) -> None:
        self.shard, self.queries_BD = shard, queries_BD
        self.prediction: Callable[[CatalogScores, Ids], Tensor] | None = None
        """The head's rule for `predict`, see `Query`."""
        self.per_target = False
        """Whether there is a query for each target; see `Query`."""

    def __len__(self) -> int:
        return len(self.queries_BD)

    @cached_property
    def queries(self) -> Gathered:
        """Queries of all processes, [G, D]."""
        return gather_over_processes(self.queries_BD)

    @cached_property
    def table_rows(self) -> Tensor:
        """Number of rows of the whole table, int64 []."""
        return sum_over_processes(torch.tensor(len(self.shard.weight), device=self.queries_BD.device))

    def over_rows(self, reduction: Reduction) -> Tensor:
        """A reduction over each query's scores of all rows, [B]; in chunks of bounded size, forward and backward."""
        weight_RD = self.shard.scored(self.shard.weight)
        total_G = _OverShard.apply(reduction, self.queries.rows, weight_RD, self.shard.bias)
        return self.queries.own(reduction.over_processes(total_G))

    def of_pairs(self, ids: Ids) -> Tensor:
        """Scores of given rows for each query, [V]; each is computed on the process of the row.

        Args:
            ids: rows of the table for each of B queries.
        """
        pairs = self.gather_pairs(ids)
        return pairs.gathered.own(self.of_gathered(pairs))

    def predict(self, ids: Ids) -> Tensor:
        """Predictions of given rows for each query, in the unit of their weights, [V].

        Raises:
            UserError: if the head's rule gives another shape, which metrics would broadcast.
        """
        if self.prediction is None:
            return self.of_pairs(ids)
        predicted, wanted = self.prediction(self, ids), [len(ids.values)]
        if [*predicted.shape] != wanted:
            raise UserError(f"the head's predictions have shape {[*predicted.shape]}; they must have shape {wanted}")
        return predicted

    def of_gathered(self, pairs: Pairs) -> Tensor:
        """Scores of the pairs of all processes."""
        here_U, here = self._here(pairs)
        bias_R1 = None if self.shard.cosine else self.shard.bias
        score_U = score_pairs(here, self.queries.rows, self.shard.weight, bias_R1)
        if self.shard.cosine:
            score_U = self._by_direction(here.row_U, score_U)
        return sum_over_processes(score_U.new_zeros(len(pairs.id_V)).index_copy(0, here_U, score_U))

    def _by_direction(self, row_U: Tensor, dot_U: Tensor) -> Tensor:
        """Scores by the directions of rows from dot products with the rows, which are measured once each."""
        rows, place_U = row_U.unique(return_inverse=True)
        weight_ED, bias_E1 = self.shard.lookup(rows + self.shard.start)
        length_E = weight_ED.norm(dim=1).clamp(min=SHORTEST)
        return dot_U / length_E[place_U] + bias_E1.squeeze(1)[place_U]

    def _here(self, pairs: Pairs) -> tuple[Tensor, QueryRows]:
        """Positions of the pairs whose row is on this process, and these pairs."""
        (here_U,) = self.shard.holds(pairs.id_V).nonzero(as_tuple=True)
        row_U = pairs.id_V[here_U] - self.shard.start
        return here_U, QueryRows(pairs.query_V[here_U], row_U, len(self.queries.rows))

    def of_rows(self, ids_S: Tensor) -> Tensor:
        """Scores of rows that are the same for all queries, [B, S]; every process receives the rows, S × D numbers.

        Args:
            ids_S: rows of the table, equal on all processes; may repeat.
        """
        if alone():
            weight_SD, bias_S1 = self.shard.lookup(ids_S)
            return torch.addmm(bias_S1.t(), self.queries_BD, self.shard.scored(weight_SD).t())
        (here_U,) = self.shard.holds(ids_S).nonzero(as_tuple=True)
        row_UE = torch.cat(self.shard.lookup(ids_S[here_U]), dim=1)
        row_SE = sum_over_processes(row_UE.new_zeros(len(ids_S), row_UE.shape[1]).index_copy(0, here_U, row_UE))
        return torch.addmm(row_SE[:, -1], self.queries_BD, self.shard.scored(row_SE[:, :-1]).t())

    def pooled(self, ids: Ids) -> Tensor:
        """Sum of the weights of given rows for each query, [B, D]; for `ids` see `of_pairs`."""
        return self._sum_by_query(ids, self.shard.weight)

    def pooled_biases(self, ids: Ids) -> Tensor:
        """Sum of the biases of given rows for each query, [B]."""
        assert self.shard.bias is not None
        return self._sum_by_query(ids, self.shard.bias).squeeze(1)

    def _sum_by_query(self, ids: Ids, rows_RD: Tensor) -> Tensor:
        _, here = self._here(self.gather_pairs(ids))
        return self.queries.own(sum_over_processes(sum_rows(here, rows_RD)))

    def query_of(self, ids: Ids) -> Tensor:
        """The query of each of V ids, numbered on this process."""
        queries_B = torch.arange(len(self), device=ids.lengths.device)
        return queries_B.repeat_interleave(ids.lengths, output_size=len(ids.values))

    def gather_pairs(self, ids: Ids) -> Pairs:
        """The pairs of all processes."""
        query_V = self.query_of(ids) + self.queries.start
        gathered = gather_over_processes(torch.stack([query_V, ids.values.long()], dim=1))
        return Pairs(gathered.rows[:, 0], gathered.rows[:, 1], gathered)
