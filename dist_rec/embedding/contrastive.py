"""Contrastive divergence: Hinton 2002; for softmax visible units, Salakhutdinov, Mnih and Hinton 2007, "Restricted
Boltzmann Machines for Collaborative Filtering" (section 2).

A row of the batch is a machine; its visible units are its ratings, each of them one of K levels. The machines share the
weights W and biases b of each unit and level: row K u + k of a catalog is level k of unit u. The queries are the hidden
units, so the scores of a unit's K rows are the logits of its levels (equation 1).

Shapes: B rows, D hidden units, V visible units of all rows end to end, K levels.
"""

import torch
from torch import Tensor
from torch.nn import functional

from dist_rec.core.head import Ids
from dist_rec.core.noise import noise
from dist_rec.embedding.scores import CatalogScores


def level_scores(scores: CatalogScores, visible: Ids, levels: int) -> Tensor:
    """Logits of all levels of the visible units, [V, K]; `visible` may name any level of a unit."""
    first_V = visible.values // levels * levels
    ids_VK = first_V.unsqueeze(1) + torch.arange(levels, device=first_V.device)
    return scores.of_pairs(Ids(ids_VK.view(-1), visible.lengths * levels)).view(-1, levels)


def negative_phase(scores: CatalogScores, visible: Ids, levels: int, bias_D: Tensor, steps: int) -> Tensor:
    """Free energy of the machine's reconstruction of the visible units, [B].

    The data's free energy less this one has the gradient of contrastive divergence, since samples are constants:
    <v h> of the data less <v h> of the reconstruction (section 2.2).

    Args:
        scores: scores of the hidden units' probabilities given the data.
        visible: units and levels of the data.
        levels: K.
        bias_D: biases of the hidden units.
        steps: number of Gibbs steps.
    """
    hidden_BD, reconstructed = scores.queries_BD.detach()[:, : len(bias_D)], visible
    padding = scores.queries_BD.shape[1] - len(bias_D)  # a lookup's table has columns of zeros at the end
    for _ in range(steps):
        with torch.no_grad():
            on_BD = functional.pad((noise.uniform_like(hidden_BD) < hidden_BD).float(), (0, padding))
            logits_VK = level_scores(CatalogScores(scores.shard, on_BD), visible, levels)
            reconstructed = Ids(_drawn(logits_VK, visible), visible.lengths)
        input_BD = bias_D + scores.pooled(reconstructed)[:, : len(bias_D)]
        hidden_BD = input_BD.detach().sigmoid()
    return hidden_energy(input_BD) - scores.pooled_biases(reconstructed)


def _drawn(logits_VK: Tensor, visible: Ids) -> Tensor:
    """A random level of each unit, by the levels' probabilities, as a row of the catalog."""
    levels = logits_VK.shape[1]
    cumulative_VK = logits_VK.softmax(1).cumsum(1)[:, :-1]
    level_V = (noise.uniform_of_ids(visible.lengths).unsqueeze(1) > cumulative_VK).sum(1)
    return visible.values // levels * levels + level_V


def hidden_energy(input_BD: Tensor) -> Tensor:
    """The hidden units' part of the free energy, from their inputs x: -Σ_j log(1 + exp(x_j)), [B]."""
    return -functional.softplus(input_BD).sum(1)
