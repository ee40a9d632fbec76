"""Machines whose weights lie on several processes: free energies, gradients and predictions by their definitions."""

from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from dist_rec.core.head import Ids
from dist_rec.core.noise import noise
from dist_rec.embedding.contrastive import _drawn, hidden_energy, level_scores, negative_phase
from dist_rec.embedding.scores import CatalogScores, TableShard
from tests.processes import run_distributed

MACHINES, UNITS, LEVELS, HIDDEN = 7, 5, 3, 4
ROWS = UNITS * LEVELS


def parameters() -> tuple[Tensor, Tensor, Tensor]:
    """W [U K, D], b [U K, 1], c [D]."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((ROWS, HIDDEN), (ROWS, 1), (HIDDEN,))
    weight, bias, hidden_bias = (torch.randn(size, generator=generator).requires_grad_() for size in sizes)
    return weight, bias, hidden_bias


def rated() -> Tensor:
    """The level of each unit of each machine, -1 for what is not rated, [B, U]."""
    level_BU = torch.randint(-1, LEVELS, (MACHINES, UNITS), generator=torch.Generator().manual_seed(1))
    level_BU[2] = -1
    return level_BU


def visible(level_BU: Tensor) -> Ids:
    there_BU = level_BU >= 0
    ids_BU = torch.arange(UNITS) * LEVELS + level_BU
    return Ids(ids_BU[there_BU], lengths=there_BU.sum(1).int())


def one_hot(level_BU: Tensor) -> Tensor:
    """[B, U K]."""
    there_BU1 = (level_BU >= 0).unsqueeze(2)
    return (functional.one_hot(level_BU.clamp(min=0), LEVELS) * there_BU1).flatten(1).float()


def by_definition(level_BU: Tensor, steps: int) -> tuple[list[Tensor], Tensor]:
    """Free energy of the reconstruction of each machine, its gradients, and the logits of the rated units' levels.

    Hidden units are on if that is likelier than not, and a unit takes the level at the middle of its distribution: what
    sampling does when all random numbers are 0.5.
    """
    weight, bias, hidden_bias = parameters()
    v_BR, there_BU = one_hot(level_BU), level_BU >= 0
    first_logits = None
    for _ in range(steps):
        p_BD = (hidden_bias + v_BR @ weight).sigmoid()
        if first_logits is None:
            first_logits = (p_BD @ weight.t() + bias.t()).view(-1, UNITS, LEVELS)[there_BU].detach()
        logits_BUK = ((p_BD > 0.5).float() @ weight.t() + bias.t()).view(-1, UNITS, LEVELS)
        middle_BU = (logits_BUK.softmax(2).cumsum(2) < 0.5).sum(2)
        v_BR = one_hot(torch.where(there_BU, middle_BU, -1))
    energy_B = -(v_BR @ bias).squeeze(1) - functional.softplus(hidden_bias + v_BR @ weight).sum(1)
    gradients = torch.autograd.grad(energy_B.sum(), (weight, bias, hidden_bias))
    assert first_logits is not None
    return [energy_B.detach(), *gradients], first_logits


def on_this_process(bounds: list[int], steps: int) -> tuple[list[Tensor], Tensor]:
    """The same from a share of the rows and the machines `bounds[rank]` to `bounds[rank + 1]`."""
    rank, world = dist.get_rank(), dist.get_world_size()
    share = -(-ROWS // world)
    weight, bias, hidden_bias = parameters()
    here = slice(rank * share, (rank + 1) * share)
    own, own_bias = (whole.detach()[here].clone() for whole in (weight, bias))
    own_bias.requires_grad_()
    level_BU = rated()[bounds[rank] : bounds[rank + 1]]
    hidden_BD = (hidden_bias + one_hot(level_BU) @ weight).sigmoid().detach()
    # A lookup's table may have columns of zeros at the end.
    own_padded, queries_BD = functional.pad(own, (0, 2)).requires_grad_(), functional.pad(hidden_BD, (0, 2))
    scores = CatalogScores(TableShard(own_padded, own_bias, here.start), queries_BD)
    halves = lambda x: torch.full_like(x, 0.5)  # noqa: E731
    of_ids = lambda lengths: torch.full((int(lengths.sum()),), 0.5)  # noqa: E731
    with patch.object(noise, "uniform_like", halves), patch.object(noise, "uniform_of_ids", of_ids):
        energy_B = negative_phase(scores, visible(level_BU), LEVELS, hidden_bias, steps)
    energy_B.sum().backward()
    assert hidden_bias.grad is not None
    dist.all_reduce(hidden_bias.grad)
    assert own_padded.grad is not None and own_bias.grad is not None
    gradient = own_padded.grad.to_dense()
    assert not gradient[:, HIDDEN:].any(), "zeros stay zeros"
    gradients = [gradient[:, :HIDDEN], own_bias.grad.to_dense(), hidden_bias.grad]
    return [energy_B.detach(), *gradients], level_scores(scores, visible(level_BU), LEVELS).detach()


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("bounds", [[0, 7], [0, 4, 7], [0, 3, 3, 7]], ids=["1", "2", "3, one without rows"])
def test_sharded_equals_the_definition(bounds: list[int], steps: int) -> None:
    (energy_B, *of_rows, of_hidden), logits_VK = by_definition(rated(), steps)
    found = run_distributed(on_this_process, len(bounds) - 1, bounds, steps)
    torch.testing.assert_close(torch.cat([part[0] for part, _ in found]), energy_B)
    for place, expected in enumerate(of_rows, 1):
        torch.testing.assert_close(torch.cat([part[place] for part, _ in found]), expected)
    for part, _ in found:
        torch.testing.assert_close(part[3], of_hidden)
    torch.testing.assert_close(torch.cat([logits for _, logits in found]), logits_VK)


def test_hidden_energy_sums_the_hidden_units_out() -> None:
    x_BD = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(2))
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * HIDDEN)
    torch.testing.assert_close(hidden_energy(x_BD), -(x_BD @ states.t()).logsumexp(1))


def draw(uniforms: int) -> Tensor:
    noise.begin(0, 0, 0, uniforms)
    scores = CatalogScores(TableShard(parameters()[0].detach(), parameters()[1].detach(), 0), torch.zeros(1, HIDDEN))
    logits_VK = level_scores(scores, Ids(torch.tensor([3]), lengths=torch.tensor([1])), LEVELS)
    units = Ids(torch.full((uniforms,), 5), lengths=torch.ones(uniforms, dtype=torch.int64))
    drawn = _drawn(logits_VK.expand(uniforms, -1), units)
    return torch.stack([(drawn == 3 + level).float().mean() for level in range(LEVELS)]) - logits_VK.softmax(1)[0]


def test_levels_are_drawn_by_their_probabilities() -> None:
    assert run_distributed(draw, 1, 40_000)[0].abs().max() < 0.01
