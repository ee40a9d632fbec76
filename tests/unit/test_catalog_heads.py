"""AutoRec and VAE by their papers' formulas."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from dist_rec.core.errors import UserError
from dist_rec.core.head import CatalogHead, Ids, Inputs, find_head
from dist_rec.core.schema import Manifest
from dist_rec.embedding.catalog_losses import cross_entropy, squared_error
from dist_rec.embedding.scores import CatalogScores, TableShard
from dist_rec.heads.vae import kl_from_normal
from tests.heads import BAGS
from tests.small_head import MANIFEST

ROWS, ITEMS = 3, MANIFEST.rows_of("scores")
RATINGS = MANIFEST.model_copy(update={"transform": {"labels": {"min": 1.0, "max": 5.0, "mean": 3.5}}})
KNOWN = Ids(torch.tensor([1, 4, 10, 0]), lengths=torch.tensor([3, 0, 1]), weights=torch.tensor([1.0, 5.0, 3.0, 4.0]))


def build(name: str, settings: dict[str, Any], manifest: Manifest = RATINGS) -> CatalogHead:
    head_class = find_head(name)
    torch.manual_seed(0)
    head = head_class(head_class.Config.parse({**BAGS, **settings}), manifest)
    assert isinstance(head, CatalogHead)
    return head


def looked_up(dim: int) -> Inputs:
    return Inputs(dense=torch.empty(ROWS, 0), pooled={"encoder": torch.randn(ROWS, 1, dim)})


def scores_of(vectors_BD: Tensor) -> tuple[CatalogScores, Tensor]:
    """Scores of a random catalog, and the same as a matrix."""
    weight, bias = torch.randn(ITEMS, vectors_BD.shape[1]) / 8, torch.randn(ITEMS, 1)
    vectors_BD = vectors_BD.detach()
    return CatalogScores(TableShard(weight, bias, 0), vectors_BD), vectors_BD @ weight.t() + bias.t()


def test_a_logistic_vae_takes_no_ratings() -> None:
    vae = find_head("vae")
    config = vae.Config.parse({**BAGS, "likelihood": "logistic"})
    with pytest.raises(UserError, match="ratings go up to 5; prepare the data with --implicit"):
        vae.catalog(config, RATINGS)
    assert vae.catalog(config, MANIFEST).feature == BAGS["target"]


@pytest.mark.parametrize("g", ["identity", "sigmoid"])
@pytest.mark.parametrize("f", ["identity", "sigmoid"])
def test_autorec_by_its_definition(f: str, g: str) -> None:
    autorec, inputs = build("autorec", {"hidden": 6, "f": f, "g": g}), looked_up(6)
    with torch.no_grad():
        autorec.bias.uniform_(-1, 1)
    hidden = inputs.pooled["encoder"][:, 0] + autorec.bias
    query = autorec(inputs)
    vectors = query.vectors
    torch.testing.assert_close(vectors, hidden.sigmoid() if g == "sigmoid" else hidden)
    scores, s_BR = scores_of(vectors)
    predicted = 1 + 4 * s_BR.sigmoid() if f == "sigmoid" else 3.5 + s_BR
    first = sum((predicted[0, item] - rating) ** 2 for item, rating in ((1, 1.0), (4, 5.0), (10, 3.0)))
    expected = torch.stack([first, torch.tensor(0.0), (predicted[2, 0] - 4.0) ** 2])
    scores.prediction = query.predict
    torch.testing.assert_close(scores.predict(KNOWN), predicted[[0, 0, 0, 2], KNOWN.values])
    torch.testing.assert_close(squared_error(scores, KNOWN), expected)


@pytest.mark.parametrize(
    ("settings", "labels", "message"),
    [
        ({}, None, "needs the range of the ratings"),
        ({"f": "sigmoid"}, {"min": 1.0, "max": 1.0, "mean": 1.0}, "all ratings are 1.0"),
    ],
)
def test_autorec_needs_ratings(settings: dict, labels: dict | None, message: str) -> None:
    transform = {} if labels is None else {"labels": labels}
    with pytest.raises(UserError, match=message):
        build("autorec", settings, MANIFEST.model_copy(update={"transform": transform}))


def test_autorec_needs_bags_with_weights() -> None:
    autorec = find_head("autorec")
    with pytest.raises(UserError, match="column 'tags' holds no ratings"):
        autorec.lookups(autorec.Config.parse({**BAGS, "history": "tags"}), MANIFEST)


def test_kl_as_torch_distributions() -> None:
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_from_normal(mean, log_variance), expected)


def test_beta_rises_to_its_cap_in_training_alone() -> None:
    vae, inputs = build("vae", {"hidden": [], "latent": 4, "beta": 0.2, "anneal_steps": 10}), looked_up(8)
    mean, log_variance = (inputs.pooled["encoder"][:, 0] + vae.bias).chunk(2, dim=1)
    kl = kl_from_normal(mean, log_variance)
    for step, beta in ((0, 0.0), (1, 0.1), (2, 0.2), (7, 0.2)):
        torch.testing.assert_close(vae.train()(replace(inputs, step=step)).penalty, beta * kl)
        query = vae.eval()(inputs)
        assert query.penalty is None
        torch.testing.assert_close(query.vectors, mean.tanh())


def test_z_is_drawn_around_its_mean() -> None:
    vae = build("vae", {"hidden": [], "latent": 4})
    vae.decoder = torch.nn.Identity()
    inputs = Inputs(dense=torch.empty(20_000, 0), pooled={"encoder": torch.randn(1, 1, 8).expand(20_000, 1, 8)})
    mean, log_variance = inputs.pooled["encoder"][0, 0].chunk(2)
    drawn = vae(inputs).vectors
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.var(0).log(), log_variance, atol=0.1, rtol=0)


def test_the_denoising_one_has_no_noise_of_its_own_and_no_penalty() -> None:
    dae, inputs = build("vae", {"variational": False, "hidden": [6], "latent": 4}), looked_up(6)
    first, second = dae(inputs), dae(inputs)
    assert first.penalty is None and torch.equal(first.vectors, second.vectors)
    layers = [layer for layer in (*dae.encoder, *dae.decoder) if isinstance(layer, torch.nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(4, 6), (6, 4)]
    z = torch.tanh(layers[0](torch.tanh(inputs.pooled["encoder"][:, 0] + dae.bias)))
    torch.testing.assert_close(first.vectors, torch.tanh(layers[1](z)))


def test_likelihoods_by_their_equations() -> None:
    x_BR = torch.zeros(ROWS, ITEMS)
    x_BR[0, [1, 4, 10]], x_BR[2, 0] = torch.tensor([1.0, 5.0, 3.0]), 4.0
    scores, s_BR = scores_of(torch.randn(ROWS, 5))
    c_BR = torch.where(x_BR > 0, 2.0, 0.25)
    log_sigmoid = torch.nn.functional.logsigmoid
    expected = {
        "multinomial": -(x_BR * s_BR.log_softmax(1)).sum(1),
        "gaussian": (c_BR / 2 * (x_BR - s_BR).square()).sum(1),
        "logistic": -(x_BR * log_sigmoid(s_BR) + (1 - x_BR) * log_sigmoid(-s_BR)).sum(1),
    }
    for likelihood, loss_B in expected.items():
        vae = build("vae", {"hidden": [6], "likelihood": likelihood, "confidence": 2.0, "background": 0.25})
        own = vae(looked_up(6)).loss or cross_entropy
        torch.testing.assert_close(own(scores, KNOWN), loss_B, rtol=1e-4, atol=1e-4)
