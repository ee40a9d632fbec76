"""Interactions and normalisation, each against its definition."""

from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dist_rec.core.errors import UserError
from dist_rec.heads.autoint import Interaction
from dist_rec.nn.fields import FactoredFields
from dist_rec.nn.interactions import (
    CompressedInteractions,
    CrossNet,
    CrossNetV2,
    PairwiseDots,
    bi_interaction,
    summed_outer,
)
from dist_rec.nn.norm import BatchNorm

sizes = st.integers(1, 6)


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(features: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(features) for j in range(i)]


@given(sizes, sizes, sizes)
def test_bi_interaction(rows: int, features: int, dim: int) -> None:
    x = vectors(rows, features, dim)
    expected = sum((x[:, i] * x[:, j] for i, j in pairs(features)), torch.zeros(rows, dim, dtype=x.dtype))
    torch.testing.assert_close(bi_interaction(x), expected)


@given(sizes, st.integers(0, 4), sizes, sizes)
def test_factored_fields_are_the_fields(rows: int, dense: int, ids: int, dim: int) -> None:
    x, vectors_ND, ids_BFD = vectors(rows, dense), vectors(dense, 1 + dim, seed=1), vectors(rows, ids, 1 + dim, seed=2)
    linear, factored = FactoredFields(x, vectors_ND, ids_BFD).split_weights()
    fields = torch.cat([x.unsqueeze(2) * vectors_ND, ids_BFD], dim=1)
    layer = nn.Linear((dense + ids) * dim, 3, dtype=torch.float64)
    torch.testing.assert_close(linear, fields[:, :, 0].sum(1))
    torch.testing.assert_close(factored.bi_interaction(), bi_interaction(fields[:, :, 1:]))
    torch.testing.assert_close(factored.linear(layer), layer(fields[:, :, 1:].flatten(1)))
    if dense:
        assert torch.autograd.gradcheck(
            lambda *parts: FactoredFields(*parts).bi_interaction(),
            [part.clone().requires_grad_() for part in (x, vectors_ND, ids_BFD)],
        )


@given(sizes, st.integers(2, 6), sizes)
def test_pairwise_dots(rows: int, features: int, dim: int) -> None:
    x = vectors(rows, features, dim).requires_grad_()
    dots = PairwiseDots(features)
    expected = torch.stack([(x[:, i] * x[:, j]).sum(1) for i, j in pairs(features)], dim=1)
    torch.testing.assert_close(dots(x), expected)
    assert dots.outputs == expected.shape[1]
    assert torch.autograd.gradcheck(dots, (x,))


def test_one_feature_has_no_pairs() -> None:
    with pytest.raises(UserError, match="need two features or more, but there is 1"):
        PairwiseDots(1)


@given(sizes, sizes, sizes)
def test_summed_outer(rows: int, features: int, dim: int) -> None:
    x = vectors(rows, features, dim)
    expected = torch.einsum("bid,bje->bde", x, x).flatten(1)
    torch.testing.assert_close(summed_outer(x), expected)


def randomise(module: nn.Module) -> None:
    for number, parameter in enumerate(module.parameters()):
        parameter.data = vectors(*parameter.shape, seed=number + 1)


@given(sizes, sizes, st.integers(0, 3))
def test_cross_layers(rows: int, inputs: int, layers: int) -> None:
    cross = CrossNet(inputs, layers)
    randomise(cross)
    first = x = vectors(rows, inputs)
    for weight, bias in zip(cross.weights_LI, cross.biases_LI, strict=True):
        x = torch.einsum("bi,bj,j->bi", first, x, weight) + bias + x
    torch.testing.assert_close(cross(first), x)


@given(sizes, sizes, st.integers(0, 3), st.none() | sizes)
def test_cross_layers_v2(rows: int, inputs: int, layers: int, rank: int | None) -> None:
    cross = CrossNetV2(inputs, layers, rank)
    randomise(cross)
    first = x = vectors(rows, inputs)
    for layer in cross.layers:
        weight, bias = (
            (layer.weight, layer.bias) if rank is None else (layer[1].weight @ layer[0].weight, layer[1].bias)
        )
        x = first * (x @ weight.T + bias) + x
    torch.testing.assert_close(cross(first), x)


@given(sizes, sizes, sizes, st.lists(sizes, min_size=1, max_size=3).map(tuple))
def test_compressed_interactions(rows: int, features: int, dim: int, maps: tuple[int, ...]) -> None:
    cin = CompressedInteractions(features, maps)
    randomise(cin)
    first = x = vectors(rows, features, dim)
    pooled = []
    for layer, size in zip(cin.layers, maps, strict=True):
        weights = layer.weight.reshape(size, features, x.shape[1])
        x = torch.einsum("hij,bid,bjd->bhd", weights, first, x)
        pooled.append(x.sum(2))
    torch.testing.assert_close(cin(first), torch.cat(pooled, dim=1))
    assert cin.outputs == sum(maps)


def test_attention_between_fields() -> None:
    attention = Interaction(inputs=3, heads=2, width=4)
    randomise(attention)
    x = vectors(5, 6, 3)
    query, key, value, shortcut = attention.project.weight.reshape(4, 2, 4, 3)
    outputs = []
    for head in range(2):
        weights = ((x @ query[head].T) @ (x @ key[head].T).transpose(1, 2)).softmax(2)
        outputs.append((weights @ (x @ value[head].T) + x @ shortcut[head].T).relu())
    torch.testing.assert_close(attention(x), torch.cat(outputs, dim=2))


@given(st.integers(2, 40), sizes, st.booleans())
def test_batch_norm_is_the_usual_one(rows: int, columns: int, alone: bool) -> None:
    ours, usual = BatchNorm(columns), nn.BatchNorm1d(columns)
    x = vectors(rows, columns).float() * 3 + 50
    with mock.patch("dist_rec.nn.norm.alone", return_value=alone):
        for batch in (x, x + 1, 2 * x):
            ours_x, usual_x = batch.clone().requires_grad_(), batch.clone().requires_grad_()
            y, expected = ours(ours_x), usual(usual_x)
            torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)
            weights = vectors(rows, columns, seed=1).float()
            (y * weights).sum().backward()
            (expected * weights).sum().backward()
            torch.testing.assert_close(ours_x.grad, usual_x.grad, rtol=1e-2, atol=1e-3)
    for name, value in usual.state_dict().items():
        if name in ours.state_dict():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.eval()(x), usual.eval()(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows", [0, 1])
def test_batch_norm_of_hardly_any_rows(rows: int) -> None:
    norm = BatchNorm(3)
    norm(vectors(20, 3).float())
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    x = vectors(rows, 3, seed=1).float()
    torch.testing.assert_close(norm(x), norm.eval()(x))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
