import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import log_loss, mean_absolute_error, roc_auc_score, root_mean_squared_error

from dist_rec.core.errors import UserError
from dist_rec.tasks.auc import SAMPLES_PER_RANGE, auc, choose_splitters, group_ties, ordered_pairs
from dist_rec.tasks.metrics import ClickMetrics, RatingMetrics

SEEDS = st.integers(0, 2**32 - 1)
# Few distinct values make heavy ties, also between 0.0 and -0.0; many make none.
SCORES = st.one_of(
    st.sampled_from([-0.0, 0.0, 1.0, -1.0, 1e-45, 3e38]), st.floats(-30, 30, width=32), st.integers(-3, 3).map(float)
)


@st.composite
def scored_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 scores, labels with both classes, and weights of which each class has some."""
    rows = draw(st.integers(2, 60))
    scores = draw(hnp.arrays(np.float32, rows, elements=SCORES))
    labels = draw(hnp.arrays(np.float32, rows, elements=st.sampled_from([0.0, 1.0])))
    labels[:2] = 0, 1
    weights = draw(hnp.arrays(np.float32, rows, elements=st.sampled_from([0.0, 0.25, 1.0, 3.5, 1000.0])))
    weights[:2] = 1
    return scores, labels, weights


def _weight_2(labels: np.ndarray, weights: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.stack([weights * (1 - labels), weights * labels], 1), dtype=torch.float64)


@given(scored_rows(), st.booleans())
def test_auc_equals_sklearn(rows: tuple[np.ndarray, np.ndarray, np.ndarray], weighted: bool) -> None:
    scores, labels, weights = rows
    weights = weights if weighted else np.ones_like(weights)
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert auc(torch.tensor(scores), _weight_2(labels, weights)) == pytest.approx(expected, abs=1e-9)


@given(scored_rows())
def test_ties_merge_into_ascending_distinct_scores(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, labels, weights = rows
    merged, weight_2 = group_ties(torch.tensor(scores), _weight_2(labels, weights))
    assert (merged.diff() > 0).all()
    for score, weight in zip(merged.tolist(), weight_2.tolist(), strict=True):
        here = scores == np.float32(score)
        assert weight == [(weights * (1 - labels))[here].sum(), (weights * labels)[here].sum()]


@given(scored_rows(), st.lists(st.integers(0, 60), max_size=5))
def test_ranges_of_any_cut_add_up(rows: tuple[np.ndarray, np.ndarray, np.ndarray], cuts: list[int]) -> None:
    """Pairs inside consecutive ranges and pairs between them are all pairs: what the processes rely on."""
    scores, labels, weights = rows
    _, weight_G2 = group_ties(torch.tensor(scores), _weight_2(labels, weights))
    whole = ordered_pairs(weight_G2, weight_G2.prod(1) / 2)
    ranges = weight_G2.tensor_split(sorted(cuts))
    within = torch.stack([ordered_pairs(part, part.prod(1) / 2) for part in ranges])
    parts = ordered_pairs(torch.stack([part.sum(0) for part in ranges]), within)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)


def test_counts_above_the_range_of_float32_are_exact() -> None:
    """2^31 rows in two groups: 2^30 + 1 negatives below 2^30 positives, and 3 pairs tied with half a positive each."""
    weight_G2 = torch.tensor([[2.0**30 + 1, 0], [3, 2.0**30]], dtype=torch.float64)
    pairs = ordered_pairs(weight_G2, weight_G2.prod(1) / 2).item()
    assert pairs == (2**30 + 1) * 2**30 + 3 * 2**29


@given(st.lists(st.integers(0, 3000), min_size=2, max_size=16).filter(any), SEEDS, st.booleans())
def test_splitters_give_each_process_its_share(counts: list[int], seed: int, disjoint: bool) -> None:
    """Also with processes that have no rows, and when every process has a range of scores of its own."""
    generator = np.random.default_rng(seed)
    W, S = len(counts), SAMPLES_PER_RANGE * len(counts)
    parts = [np.unique(generator.normal(rank * 10 * disjoint, size=count)) for rank, count in enumerate(counts)]
    samples = [part[(2 * np.arange(S) + 1) * len(part) // (2 * S)] if len(part) else np.zeros(S) for part in parts]
    splitters = choose_splitters(torch.tensor(np.array(samples)), torch.tensor(counts)).numpy()
    everything = np.concatenate(parts)
    sizes = np.diff([0, *(np.sum(everything < splitter) for splitter in splitters), len(everything)])
    assert len(splitters) == W - 1
    assert (sizes >= 0).all()
    # Regular samples place a score to within one sample's rows on each process, at both ends of a range.
    total = len(everything)
    assert max(sizes) <= total / W + 3 * total / S + 3 * W


@given(scored_rows(), st.lists(st.integers(0, 60), max_size=4), st.booleans())
def test_click_metrics_equal_sklearn_on_any_batches(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray], cuts: list[int], weighted: bool
) -> None:
    logits, labels, weights = rows
    logits = logits.clip(-15, 15)  # beyond, probabilities near 1 are too coarse for scikit-learn's log loss
    columns = (logits, labels, weights) if weighted else (logits, labels)
    metrics = ClickMetrics("cpu")
    for part in np.array_split(np.arange(len(labels)), sorted(cuts)):
        metrics.update(*(torch.tensor(column[part]) for column in columns))
    weights = weights if weighted else np.ones_like(weights)
    result = metrics.compute()
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    logloss = log_loss(labels, probabilities, sample_weight=weights.astype(np.float64))
    rate = np.average(labels.astype(np.float64), weights=weights)
    assert result["rows"] == len(labels)
    assert result["auc"] == pytest.approx(roc_auc_score(labels, logits, sample_weight=weights), abs=1e-9)
    assert result["logloss"] == pytest.approx(logloss, abs=1e-9)
    assert result["ne"] == pytest.approx(logloss / log_loss([0, 1], [rate, rate], sample_weight=[1 - rate, rate]))
    assert result["calibration"] == pytest.approx(np.average(probabilities, weights=weights) / rate)


@given(scored_rows(), st.lists(st.integers(0, 60), max_size=4), st.booleans())
def test_rating_metrics_equal_sklearn_on_any_batches(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray], cuts: list[int], weighted: bool
) -> None:
    scores, _, weights = rows
    scores = scores.clip(-30, 30)
    ratings = np.roll(scores, 1).round() / 2
    columns = (scores, ratings, weights) if weighted else (scores, ratings)
    metrics = RatingMetrics("cpu")
    for part in np.array_split(np.arange(len(scores)), sorted(cuts)):
        metrics.update(*(torch.tensor(column[part]) for column in columns))
    weights = weights if weighted else np.ones_like(weights)
    truth = ratings.astype(np.float64), scores.astype(np.float64)
    assert metrics.compute() == {
        "rows": len(scores),
        "rmse": pytest.approx(root_mean_squared_error(*truth, sample_weight=weights.astype(np.float64))),
        "mae": pytest.approx(mean_absolute_error(*truth, sample_weight=weights.astype(np.float64))),
    }


def _click(logits: list[float], labels: list[float], weights: list[float] | None = None) -> dict[str, float]:
    metrics = ClickMetrics("cpu")
    weights_B = None if weights is None else torch.tensor(weights)
    metrics.update(torch.tensor(logits), torch.tensor(labels), weights_B)
    return metrics.compute()


def test_huge_logits_keep_their_loss() -> None:
    assert _click([1000.0, -1000.0, 50.0], [0.0, 1.0, 1.0])["logloss"] == pytest.approx(2000 / 3)
    assert _click([50.0, -50.0], [1.0, 0.0])["logloss"] == pytest.approx(math.exp(-50), rel=1e-6)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_auc_and_says_so(label: float, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = _click([0.0, 2.0], [label, label])
    assert math.isnan(result["auc"]) and math.isnan(result["ne"])
    assert result["logloss"] == pytest.approx(log_loss([label] * 2, [0.5, 1 / (1 + math.exp(-2))], labels=[0, 1]))
    assert math.isnan(result["calibration"]) == (label == 0)
    assert f"all 2 labels are {label:.0f}" in caplog.text


def test_the_batch_is_copied() -> None:
    metrics = ClickMetrics("cpu")
    logits, labels = torch.tensor([1.0, 2.0], dtype=torch.bfloat16), torch.tensor([0, 1])
    metrics.update(logits, labels)
    logits.zero_()
    assert metrics.compute()["auc"] == 1.0


@pytest.mark.parametrize("metrics", [ClickMetrics("cpu"), RatingMetrics("cpu")])
def test_no_rows_are_refused(metrics: ClickMetrics | RatingMetrics) -> None:
    metrics.update(torch.empty(0), torch.empty(0))
    with pytest.raises(UserError, match="no rows"):
        metrics.compute()


@pytest.mark.parametrize(
    ("logits", "labels", "weights", "message"),
    [
        ([math.nan, 1.0, math.inf], [0.0, 1.0, 1.0], None, "2 of 3 scores are NaN or infinite"),
        ([0.0, 1.0, 2.0], [0.0, 5.0, 1.0], None, "1 of 3 labels are neither 0 nor 1"),
        ([0.0, 1.0, 2.0], [0.0, 1.0, 1.0], [-1.0, 1.0, math.nan], "2 of 3 row weights are negative"),
        ([0.0, 1.0], [0.0, 1.0], [0.0, 0.0], "weights of all 2 rows are 0"),
    ],
)
def test_bad_rows_are_counted(
    logits: list[float], labels: list[float], weights: list[float] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _click(logits, labels, weights)


def test_bad_ratings_are_counted() -> None:
    metrics = RatingMetrics("cpu")
    metrics.update(torch.tensor([1.0, math.nan, 3.0]), torch.tensor([1.0, 2.0, 3.0]))
    with pytest.raises(UserError, match="1 of 3 scores are NaN or infinite"):
        metrics.compute()
