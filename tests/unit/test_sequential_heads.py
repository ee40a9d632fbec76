"""SASRec, HSTU and BPR-MF of sessions by their formulas, and what holds for every causal model of a history."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_rec.core.errors import UserError
from dist_rec.core.head import CatalogHead, Inputs, Query, Sequence, find_head
from dist_rec.core.noise import noise
from tests.small_sessions import manifest

LENGTHS = [3, 1, 6, 2]
HEADS = [
    ("sasrec", {"dim": 6, "heads": 2, "longest": 6}),
    ("sasrec", {"dim": 6, "longest": 7, "temperature": 0.1, "blocks": 1}),
    ("hstu", {"dim": 6, "heads": 2, "key": 3, "value": 4, "longest": 6}),
    ("hstu", {"dim": 6, "longest": 7, "temperature": None, "layers": 1}),
]
WITH_MF = [*HEADS, ("session_mf", {"dim": 6})]


def build(name: str, settings: dict[str, Any]) -> CatalogHead:
    head_class = find_head(name)
    torch.manual_seed(0)
    head = head_class(head_class.Config.parse(settings), manifest(users=3, items=9)).double()
    assert isinstance(head, CatalogHead)
    for parameter in head.parameters():  # none is 0 or 1, which would hide what is done with it
        nn.init.normal_(parameter, std=0.5)
    return head.eval()


def items(lengths: list[int] = LENGTHS) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(sum(lengths), 6, generator=generator, dtype=torch.float64)


def ask(head: CatalogHead, x_VD: Tensor, lengths: list[int] = LENGTHS, targets: list[int] | None = None) -> Query:
    """Queries of histories; of all positions, if not said otherwise."""
    sequence = Sequence(x_VD, torch.tensor(lengths, dtype=torch.int32))
    num_targets = torch.tensor(lengths if targets is None else targets)
    return head(
        Inputs(torch.empty(len(lengths), 0), sequences={"items": {"history": sequence}}, num_targets=num_targets)
    )


@pytest.mark.parametrize(("name", "settings"), WITH_MF)
def test_what_comes_later_changes_nothing_before_it(name: str, settings: dict[str, Any]) -> None:
    head, x_VD = build(name, settings), items()
    before = ask(head, x_VD).vectors
    for place in range(sum(LENGTHS)):
        changed = x_VD.clone()
        changed[place] += torch.arange(6)  # of a constant, normalisation would leave nothing
        differs = (ask(head, changed).vectors - before).abs().amax(1) > 1e-9
        end = next(end for end in torch.tensor(LENGTHS).cumsum(0).tolist() if place < end)
        assert differs.nonzero().squeeze(1).tolist() == list(range(place, end))


@pytest.mark.parametrize(("name", "settings"), WITH_MF)
def test_a_row_alone_is_the_row_in_a_batch(name: str, settings: dict[str, Any]) -> None:
    head, x_VD = build(name, settings), items()
    together = ask(head, x_VD).vectors
    alone = [ask(head, part, [len(part)]).vectors for part in x_VD.split(LENGTHS)]
    torch.testing.assert_close(torch.cat(alone), together)


@pytest.mark.parametrize(("name", "settings"), WITH_MF)
def test_targets_follow_the_last_positions(name: str, settings: dict[str, Any]) -> None:
    head, x_VD = build(name, settings), items()
    query = ask(head, x_VD)
    assert query.per_target and query.vectors.shape == (sum(LENGTHS), 6)
    fewer = ask(head, x_VD, targets=[1, 0, 2, 2]).vectors
    torch.testing.assert_close(fewer, query.vectors[[2, 8, 9, 10, 11]])
    sequence = Sequence(x_VD, torch.tensor(LENGTHS))
    one_each = head(Inputs(torch.empty(4, 0), sequences={"items": {"history": sequence}})).vectors
    torch.testing.assert_close(one_each, query.vectors[[2, 3, 9, 11]])


@pytest.mark.parametrize(("name", "settings"), HEADS)
def test_every_parameter_learns_also_without_rows(name: str, settings: dict[str, Any]) -> None:
    head, x_VD = build(name, settings).train(), items().requires_grad_()
    noise.begin(0, 0, 0, len(LENGTHS))
    vectors = ask(head, x_VD).vectors
    gradients = torch.autograd.grad(vectors.sin().sum(), [x_VD, *head.parameters()])
    assert all(gradient.any() and gradient.isfinite().all() for gradient in gradients)
    noise.begin(0, 0, 0, 0)
    nothing = ask(head, items([]), []).vectors
    assert nothing.shape == (0, 6)
    assert not any(gradient.any() for gradient in torch.autograd.grad(nothing.sum(), list(head.parameters())))


@pytest.mark.parametrize(("name", "settings"), HEADS)
def test_cosines_with_a_temperature(name: str, settings: dict[str, Any]) -> None:
    head, catalog = build(name, settings), find_head(name).catalog
    temperature = head.config.temperature
    wish = catalog(head.config, head.manifest)
    assert (wish.cosine, wish.tied, wish.bias) == (temperature is not None, "items", False)
    if temperature is not None:
        lengths_Q = ask(head, items()).vectors.norm(dim=1)
        torch.testing.assert_close(lengths_Q, torch.full_like(lengths_Q, 1 / temperature))


def test_sasrec_by_its_equations() -> None:
    head = build("sasrec", {"dim": 6, "heads": 2, "longest": 6, "blocks": 2})
    x_VD, expected = items(), []
    for x_TD in x_VD.split(LENGTHS):
        x_TD = 6**0.5 * x_TD + head.input.position[: len(x_TD)]
        for block in head.blocks:
            x_TD = x_TD + attended(block.attention, block.attention_norm(x_TD))
            x_TD = x_TD + block.second(block.first(block.network_norm(x_TD)).relu())
        expected.append(head.norm(x_TD))
    torch.testing.assert_close(ask(head, x_VD).vectors, torch.cat(expected))


def attended(attention: Any, x_TD: Tensor) -> Tensor:
    """By PyTorch's module, with the same parameters."""
    module = nn.MultiheadAttention(x_TD.shape[1], attention.heads).double()
    module.in_proj_weight, module.in_proj_bias = attention.project.weight, attention.project.bias
    module.out_proj = attention.output
    later_TT = torch.ones(len(x_TD), len(x_TD), dtype=torch.bool).triu(1)
    return module(x_TD, x_TD, x_TD, attn_mask=later_TT, need_weights=False)[0]


def test_hstu_by_its_equations() -> None:
    head = build("hstu", {"dim": 6, "key": 3, "value": 4, "longest": 6, "temperature": 0.1})
    x_VD, expected = items(), []
    for x_TD in x_VD.split(LENGTHS):
        x_TD = 6**0.5 * x_TD + head.input.position[: len(x_TD)]
        for layer in head.layers:
            projected = functional.silu(layer.project(functional.layer_norm(x_TD, (6,), eps=1e-6)))
            u, v, q, k = projected.split((4, 4, 3, 3), dim=1)
            looked = [
                sum(functional.silu(q[i] @ k[j] + layer.attention.distance[i - j]) * v[j] for j in range(i + 1)) / 6
                for i in range(len(x_TD))
            ]
            x_TD = x_TD + layer.output(u * functional.layer_norm(torch.stack(looked), (4,), eps=1e-6))
        expected.append(x_TD / x_TD.norm(dim=1, keepdim=True) / 0.1)
    torch.testing.assert_close(ask(head, x_VD).vectors, torch.cat(expected))


def test_session_mf_by_its_definition() -> None:
    head, x_VD = build("session_mf", {"dim": 6}), items()
    means = [x_TD[: place + 1].mean(0) for x_TD in x_VD.split(LENGTHS) for place in range(len(x_TD))]
    torch.testing.assert_close(ask(head, x_VD).vectors, torch.stack(means))
    assert ask(head, items([]), []).vectors.shape == (0, 6)
    assert ask(head, items([300]), [300]).vectors.shape == (300, 6)


@pytest.mark.parametrize(("embedding", "tied"), [("shared", "items"), ("separate", None)])
def test_session_mf_scores_with_biases(embedding: str, tied: str | None) -> None:
    head = build("session_mf", {"dim": 6, "embedding": embedding})
    wish = head.catalog(head.config, head.manifest)
    assert (wish.bias, wish.tied, wish.dim) == (True, tied, 6)


def test_heads_share_the_dimension() -> None:
    with pytest.raises(UserError, match="dim = 6 is no multiple of heads = 4"):
        find_head("sasrec").Config.parse({"dim": 6, "heads": 4})
