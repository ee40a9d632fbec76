"""Caser against a network of `nn.Conv2d` layers, and the measures of its authors on random scores."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.core.head import Ids, Inputs, Query, Sequence
from dist_rec.core.noise import noise
from dist_rec.core.schema import Manifest, Table
from dist_rec.embedding.scores import CatalogScores, TableShard
from dist_rec.heads.caser import Caser
from dist_rec.nn.convolution import ACTIVATIONS, Activation, SequenceConvolution
from dist_rec.tasks.next_item import NextItem
from tests.small_sessions import WINDOW_COLUMNS

MANIFEST = Manifest(columns=WINDOW_COLUMNS, tables={"user": Table(rows=9), "item": Table(rows=30)}, splits={})
ROWS, LENGTH, DIM = 7, 4, 6
small = st.integers(1, 4)


def found(convolution: SequenceConvolution, x_BLD: Tensor, activation: Activation) -> Tensor:
    """What the filters find, by a convolution of the image for each height and one for the vertical filters."""
    length, dim = x_BLD.shape[1:]
    of_heights = []
    for height, layer in enumerate(convolution.horizontal, 1):
        conv = nn.Conv2d(1, layer.out_features, (height, dim))
        conv.weight = nn.Parameter(layer.weight.detach().view_as(conv.weight))
        conv.bias = nn.Parameter(layer.bias.detach())
        of_heights.append(ACTIVATIONS[activation](conv(x_BLD.unsqueeze(1)).squeeze(3)).max(2).values)
    conv = nn.Conv2d(1, convolution.vertical.out_features, (length, 1))
    conv.weight = nn.Parameter(convolution.vertical.weight.detach().view_as(conv.weight))
    conv.bias = nn.Parameter(convolution.vertical.bias.detach())
    return torch.cat([*of_heights, conv(x_BLD.unsqueeze(1)).flatten(1)], dim=1)


@settings(deadline=None)
@given(st.integers(0, 4), st.integers(1, 6), small, small, small, st.sampled_from(list(ACTIVATIONS)))
def test_one_product_is_all_convolutions(
    rows: int, length: int, dim: int, horizontal: int, vertical: int, activation: Activation
) -> None:
    torch.manual_seed(0)
    convolution = SequenceConvolution(length, dim, horizontal, vertical, activation).double()
    x_BLD = torch.randn(rows, length, dim, dtype=torch.float64, requires_grad=True)
    ours, theirs = convolution(x_BLD.flatten(1)), found(convolution, x_BLD, activation)
    assert ours.shape == (rows, convolution.outputs)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn_like(ours)
    gradients = [torch.autograd.grad((out * direction).sum(), x_BLD)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_filters_start_as_those_of_conv2d() -> None:
    torch.manual_seed(0)
    convolution = SequenceConvolution(length=3, dim=10, horizontal=2000, vertical=4000)
    for layer, conv in (
        (convolution.horizontal[1], nn.Conv2d(1, 2000, (2, 10))),
        (convolution.vertical, nn.Conv2d(1, 4000, (3, 1))),
    ):
        for ours, theirs in zip(layer.parameters(), conv.parameters(), strict=True):
            assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.05)
            assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.01)


def build(**values: Any) -> Caser:
    torch.manual_seed(0)
    return Caser(Caser.Config.parse({"length": LENGTH, "dim": DIM, "horizontal": 3, "vertical": 2, **values}), MANIFEST)


def looked_up(length: int = LENGTH) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    items_VD = torch.randn(ROWS * length, DIM, generator=generator).requires_grad_()
    user_B1D = torch.randn(ROWS, 1, DIM, generator=generator).requires_grad_()
    lengths_B = torch.full((ROWS,), length, dtype=torch.int32)
    return Inputs(torch.empty(ROWS, 0), {"user": user_B1D}, {"items": {"history": Sequence(items_VD, lengths_B)}})


def query(head: Caser, inputs: Inputs) -> Query:
    noise.begin(0, 0, 0, ROWS)
    return head(inputs)


def test_the_network_of_the_paper() -> None:
    head, inputs = build().eval(), looked_up()
    x_BLD = inputs.sequences["items"]["history"].values.view(ROWS, LENGTH, DIM)
    z_BD = head.connected(found(head.convolution, x_BLD, "relu")).relu()
    torch.testing.assert_close(query(head, inputs).vectors, torch.cat([z_BD, inputs.pooled["user"][:, 0]], dim=1))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_reach_every_parameter_and_embedding(activation: str) -> None:
    head, inputs = build(activation=activation, dropout=0.2), looked_up()
    (query(head, inputs).vectors * torch.randn(ROWS, 2 * DIM)).sum().backward()
    leaves = {"items": inputs.sequences["items"]["history"].values, "user": inputs.pooled["user"]}
    for name, tensor in {**dict(head.named_parameters()), **leaves}.items():
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0, name


def test_a_process_without_rows() -> None:
    inputs = Inputs(
        torch.empty(0, 0),
        {"user": torch.empty(0, 1, DIM)},
        {"items": {"history": Sequence(torch.empty(0, DIM), torch.empty(0, dtype=torch.int32))}},
    )
    assert query(build(), inputs).vectors.shape == (0, 2 * DIM)


def test_dropout_leaves_the_user_alone() -> None:
    inputs = looked_up()
    vectors_BD = query(build(dropout=0.9), inputs).vectors
    torch.testing.assert_close(vectors_BD[:, DIM:], inputs.pooled["user"][:, 0])
    assert not vectors_BD[:, :DIM].equal(query(build().eval(), inputs).vectors[:, :DIM])


def test_bf16_is_close_to_fp32() -> None:
    head, inputs = build().eval(), looked_up()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = query(head, inputs).vectors
    torch.testing.assert_close(rounded.float(), query(head, inputs).vectors, rtol=0.05, atol=0.03)


@pytest.mark.parametrize("length", [LENGTH - 1, LENGTH + 1])
def test_histories_of_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(UserError, match=r"histories are not of 4 items each.*--length 4"):
        build()(looked_up(length))


def test_tables_start_with_the_deviations_of_the_authors_code() -> None:
    config = Caser.Config(dim=50)
    inits = [lookup.init for lookup in Caser.lookups(config, MANIFEST)]
    catalog = Caser.catalog(config, MANIFEST)
    assert inits == [pytest.approx(3**0.5 / 50)] * 2
    assert (catalog.dim, catalog.init) == (100, pytest.approx(3**0.5 / 100))


class Columns:
    """The columns of a batch of the test."""

    def __init__(self, **lists: list[NDArray]) -> None:
        self._lists = lists

    def column(self, name: str) -> Ids:
        lists = self._lists[name]
        return Ids(torch.from_numpy(np.concatenate(lists)), torch.tensor([len(ids) for ids in lists]))


def by_the_authors_definitions(s_BI: NDArray, targets: list[NDArray], seen: list[NDArray]) -> dict[str, float]:
    """Over users, means of average precision of the whole ranking of unseen items, and of the first ones' shares."""
    found: dict[str, list[float]] = {name: [] for name in ("map", "precision@1", "recall@10")}
    for s_I, wanted, known in zip(s_BI, targets, seen, strict=True):
        ranking = [item for item in np.argsort(-s_I) if item != 0 and item not in known]
        hits = np.isin(ranking, wanted)
        found["map"].append((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].sum() / len(wanted))
        found["precision@1"].append(float(hits[0]))
        found["recall@10"].append(hits[:10].sum() / len(wanted))
    return {name: float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("seed", range(5))
def test_the_measures_are_those_of_the_authors(seed: int) -> None:
    rng, users, items = np.random.default_rng(seed), 20, 60
    weight_IE, q_BE = torch.from_numpy(rng.normal(size=(items, 5))), torch.from_numpy(rng.normal(size=(users, 5)))
    orders = [1 + rng.permutation(items - 1) for _ in range(users)]
    sizes = [(rng.integers(1, 20), rng.integers(0, 30)) for _ in range(users)]
    targets = [order[:wanted] for order, (wanted, _) in zip(orders, sizes, strict=True)]
    seen = [order[wanted : wanted + known] for order, (wanted, known) in zip(orders, sizes, strict=True)]
    task = NextItem(NextItem.Config.parse({"seen": "seen", "cutoffs": [1, 10], "best": "map"}), "target")
    metrics = task.metrics(torch.device("cpu"))
    scores = CatalogScores(TableShard(weight_IE, None, 0), q_BE)
    metrics.update(*task.evidence(scores, cast(Batch, Columns(target=targets, seen=seen))))
    expected = by_the_authors_definitions((q_BE @ weight_IE.t()).numpy(), targets, seen)
    assert {name: metrics.compute()[name] for name in expected} == pytest.approx(expected)
