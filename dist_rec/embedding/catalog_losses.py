"""Losses of queries against the rows of a catalog: over all rows, over given pairs, over sampled rows.

Each is the loss of each of this process's queries, [B]; the sum over processes is exactly the loss of the whole matrix
of scores. Every process calls them, also one without queries.

Shapes: B queries of this process, V targets of all of them end to end, S sampled rows.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dist_rec.core.head import Ids
from dist_rec.embedding.scores import LOGSUMEXP, SUM_SOFTPLUS, SUM_SQUARES, CatalogScores

# A score that is as good as none. Infinity would make the gradient of a query without samples NaN.
LEFT_OUT = -1e30


def cross_entropy(scores: CatalogScores, targets: Ids) -> Tensor:
    """Multinomial log-likelihood, -Σ_t w_t log softmax(s)_t: Liang et al. 2018, "Variational Autoencoders for
    Collaborative Filtering", equation 2; with one target of weight 1 it is the softmax cross-entropy.

    Args:
        scores: scores of B queries.
        targets: rows of each query, with weights or weight 1 each; a query without targets has loss 0.
    """
    weight_V = _weights(targets)
    of_targets_B = _sum_by_query(scores, targets, weight_V * scores.of_pairs(targets))
    return _sum_by_query(scores, targets, weight_V) * scores.over_rows(LOGSUMEXP) - of_targets_B


def logistic(scores: CatalogScores, targets: Ids) -> Tensor:
    """Logistic log-likelihood of every row, -Σ_i x_i log σ(s_i) + (1 - x_i) log(1 - σ(s_i)): Liang et al. 2018, eq. 4.

    Args:
        scores: scores of B queries.
        targets: distinct rows of each query, x_i = 1 or their weight; x_i = 0 for all others.
    """
    of_targets_B = _sum_by_query(scores, targets, _weights(targets) * scores.of_pairs(targets))
    return scores.over_rows(SUM_SOFTPLUS) - of_targets_B


def gaussian(scores: CatalogScores, targets: Ids, confidence: float, background: float) -> Tensor:
    """Gaussian log-likelihood of every row, Σ_i c_i / 2 (x_i - s_i)²: Liang et al. 2018, equation 3.

    Args:
        scores: scores of B queries.
        targets: distinct rows of each query, x_i = 1 or their weight; x_i = 0 for all others.
        confidence: c of the targets.
        background: c of the others.
    """
    score_V = scores.of_pairs(targets)
    loss_V = confidence * (_weights(targets) - score_V).square() - background * score_V.square()
    return (background * scores.over_rows(SUM_SQUARES) + _sum_by_query(scores, targets, loss_V)) / 2


def squared_error(scores: CatalogScores, observed: Ids) -> Tensor:
    """Σ_t (w_t - p_t)² of predictions p over the observed rows only: Sedhain et al. 2015, "AutoRec", equation 1.

    Args:
        scores: scores of B queries.
        observed: rows of each query; their weights w are the observations.
    """
    assert observed.weights is not None
    error_V = observed.weights - scores.predict(observed)
    return _sum_by_query(scores, observed, error_V.square())


def sampled_softmax(
    target_V: Tensor,
    sampled_VS: Tensor,
    same_VS: Tensor,
    log_q_S: Tensor | None = None,
    target_log_q_V: Tensor | None = None,
) -> Tensor:
    """Cross-entropy against sampled rows, corrected for the bias of sampling ("logQ") or not: [V].

    A sample stands for 1 / (S q) rows, so log(S q) is subtracted from its score: Bengio and Senécal 2008, "Adaptive
    Importance Sampling to Accelerate Training of a Neural Probabilistic Language Model"; Yi et al. 2019,
    "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", which corrects the target as well.

    Args:
        target_V: scores of the targets.
        sampled_VS: scores of the samples for each target's query.
        same_VS: bool, whether a sample is the target itself; such samples are left out.
        log_q_S: log probability of each sample in one draw; None: no correction.
        target_log_q_V: log probability of each target in one draw, to correct its score; None: no correction.
    """
    samples = math.log(max(1, sampled_VS.shape[1]))
    if target_log_q_V is not None:
        target_V = target_V - target_log_q_V - samples
    shift_S = sampled_VS.new_zeros(()) if log_q_S is None else log_q_S + samples
    return functional.softplus(_LogSumExp.apply(sampled_VS, shift_S, same_VS) - target_V)


class _LogSumExp(torch.autograd.Function):
    """log Σ exp(sample - shift) over the samples that are not the target, [V].

    Autograd would make a matrix of samples for each operation, and with hundreds of targets those are most of a step;
    here there is one, written over until it is the gradient.
    """

    @staticmethod
    def forward(ctx: Any, sampled_VS: Tensor, shift_S: Tensor, same_VS: Tensor) -> Tensor:
        if not sampled_VS.numel():
            return sampled_VS.new_full((len(sampled_VS),), LEFT_OUT)
        p_VS = (sampled_VS - shift_S).masked_fill_(same_VS, LEFT_OUT)
        largest_V1 = p_VS.amax(1, keepdim=True)
        total_V1 = p_VS.sub_(largest_V1).exp_().sum(1, keepdim=True)
        ctx.save_for_backward(p_VS, total_V1)
        return (largest_V1 + total_V1.log()).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        if not ctx.saved_tensors:
            return None, None, None
        p_VS, total_V1 = ctx.saved_tensors
        return p_VS.mul_(grads[0].unsqueeze(1) / total_V1), None, None


def bpr(target_V: Tensor, sampled_VS: Tensor, same_VS: Tensor) -> Tensor:
    """Mean over samples of -log σ(target - sample): Rendle et al. 2009, "BPR"; as in Hidasi et al. 2016: [V].

    Args: see `sampled_softmax`.
    """
    return _mean_over_samples(functional.softplus(sampled_VS - target_V.unsqueeze(1)), same_VS)


def top1(target_V: Tensor, sampled_VS: Tensor, same_VS: Tensor) -> Tensor:
    """Mean over samples of σ(sample - target) + σ(sample²): Hidasi et al. 2016, "Session-based Recommendations with
    Recurrent Neural Networks", section 3.2.2: [V].

    Args: see `sampled_softmax`.
    """
    loss_VS = (sampled_VS - target_V.unsqueeze(1)).sigmoid() + sampled_VS.square().sigmoid()
    return _mean_over_samples(loss_VS, same_VS)


def bpr_max(target_V: Tensor, sampled_VS: Tensor, same_VS: Tensor, penalty: float) -> Tensor:
    """-log Σ_j p_j σ(target - sample_j) + λ Σ_j p_j sample_j², where p is the softmax of the samples: Hidasi and
    Karatzoglou 2018, "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations", equation 8: [V].

    Args: as of `sampled_softmax`; penalty is λ.
    """
    log_p_VS = sampled_VS.masked_fill(same_VS, LEFT_OUT).log_softmax(1)
    beaten_V = (log_p_VS + functional.logsigmoid(target_V.unsqueeze(1) - sampled_VS)).logsumexp(1)
    loss_V = penalty * (log_p_VS.exp() * sampled_VS.square()).sum(1) - beaten_V
    return loss_V.masked_fill(same_VS.all(1), 0)


def top1_max(target_V: Tensor, sampled_VS: Tensor, same_VS: Tensor) -> Tensor:
    """Σ_j p_j (σ(sample_j - target) + σ(sample_j²)), p as of `bpr_max`: Hidasi and Karatzoglou 2018, equation 6: [V].

    Args: as of `sampled_softmax`.
    """
    p_VS = sampled_VS.masked_fill(same_VS, LEFT_OUT).softmax(1)
    loss_V = (p_VS * ((sampled_VS - target_V.unsqueeze(1)).sigmoid() + sampled_VS.square().sigmoid())).sum(1)
    return loss_V.masked_fill(same_VS.all(1), 0)


def sampled_logistic(scores: CatalogScores, targets: Ids, ids_S: Tensor, own_VN: Tensor | None = None) -> Tensor:
    """-log σ(target) - mean over samples of log(1 - σ(sample)): the binary cross-entropy of Tang and Wang 2018,
    "Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding", section 3.4: [V].

    Args:
        scores: scores of B queries.
        targets: rows of each query; samples that equal a target are left out of its mean.
        ids_S: sampled rows, the same on all processes.
        own_VN: scores of N more samples of each target alone.
    """
    target_V, sampled_BS = scores.of_pairs(targets), scores.of_rows(ids_S)
    # A sample that equals the target has its score: the sum of a query's samples serves all of its targets.
    sampled_V = functional.softplus(sampled_BS).sum(1).index_select(0, scores.query_of(targets))
    copies_V = _copies(targets.values, ids_S)
    others_V = sampled_V - copies_V * functional.softplus(target_V)
    samples_V = len(ids_S) - copies_V
    if own_VN is not None:
        others_V, samples_V = others_V + functional.softplus(own_VN).sum(1), samples_V + own_VN.shape[1]
    return functional.softplus(-target_V) + others_V / samples_V.clamp(min=1)


def against_samples(scores: CatalogScores, targets: Ids, ids_S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first three arguments of the sampled losses.

    Args:
        scores: scores of B queries.
        targets: rows of each query.
        ids_S: sampled rows, equal on all processes.

    Returns:
        Scores of the targets [V] and, for each, of the samples [V, S], and where a sample is the target [V, S].
    """
    sampled_VS = of_targets(scores.of_rows(ids_S), scores, targets)
    return scores.of_pairs(targets), sampled_VS, targets.values.unsqueeze(1) == ids_S


def of_targets(scores_BS: Tensor, scores: CatalogScores, targets: Ids) -> Tensor:
    """For each target, the scores of its query: [B, S] → [V, S]."""
    one_each = len(targets.values) == len(scores_BS) and bool((targets.lengths == 1).all())
    return scores_BS if one_each else scores_BS.index_select(0, scores.query_of(targets))


def _copies(values_V: Tensor, ids_S: Tensor) -> Tensor:
    """How many of the samples equal each value, [V]."""
    sorted_S = ids_S.sort().values
    ends_V = torch.searchsorted(sorted_S, values_V, right=True)
    return ends_V - torch.searchsorted(sorted_S, values_V)


def _mean_over_samples(loss_VS: Tensor, same_VS: Tensor) -> Tensor:
    samples_V = (~same_VS).sum(1).clamp(min=1)
    return loss_VS.masked_fill(same_VS, 0).sum(1) / samples_V


def _weights(targets: Ids) -> Tensor:
    return torch.ones_like(targets.values, dtype=torch.float32) if targets.weights is None else targets.weights


def _sum_by_query(scores: CatalogScores, ids: Ids, values_V: Tensor) -> Tensor:
    return values_V.new_zeros(len(scores)).index_add(0, scores.query_of(ids), values_V)
