"""Exact area under the ROC curve of scores on many processes, without gathering them on one.

Shape suffixes: N rows of this process, G groups of equal scores, W processes, S samples a process.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from dist_rec.core.collective import alone

SAMPLES_PER_RANGE = 8
"""Samples a process for each of the W ranges of scores; more of them make the ranges more even."""


def auc(scores_N: Tensor, weight_N2: Tensor) -> float:
    """Area under the ROC curve over the rows of all processes: P(score of a positive > of a negative) + half the ties.

    A sample sort (Shi & Schaeffer 1992, regular sampling): each process merges its equal scores, then receives all
    groups in one range of scores and ranks them; three sums of each process give the area. With weights 1 all counts
    are whole numbers below 2^53, so float64 holds them exactly; only products of them are rounded.

    Args:
        scores_N: float32, finite; N may be 0, though not on every process.
        weight_N2: float64, weight of the row as a negative and as a positive.

    Returns:
        The area, or NaN without positives or without negatives.
    """
    scores_G, weight_G2 = group_ties(scores_N, weight_N2)
    if not alone():
        scores_G, weight_G2 = group_ties(*_exchange_ranges(scores_G, weight_G2))
    pairs = ordered_pairs(weight_G2, weight_G2.prod(1) / 2)
    ranges_W3 = _all_gather(torch.cat([weight_G2.sum(0), pairs[None]]))
    negative, positive = ranges_W3[:, :2].sum(0).tolist()
    total = ordered_pairs(ranges_W3[:, :2], ranges_W3[:, 2]).item()
    return total / (negative * positive) if negative and positive else math.nan


def group_ties(scores_N: Tensor, weight_N2: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts rows by score and merges equal scores: ascending, distinct scores [G] and their summed weights [G, 2]."""
    scores_N, order_N = scores_N.sort()
    scores_G, group_N = scores_N.unique_consecutive(return_inverse=True)
    return scores_G, weight_N2.new_zeros(len(scores_G), 2).index_add_(0, group_N, weight_N2[order_N])


def ordered_pairs(weight_G2: Tensor, within_G: Tensor) -> Tensor:
    """Weight of all pairs of a negative below a positive, over groups in ascending order of score.

    Args:
        weight_G2: weights of the negatives and the positives of each group.
        within_G: weight of such pairs within each group.
    """
    negative_G, positive_G = weight_G2.unbind(1)
    below_G = negative_G.cumsum(0) - negative_G
    return (positive_G * below_G).sum() + within_G.sum()


def choose_splitters(samples_WS: Tensor, counts_W: Tensor) -> Tensor:
    """The W - 1 ascending scores that divide all groups into W ranges of about equal size.

    Args:
        samples_WS: scores taken at regular ranks on each process.
        counts_W: int64, number of groups on each process, not all 0; a sample stands for counts / S groups.
    """
    W, S = samples_WS.shape
    scores, order = samples_WS.flatten().sort()
    # Whole numbers, so that no rounding lets two processes choose different splitters.
    reached = counts_W.repeat_interleave(S)[order].cumsum(0)
    shares = torch.arange(1, W, device=counts_W.device) * (S * counts_W.sum()) // W
    return scores[torch.searchsorted(reached, shares.clamp(min=1))]


def _exchange_ranges(scores_G: Tensor, weight_G2: Tensor) -> tuple[Tensor, Tensor]:
    """Sends every group to the process of its range of scores; ranges ascend with the rank."""
    W, G = dist.get_world_size(), len(scores_G)
    S = SAMPLES_PER_RANGE * W
    at_S = (2 * torch.arange(S, device=scores_G.device) + 1) * G // (2 * S)
    samples_S = scores_G[at_S] if G else scores_G.new_zeros(S)
    counts_W = _all_gather(torch.tensor([G], device=scores_G.device)).flatten()
    splitters = choose_splitters(_all_gather(samples_S), counts_W)
    ends = functional.pad(torch.searchsorted(scores_G, splitters), (1, 0))
    send_W = ends.diff(append=counts_W.new_tensor([G]))
    receive_W = torch.empty_like(send_W)
    dist.all_to_all_single(receive_W, send_W)
    send, receive = send_W.tolist(), receive_W.tolist()
    scores = scores_G.new_empty(sum(receive))
    dist.all_to_all_single(scores, scores_G, receive, send)
    weight_2 = weight_G2.new_empty(sum(receive), 2)
    dist.all_to_all_single(weight_2, weight_G2, receive, send)
    return scores, weight_2


def _all_gather(part: Tensor) -> Tensor:
    """The processes' parts, which have equal shapes, stacked along a new first axis."""
    if alone():
        return part[None]
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, part)
    return torch.stack(parts)
