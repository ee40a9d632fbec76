"""The sequences of a batch, of different lengths.

They lie end to end, so that what is done position by position costs nothing for padding. What looks from one position
to others gets them in rectangles: sequences that share one are of similar length, and zeros come after their ends.

Shapes: B sequences, V positions of all of them end to end, C and D columns of a position, S places of all rectangles;
of a rectangle N sequences, T positions of the longest.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.core.errors import UserError

# Pairs of positions in a rectangle, N T²: on CPUs as many as fit their caches.
PAIRS = {"cpu": 1 << 19}
PAIRS_ELSEWHERE = 1 << 28


class Sequences:
    """Where the positions of a batch's sequences lie.

    Args:
        lengths_B: of the sequences, on the device of their positions.
        most: that a length may be; None: any.
        pairs: see `PAIRS`; None: by the device.

    Raises:
        UserError: if a sequence is longer.
    """

    def __init__(self, lengths_B: Tensor, most: int | None = None, pairs: int | None = None) -> None:
        self.lengths_B, device = lengths_B, lengths_B.device
        lengths = lengths_B.cpu().numpy().astype(np.int64)
        self.longest = int(lengths.max(initial=0))
        if most is not None and self.longest > most:
            raise UserError(f"a history has {self.longest} items: raise head.longest = {most}, or prepare shorter ones")
        self.positions = int(lengths.sum())
        """V."""
        starts = lengths.cumsum() - lengths
        within_V = np.arange(self.positions) - np.repeat(starts, lengths)
        self.number_V = torch.from_numpy(within_V).to(device)
        """Of each position, from 0 at the start of its sequence."""
        self._shapes, first_B = _rectangles(lengths, pairs or PAIRS.get(device.type, PAIRS_ELSEWHERE))
        self._slot_V = torch.from_numpy(np.repeat(first_B, lengths) + within_V).to(device)

    def in_rectangles(self, function: Callable[[Tensor], Tensor], x_VC: Tensor) -> Tensor:
        """A function of rectangles, [N, T, C] → [N, T, C'] for each, of the sequences: [V, C] → [V, C']."""
        sizes = [rows * longest for rows, longest in self._shapes]
        parts = _Spread.apply(x_VC, self._slot_V, sum(sizes)).split(sizes)
        found = [function(part.unflatten(0, shape)) for part, shape in zip(parts, self._shapes, strict=True)]
        return _Collect.apply(torch.cat([part.flatten(0, 1) for part in found]), self._slot_V)

    def means_so_far(self, x_VD: Tensor) -> Tensor:
        """Of each position, the mean of its sequence from the start up to and with it, [V, D] → [V, D]."""
        sum_VD = self.in_rectangles(lambda x_NTD: x_NTD.cumsum(1), x_VD)
        return sum_VD / (self.number_V + 1).unsqueeze(1)

    def last(self, x_VD: Tensor, count_B: Tensor | None) -> Tensor:
        """So many last positions of each sequence, one each if None, in order.

        Raises:
            UserError: if a sequence has fewer.
        """
        count_B = torch.ones_like(self.lengths_B) if count_B is None else count_B
        if bool((count_B > self.lengths_B).any()):
            raise UserError("a row of the data has more targets than items in its history")
        ends_B, stops_B = self.lengths_B.cumsum(0), count_B.cumsum(0)
        total = int(stops_B[-1]) if len(stops_B) else 0
        if total == self.positions:
            return x_VD
        shift = (ends_B - stops_B).repeat_interleave(count_B, output_size=total)
        return x_VD.index_select(0, torch.arange(total, device=x_VD.device) + shift)


def _rectangles(lengths: NDArray[np.int64], pairs: int) -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
    """Shapes of the rectangles, (N, T), longest sequences first, and the place where each sequence begins, [B]."""
    order = np.argsort(-lengths, kind="stable")
    first_B, shapes, place, row = np.zeros(len(lengths), np.int64), [], 0, 0
    while row < len(order):
        longest = int(lengths[order[row]])
        rows = min(len(order) - row, max(1, pairs // max(1, longest**2)))
        first_B[order[row : row + rows]] = place + longest * np.arange(rows)
        shapes.append((rows, longest))
        place, row = place + rows * longest, row + rows
    return shapes or [(0, 0)], first_B


class _Spread(torch.autograd.Function):
    """[V, C] → [S, C], zeros between; each position has a place of its own, so the gradient is a selection."""

    @staticmethod
    def forward(ctx: Any, x_VC: Tensor, slot_V: Tensor, slots: int) -> Tensor:
        ctx.save_for_backward(slot_V)
        return x_VC.new_zeros(slots, x_VC.shape[1]).index_copy_(0, slot_V, x_VC)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Collect(torch.autograd.Function):
    """[S, C] → [V, C]: what `_Spread` undoes."""

    @staticmethod
    def forward(ctx: Any, x_SC: Tensor, slot_V: Tensor) -> Tensor:
        ctx.save_for_backward(slot_V)
        ctx.slots = len(x_SC)
        return x_SC.index_select(0, slot_V)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad_VC = grads[0]
        return grad_VC.new_zeros(ctx.slots, grad_VC.shape[1]).index_copy_(0, ctx.saved_tensors[0], grad_VC), None
