"""The pure parts of the catalog: reductions in chunks, sampled losses, merging of best rows, ranks."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.core import head
from dist_rec.core.errors import UserError
from dist_rec.core.head import Ids
from dist_rec.embedding import ranking, scores
from dist_rec.embedding.catalog_losses import (
    bpr,
    bpr_max,
    cross_entropy,
    sampled_softmax,
    top1,
    top1_max,
)
from dist_rec.embedding.ranking import best_of, places, places_among, top_k
from dist_rec.embedding.scores import LOGSUMEXP, SUM_SOFTPLUS, SUM_SQUARES, CatalogScores, Reduction, TableShard
from dist_rec.embedding.tables import EmbeddingConfig, catalog_table, embedding_tables
from tests.small_head import MANIFEST, SmallHead

seeds = st.integers(0, 2**32)
sizes = st.integers(0, 9)
WHOLE = {
    LOGSUMEXP: lambda s_GR: s_GR.logsumexp(1),
    SUM_SOFTPLUS: lambda s_GR: torch.nn.functional.softplus(s_GR).sum(1),
    SUM_SQUARES: lambda s_GR: s_GR.square().sum(1),
}


@pytest.mark.parametrize("reduction", WHOLE)
@given(seed=seeds, rows=st.integers(1, 9), queries=sizes, chunk=st.integers(1, 30), with_bias=st.booleans())
def test_chunks_equal_the_whole_matrix(
    reduction: Reduction, seed: int, rows: int, queries: int, chunk: int, with_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(queries, 3), (rows, 3), (rows, 1)]
    q, w, b = (torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes)
    inputs = [q, w, b] if with_bias else [q, w]
    gradient = torch.randn(queries, generator=generator, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "CHUNK", chunk)
        ours = CatalogScores(TableShard(w, b if with_bias else None, 0), q).over_rows(reduction)
        gradients = torch.autograd.grad(ours, inputs, gradient)
    dense = WHOLE[reduction](q @ w.t() + b.t() if with_bias else q @ w.t())
    torch.testing.assert_close(ours, dense)
    torch.testing.assert_close(gradients, torch.autograd.grad(dense, inputs, gradient))


@given(seed=seeds, with_bias=st.booleans(), chunk=st.integers(1, 30))
def test_cosines_are_products_with_rows_of_length_1(seed: int, with_bias: bool, chunk: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (7, 3), (7, 1)]
    q, w, b = (torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes)
    inputs = [q, w, b] if with_bias else [q, w]
    ids, samples = jagged([6, 0], [], [6], [2, 3, 6]), torch.tensor([1, 1, 5])

    def dense() -> Tensor:
        s_BR = q @ (w / w.norm(dim=1, keepdim=True)).t()
        return s_BR + b.t() if with_bias else s_BR

    ours, direct = (
        CatalogScores(TableShard(w, b if with_bias else None, 0, cosine=True), q),
        small_scores(dense().detach()),
    )
    pairs = {
        "all rows": (lambda: ours.over_rows(LOGSUMEXP), lambda: dense().logsumexp(1)),
        "pairs": (lambda: ours.of_pairs(ids), lambda: dense()[ours.query_of(ids), ids.values]),
        "samples": (lambda: ours.of_rows(samples), lambda: dense()[:, samples]),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "CHUNK", chunk)
        patch.setattr(ranking, "CHUNK", chunk)
        torch.testing.assert_close(places(ours, ids), places(direct, ids))
        torch.testing.assert_close(top_k(ours, 3), top_k(direct, 3))
        for name, (found, expected) in pairs.items():
            torch.testing.assert_close(found(), expected(), msg=name.__add__)
            of_found, of_expected = (
                torch.autograd.grad(of().sin().sum(), inputs, materialize_grads=True) for of in (found, expected)
            )
            for value, other in zip(of_found, of_expected, strict=True):
                torch.testing.assert_close(value.to_dense(), other, msg=name.__add__)


def jagged(*rows: list[int]) -> Ids:
    values = torch.tensor([id for row in rows for id in row], dtype=torch.int64)
    return Ids(values, lengths=torch.tensor([len(row) for row in rows]))


def small_scores(s_BR: Tensor) -> CatalogScores:
    """Scores that are these numbers exactly: a row of the table is a column of the matrix."""
    return CatalogScores(TableShard(s_BR.t().contiguous(), None, 0), torch.eye(len(s_BR), dtype=s_BR.dtype))


@given(seed=seeds, rows=st.integers(2, 9))
def test_sampling_each_other_row_once_is_the_full_softmax(seed: int, rows: int) -> None:
    s_BR = torch.randn(1, rows, generator=torch.Generator().manual_seed(seed))
    others = torch.arange(1, rows)
    log_q = torch.full((rows - 1,), -float(torch.tensor(rows - 1.0).log()))
    nowhere = torch.zeros(1, rows - 1, dtype=torch.bool)
    ours = sampled_softmax(s_BR[:, 0], s_BR[:, others], nowhere, log_q)
    torch.testing.assert_close(ours, cross_entropy(small_scores(s_BR), jagged([0])))


penalised = partial(bpr_max, penalty=0.5)


@given(seed=seeds, samples=sizes)
def test_a_sample_that_is_the_target_is_left_out(seed: int, samples: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    target, sampled = torch.randn(2, generator=generator), torch.randn(2, samples, generator=generator)
    log_q, no_bias = -torch.rand(samples + 1, generator=generator), torch.zeros(1)
    longer = torch.cat([sampled, target.unsqueeze(1)], dim=1)
    same = torch.zeros(2, samples + 1, dtype=torch.bool)
    same[:, -1] = True
    for loss in (bpr, top1, penalised, top1_max, sampled_softmax):
        torch.testing.assert_close(loss(target, longer, same), loss(target, sampled, same[:, :-1]))
    shift = (torch.tensor(samples + 1.0) / max(1, samples)).log()  # a sample stands for 1 / (S q) rows
    torch.testing.assert_close(
        sampled_softmax(target, longer, same, log_q - shift),
        sampled_softmax(target, sampled, same[:, :-1], log_q[:-1]),
    )
    assert (sampled_softmax(target, longer, same, log_q, no_bias - 50) <= 1e-6).all()


@pytest.mark.parametrize("loss", [bpr, top1, penalised, top1_max, sampled_softmax])
def test_without_a_sample_that_counts_there_is_nothing_to_learn(loss: Callable[..., Tensor]) -> None:
    target, sampled = torch.randn(2, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    lost = loss(target, sampled, torch.ones(2, 3, dtype=torch.bool))
    assert lost.tolist() == [0, 0]
    for gradient in torch.autograd.grad(lost.sum(), (target, sampled)):
        assert not gradient.any()


@given(seed=seeds, k=st.integers(1, 6), sizes=st.lists(sizes, min_size=1, max_size=4))
def test_best_of_parts_is_best_of_all(seed: int, k: int, sizes: list[int]) -> None:
    all_GR = torch.randn(3, sum(sizes) + k, generator=torch.Generator().manual_seed(seed))
    ids_GR = torch.arange(all_GR.shape[1]).expand_as(all_GR)
    parts = list(zip(all_GR.split([*sizes, k], 1), ids_GR.split([*sizes, k], 1), strict=True))
    top_GK, best_GK = best_of(k, *parts)
    torch.testing.assert_close((top_GK, best_GK), tuple(all_GR.topk(k)))


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=8), st.integers(-2, 2))
def test_places_are_the_first_and_the_last_over_the_orders_of_ties(others: list[int], target: int) -> None:
    first = sum(other > target for other in others)
    last = sum(other >= target for other in others)
    places_V2 = places_among(torch.tensor([others]).float(), torch.tensor([float(target)]))
    assert places_V2.tolist() == [[first, last]]


@given(seed=seeds, rows=st.integers(1, 12), data=st.data())
def test_ranks_and_best_rows_agree(seed: int, rows: int, data: st.DataObject) -> None:
    s_BR = torch.randperm(2 * rows, generator=torch.Generator().manual_seed(seed)).view(2, rows).float()
    seen = [data.draw(st.sets(st.integers(0, rows - 1), max_size=rows - 1)) for _ in range(2)]
    left = [sorted(set(range(rows)) - row) for row in seen]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "CHUNK", data.draw(st.integers(1, 40)))
        patch.setattr(ranking, "QUERIES", data.draw(st.integers(1, 3)))
        top_BK, ids_BK = top_k(small_scores(s_BR), rows, jagged(*map(sorted, seen)))
        first_V, last_V = places(small_scores(s_BR), jagged(*left), jagged(*map(sorted, seen))).unbind(1)
        assert torch.equal(first_V, last_V)
    for query, ranks_of_left in enumerate(first_V.split([len(row) for row in left])):
        found = ids_BK[query, : len(left[query])]
        assert found.tolist() == [left[query][place] for place in ranks_of_left.argsort()]
        assert torch.equal(s_BR[query, found], top_BK[query, : len(found)])
        assert (ids_BK[query, len(found) :] == -1).all()


def test_scores_that_are_no_number() -> None:
    s_BR = torch.tensor([[0.0, 1.0, torch.nan], [0.0, 1.0, torch.nan]])
    places_V2 = places_among(s_BR, torch.tensor([torch.nan, 0.5]))
    assert places_V2[0].isnan().all() and places_V2[1].tolist() == [2, 2]


def test_an_untrained_model_has_all_places() -> None:
    assert places(small_scores(torch.zeros(1, 5)), jagged([3]), jagged([0, 1])).tolist() == [[0, 2]]


def test_settings_of_a_catalog_go_by_its_name_and_its_table() -> None:
    wish = head.Catalog("next", "history", 6, init=0.5)
    config = EmbeddingConfig.parse({"lookups": {"next": {"lr": 0.5}}, "tables": {"next/item": {"optimizer": "adam"}}})
    table = catalog_table(wish, MANIFEST, config)
    assert (str(table.name), table.rows, table.dim) == ("next/item", 29, 6)
    assert (table.settings.lr, table.settings.optimizer, table.settings.init) == (0.5, "adam", 0.5)
    lookups = SmallHead.lookups(SmallHead.Config(), MANIFEST)
    embedding_tables(lookups, MANIFEST, config, (wish,))
    with pytest.raises(UserError, match="no lookup 'next'"):
        embedding_tables(lookups, MANIFEST, config)
    with pytest.raises(UserError, match="two lookups or catalogs named 'mean'"):
        embedding_tables(lookups, MANIFEST, EmbeddingConfig(), (head.Catalog("mean", "item", 6),))
    with pytest.raises(UserError, match="'price' is dense and holds no ids"):
        catalog_table(head.Catalog("next", "price", 6), MANIFEST, config)
