"""Metrics over processes equal scikit-learn's on the gathered predictions, however the rows lie."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import log_loss, mean_absolute_error, roc_auc_score, root_mean_squared_error

from dist_rec.core.errors import UserError
from dist_rec.tasks.metrics import ClickMetrics, RatingMetrics
from tests.processes import run_distributed

CASES = 24
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]

SCORES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "distinct": lambda generator, rows: generator.normal(size=rows),
    "heavy ties": lambda generator, rows: generator.integers(-2, 3, rows),
    "all equal": lambda generator, rows: np.zeros(rows),
    "skewed": lambda generator, rows: -(generator.exponential(1, rows) ** 4) / 100,
}


def _rows(generator: np.random.Generator, scores: str, rows: int) -> Rows:
    """float32 logits, labels that lean on them, and weights, some of them 0."""
    logits = SCORES[scores](generator, rows).astype(np.float32).clip(-15, 15)
    labels = (generator.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    weights = generator.choice([0.0, 0.5, 1.0, 7.25], rows).astype(np.float32)
    labels[:2], weights[:2] = (0, 1), 1
    return logits, labels, weights


def _ends(generator: np.random.Generator, rows: int, world: int, layout: str) -> np.ndarray:
    """Where the rows of each process begin and end."""
    if layout == "one process":
        return np.array([0] * (1 + generator.integers(world)) + [rows] * world)[: world + 1]
    inner = np.sort(generator.integers(0, rows + 1, world - 1))
    if layout == "one process without rows":
        inner[:1] = 0
    return np.array([0, *inner, rows])


def _cases(world: int) -> Iterator[tuple[Rows, np.ndarray, bool]]:
    """The same on every process: rows, the cut of them, and whether they are weighted."""
    for case in range(CASES):
        generator = np.random.default_rng(case)
        rows = _rows(generator, list(SCORES)[case % 4], int(generator.integers(2, 2000)))
        if case % 3 == 1:  # each process has a range of scores to itself
            order = np.argsort(-rows[0], kind="stable")
            rows = rows[0][order], rows[1][order], rows[2][order]
        layout = ["uneven", "one process without rows", "one process"][case // 4 % 3]
        yield rows, _ends(generator, len(rows[0]), world, layout), bool(case % 2)


def _compute(kind: type[ClickMetrics] | type[RatingMetrics]) -> list[dict[str, float]]:
    results = []
    for rows, ends, weighted in _cases(dist.get_world_size()):
        metrics = kind("cpu")
        start, end = ends[dist.get_rank() :][:2]
        for part in np.array_split(np.arange(start, end), 3) if end > start else []:
            metrics.update(*(torch.tensor(column[part]) for column in rows[: 2 + weighted]))
        results.append(metrics.compute())
    return results


def _expected_clicks(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    probabilities = 1 / (1 + np.exp(-logits))
    rate = np.average(labels, weights=weights)
    logloss = log_loss(labels, probabilities, sample_weight=weights)
    return {
        "rows": len(labels),
        "auc": roc_auc_score(labels, logits, sample_weight=weights),
        "logloss": logloss,
        "ne": logloss / log_loss(labels, np.full_like(labels, rate), sample_weight=weights),
        "calibration": np.average(probabilities, weights=weights) / rate,
    }


def _expected_ratings(scores: np.ndarray, ratings: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    return {
        "rows": len(ratings),
        "rmse": root_mean_squared_error(ratings, scores, sample_weight=weights),
        "mae": mean_absolute_error(ratings, scores, sample_weight=weights),
    }


@pytest.mark.parametrize("world", [1, 2, 3, 4, 16])
@pytest.mark.parametrize(("kind", "expected"), [(ClickMetrics, _expected_clicks), (RatingMetrics, _expected_ratings)])
def test_equal_to_sklearn_on_gathered_predictions(
    world: int,
    kind: type[ClickMetrics] | type[RatingMetrics],
    expected: Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]],
) -> None:
    by_rank = run_distributed(_compute, world, kind)
    assert all(results == by_rank[0] for results in by_rank)
    for result, (rows, _, weighted) in zip(by_rank[0], _cases(world), strict=True):
        logits, labels, weights = (column.astype(np.float64) for column in rows)
        truth = expected(logits, labels, weights if weighted else np.ones_like(weights))
        assert result == {name: pytest.approx(value, abs=1e-6) for name, value in truth.items()}


def _degenerate() -> tuple[float, list[str]]:
    """AUC of one class, and the refusals, each caused by the last process alone."""
    last = dist.get_rank() == dist.get_world_size() - 1
    one_class, messages = ClickMetrics("cpu"), []
    one_class.update(torch.randn(5), torch.ones(5))
    for scores in [[], [0.0, math.nan]]:
        metrics = ClickMetrics("cpu")
        if last:
            metrics.update(torch.tensor(scores), torch.zeros(len(scores)))
        try:
            metrics.compute()
        except UserError as error:
            messages.append(str(error))
    return one_class.compute()["auc"], messages


def test_every_process_gets_the_same_refusal() -> None:
    for auc, (no_rows, bad_scores) in run_distributed(_degenerate, 3):
        assert math.isnan(auc)
        assert "no rows" in no_rows
        assert "1 of 2 scores are NaN" in bad_scores


@pytest.mark.gpu
def test_nccl_gives_what_gloo_gives() -> None:
    rows, _, _ = next(_cases(1))
    results = []
    for device, backend in [("cpu", "gloo"), ("cuda", "nccl")]:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        metrics = ClickMetrics(device)
        metrics.update(*(torch.tensor(column, device=device) for column in rows))
        results.append(metrics.compute())
        dist.destroy_process_group()
    assert results[1] == pytest.approx(results[0], abs=1e-9)
