"""Differentiable collectives.

Shapes: B rows of this process, G rows of all processes.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def alone() -> bool:
    """Whether there is only one process, or no process group."""
    return not dist.is_initialized() or dist.get_world_size() == 1


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # Every process's loss depends on the total, so the gradients of all of them add up.
        return _SumOverProcesses.forward(ctx, grads[0])


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of every process's `x`, on every process; `x` itself if there is one process or no process group."""
    return x if alone() else _SumOverProcesses.apply(x)


def logsumexp_over_processes(x: Tensor) -> Tensor:
    """log Σ exp(x) over the processes' `x`, element by element; an element must not be -inf on every process."""
    if alone():
        return x
    top = x.detach().clone()
    dist.all_reduce(top, dist.ReduceOp.MAX)
    return top + sum_over_processes((x - top).exp()).log()


@dataclass(frozen=True)
class Gathered:
    """Rows of all processes, in the order of the ranks."""

    rows: Tensor
    """[G, ...]."""
    counts: tuple[int, ...]
    """Rows of each process."""
    rank: int

    @property
    def start(self) -> int:
        """Number of the first row of this process."""
        return sum(self.counts[: self.rank])

    def own(self, values: Tensor) -> Tensor:
        """The values of this process's B rows, out of values for all G rows."""
        return values[self.start : self.start + self.counts[self.rank]]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.counts, most = counts, max(counts)
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        gathered = Gathered(_SumOverProcesses.backward(ctx, grads[0]), ctx.counts, dist.get_rank())
        return gathered.own(gathered.rows), None


def gather_over_processes(rows: Tensor) -> Gathered:
    """Every process's rows, [B, ...], on every process; B may differ between processes and may be 0."""
    if alone():
        return Gathered(rows, (len(rows),), 0)
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    sizes = tuple(torch.cat(counts).tolist())
    return Gathered(_Gather.apply(rows, sizes) if max(sizes) else rows, sizes, dist.get_rank())
