"""Metrics of ranked lists against their definitions on lists, one query at a time."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.core.errors import UserError
from dist_rec.tasks.ranking_metrics import RankingMetrics

CUTOFFS = (1, 3, 10)
Query = tuple[list[int], int]
"""Ranks of the targets, and the number of candidates."""


@st.composite
def queries(draw: st.DrawFn) -> list[Query]:
    found = []
    for _ in range(draw(st.integers(1, 6))):
        candidates = draw(st.integers(1, 25))
        ranks = draw(st.lists(st.integers(0, candidates - 1), unique=True, max_size=candidates))
        found.append((ranks, candidates))
    return found if any(ranks for ranks, _ in found) else [*found, ([0], 1)]


def slowly(ranks: Sequence[int], candidates: int) -> dict[str, float]:
    """By a list of candidates in their order, True where a target is."""
    listed = [rank in ranks for rank in range(candidates)]
    best = sorted(listed, reverse=True)
    values = {}
    for k in CUTOFFS:
        values[f"hr@{k}"] = float(any(listed[:k]))
        values[f"ndcg@{k}"] = gain(listed[:k]) / gain(best[:k])
        values[f"recall@{k}"] = sum(listed[:k]) / min(k, len(ranks))
        values[f"precision@{k}"] = sum(listed[:k]) / k
    values["mrr"] = 1 / (listed.index(True) + 1)
    values["map"] = sum(sum(listed[: rank + 1]) / (rank + 1) for rank in ranks) / len(ranks)
    others = [rank for rank in range(candidates) if rank not in ranks]
    right = sum(rank < other for rank in ranks for other in others)
    values["auc"] = right / (len(ranks) * len(others)) if others else 1.0
    return values


def gain(listed: Sequence[bool]) -> float:
    return sum(1 / math.log2(place + 2) for place, is_target in enumerate(listed) if is_target)


def add(metrics: RankingMetrics, batch: list[Query]) -> None:
    ranks = torch.tensor([rank for ranks, _ in batch for rank in ranks], dtype=torch.float64)
    targets = torch.tensor([len(ranks) for ranks, _ in batch])
    metrics.update(torch.stack([ranks, ranks], dim=1), targets, torch.tensor([candidates for _, candidates in batch]))


@given(batch=queries(), cut=st.integers(0, 6))
def test_by_their_definitions_however_batches_are_cut(batch: list[Query], cut: int) -> None:
    metrics = RankingMetrics("cpu", CUTOFFS)
    for part in (batch[:cut], batch[cut:]):
        if part:
            add(metrics, part)
    expected = [slowly(*query) for query in batch if query[0]]
    found = metrics.compute()
    assert found.pop("rows") == len(expected)
    assert found == pytest.approx({name: sum(row[name] for row in expected) / len(expected) for name in expected[0]})


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 5))
def test_ties_count_as_the_mean_over_their_orders(higher: int, equal: int, lower: int) -> None:
    candidates = higher + equal + lower
    metrics = RankingMetrics("cpu", CUTOFFS)
    metrics.update(torch.tensor([[higher, higher + equal]]), torch.tensor([1]), torch.tensor([candidates]))
    found = metrics.compute()
    orders = [slowly([rank], candidates) for rank in range(higher, higher + equal + 1)]
    for name in orders[0].keys() - {"mrr", "map"}:
        assert found[name] == pytest.approx(sum(order[name] for order in orders) / len(orders)), name


def test_a_diverged_model_is_refused() -> None:
    metrics = RankingMetrics("cpu", CUTOFFS)
    add(metrics, [([0], 5)])
    metrics.update(torch.tensor([[math.nan, math.nan]]), torch.tensor([1]), torch.tensor([5]))
    with pytest.raises(UserError, match="score is NaN; the model has diverged"):
        metrics.compute()


def test_no_targets_are_refused() -> None:
    metrics = RankingMetrics("cpu", CUTOFFS)
    add(metrics, [([], 5)])
    with pytest.raises(UserError, match="no row"):
        metrics.compute()
