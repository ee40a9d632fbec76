"""The task `next_item`: its losses among samples, and its ranks, by their definitions on small matrices."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.data.samples import Samples
from dist_rec.data.shards import Dataset
from dist_rec.embedding.scores import CatalogScores, TableShard
from dist_rec.tasks.next_item import NextItem
from tests.small_sessions import write_sessions

ITEMS = 9
COUNTS = np.array([0, 5, 1, 0, 2, 8, 3, 1, 1])


def batch_of(
    targets: list[list[int]],
    samples: list[int] | None = None,
    seen: list[list[int]] | None = None,
    negatives: list[list[int]] | None = None,
) -> Batch:
    columns = {"target": targets, **({} if seen is None else {"seen": seen})}
    values = [item for column in columns.values() for row in column for item in row]
    lengths = [len(row) for column in columns.values() for row in column]
    rows = len(targets)
    return Batch(
        dense=torch.zeros(rows, 0),
        ids=KeyedJaggedTensor([*columns], torch.tensor(values), lengths=torch.tensor(lengths), stride=rows),
        weighted_ids=KeyedJaggedTensor([], torch.empty(0, dtype=torch.int64), lengths=torch.empty(0)),
        labels=torch.zeros(rows),
        weights=torch.ones(rows),
        scale=torch.tensor(1 / rows),
        samples=None if samples is None else torch.tensor(samples),
        negatives=None if negatives is None else torch.tensor(negatives, dtype=torch.int32),
    )


def task(data: Path | None = None, **settings: Any) -> NextItem:
    made = NextItem(NextItem.Config.parse({"cutoffs": [3], "best": "mrr@3", **settings}), "target")
    if data is not None:
        made.for_training(Dataset(data), seed=0)
    return made


def scores_of(s_QI: Tensor, per_target: bool = False) -> CatalogScores:
    scores = CatalogScores(TableShard(s_QI.t().contiguous(), None, 0), torch.eye(len(s_QI)))
    scores.per_target = per_target
    return scores


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    events = [item for item, count in enumerate(COUNTS) for _ in range(count)]
    sessions = [(1, [item], [other]) for item, other in zip(events[:-1:2], events[1::2], strict=True)]
    sessions.append((1, [events[-1]], []))
    return write_sessions(tmp_path_factory.mktemp("data"), {"train": sessions}, 2, ITEMS)


def test_the_targets_of_the_others_and_the_drawn_are_samples(data: Path) -> None:
    targets, drawn = [5, 1, 5], [6, 1]
    s_QI = torch.randn(3, ITEMS)
    loss_B = task(data, in_batch=True, samples=2).loss(scores_of(s_QI), batch_of([[t] for t in targets], drawn))
    for row, target in enumerate(targets):
        others = [item for item in [*targets, *drawn] if item != target]
        s_S = s_QI[row, [target, *others]]
        torch.testing.assert_close(loss_B[row], functional.cross_entropy(s_S, torch.tensor(0)))


def test_logq_takes_off_how_many_are_expected(data: Path) -> None:
    s_QI, drawn = torch.randn(2, ITEMS), [6, 4, 1]
    share_I = torch.from_numpy(COUNTS / COUNTS.sum())
    power_I = torch.from_numpy(COUNTS**0.5 / (COUNTS**0.5).sum())
    chosen = task(data, in_batch=True, samples=3, alpha=0.5, logq=True)
    loss_B = chosen.loss(scores_of(s_QI), batch_of([[5], [1]], drawn))
    log_I = (2 * share_I + 3 * power_I).log().float()
    s_S = (s_QI - log_I)[0, [5, 1, *drawn]]
    torch.testing.assert_close(loss_B[0], functional.cross_entropy(s_S, torch.tensor(0)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("samples", [0, 4])
def test_the_mean_over_rows_is_the_mean_over_targets(data: Path, samples: int) -> None:
    targets, drawn = [[5, 1, 2], [], [4]], torch.tensor([1, 6, 7, 4])
    flat = torch.tensor([item for row in targets for item in row])
    s_VI = torch.randn(4, ITEMS)
    chosen = task(data, in_batch=False, samples=samples)
    loss_B = chosen.loss(scores_of(s_VI, per_target=True), batch_of(targets, drawn.tolist() if samples else None))
    expected = functional.cross_entropy(s_VI, flat)
    if samples:
        same = flat.unsqueeze(1) == drawn
        s_VS = torch.cat([s_VI.gather(1, flat.unsqueeze(1)), s_VI[:, drawn].masked_fill(same, -torch.inf)], dim=1)
        expected = functional.cross_entropy(s_VS, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(loss_B.mean(), expected)
    assert loss_B[1] == 0


def of_definition(loss: str, target: Tensor, samples_S: Tensor) -> Tensor:
    """The loss of a target with some samples."""
    match loss:
        case "cross_entropy":
            return functional.cross_entropy(torch.cat([target.view(1), samples_S]), torch.tensor(0))
        case "logistic":
            return functional.softplus(-target) + functional.softplus(samples_S).mean()
        case "bpr":
            return functional.softplus(samples_S - target).mean()
        case "bpr_max":
            p_S = samples_S.softmax(0)
            return -(p_S @ (target - samples_S).sigmoid()).log() + p_S @ samples_S**2
        case "top1":
            return ((samples_S - target).sigmoid() + samples_S.square().sigmoid()).mean()
        case _:
            return samples_S.softmax(0) @ ((samples_S - target).sigmoid() + samples_S.square().sigmoid())


LOSSES = ["cross_entropy", "logistic", "bpr", "bpr_max", "top1", "top1_max"]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("samples", [[], [4, 1]])
def test_each_target_is_compared_with_negatives_of_its_own(loss: str, samples: list[int]) -> None:
    targets, negatives = [[5, 1], [], [4]], [[2, 3], [7, 8], [6, 6]]
    s_QI, chosen = torch.randn(3, ITEMS), task(loss=loss, in_batch=False, samples=len(samples), negatives=2)
    loss_B = chosen.loss(scores_of(s_QI), batch_of(targets, samples or None, negatives=negatives))
    wanted_V = []
    for row, target, own in ((0, 5, [2, 3]), (0, 1, [7, 8]), (2, 4, [6, 6])):
        others = [*(item for item in samples if item != target), *own]
        wanted_V.append(of_definition(loss, s_QI[row, target], s_QI[row, others]))
    torch.testing.assert_close(loss_B, torch.stack([wanted_V[0] + wanted_V[1], torch.tensor(0.0), wanted_V[2]]))


def test_negatives_are_no_items_of_the_user(tmp_path: Path) -> None:
    items = {1: [1, 2, 3, 4, 5, 6], 2: [7, 8]}
    windows = [(user, items[user][:-1], items[user][-1:]) for user in (1, 2)]
    folder = write_sessions(tmp_path, {"train": windows}, users=3, items=ITEMS, pairs=True)
    chosen = task(in_batch=False, samples=0, negatives=30)
    transform = chosen.for_training(Dataset(folder), seed=0)
    assert transform is not None
    batch = batch_of([[6, 5], [8]])
    batch.ids = KeyedJaggedTensor(
        ["target", "user"], torch.tensor([6, 5, 8, 1, 2]), lengths=torch.tensor([2, 1, 1, 1]), stride=2
    )
    negatives_VN = transform(batch, 0).negatives
    assert negatives_VN is not None
    assert [sorted({*row}) for row in negatives_VN.tolist()] == [[7, 8], [7, 8], [1, 2, 3, 4, 5, 6]]


def test_negatives_go_without_logq() -> None:
    with pytest.raises(UserError, match=r"negatives = 2: logq corrects samples that all targets share"):
        task(logq=True, negatives=2)


@pytest.mark.parametrize("per_target", [False, True])
@pytest.mark.parametrize("seen", [None, [[2, 5], [1], []]])
def test_ranks_among_all_items_or_those_that_were_not_seen(per_target: bool, seen: list[list[int]] | None) -> None:
    targets = [[5], [2], [0]]
    s_QI = torch.randn(3, ITEMS)
    chosen = task(seen=None if seen is None else "seen", in_batch=False)
    metrics = chosen.metrics(torch.device("cpu"))
    metrics.update(*chosen.evidence(scores_of(s_QI, per_target), batch_of(targets, seen=seen)))
    ranks = []
    for row, (target,) in enumerate(targets):
        left = [item for item in range(1, ITEMS) if item == target or seen is None or item not in seen[row]]
        ranks.append(sum(float(s_QI[row, item]) > float(s_QI[row, target]) for item in left) if target else ITEMS)
    found = metrics.compute()
    assert found["rows"] == 3
    assert found["recall@3"] == pytest.approx(np.mean([rank < 3 for rank in ranks]))
    assert found["mrr@3"] == pytest.approx(np.mean([1 / (rank + 1) if rank < 3 else 0 for rank in ranks]))


def test_rows_with_other_numbers_of_targets_have_their_own_seen_items() -> None:
    s_VI = torch.randn(4, ITEMS)
    chosen = task(seen="seen", in_batch=False)
    places_V2, lengths_V, candidates_V = chosen.evidence(
        scores_of(s_VI, per_target=True), batch_of([[5, 1, 2], [], [4]], seen=[[7, 8], [3], []])
    )
    assert lengths_V.tolist() == [1] * 4
    assert candidates_V.tolist() == [ITEMS - 3] * 3 + [ITEMS - 1]
    for row, (target, out) in enumerate([(5, [0, 7, 8]), (1, [0, 7, 8]), (2, [0, 7, 8]), (4, [0])]):
        better = [item for item in range(ITEMS) if item not in out and s_VI[row, item] > s_VI[row, target]]
        assert places_V2[row].tolist() == [len(better)] * 2


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, 1.0]))
def test_samples_are_drawn_by_a_power_of_their_counts(seed: int, alpha: float) -> None:
    samples = Samples(COUNTS, alpha, seed)
    drawn_S = samples.draw(step=3, samples=4000)
    weight_I = np.where(COUNTS > 0, COUNTS.astype(float) ** alpha, 0)
    expected_I = weight_I / weight_I.sum()
    np.testing.assert_allclose(samples.probability_I, expected_I)
    share_I = np.bincount(drawn_S, minlength=ITEMS) / len(drawn_S)
    assert (share_I[expected_I == 0] == 0).all()
    assert np.abs(share_I - expected_I).max() < 0.05
    assert (samples.draw(3, 100) == drawn_S[:100]).all()
    assert (samples.draw(4, 100) != drawn_S[:100]).any()


def test_samples_need_counts() -> None:
    dataset: Any = SimpleNamespace(path="data/ratings", manifest=SimpleNamespace(transform={}))
    with pytest.raises(UserError, match=r"data/ratings .*prepare sessions"):
        task().for_training(dataset, seed=0)
    assert task(in_batch=False, samples=0).for_training(dataset, seed=0) is None


def test_only_cross_entropy_does_without_samples() -> None:
    with pytest.raises(UserError, match=r"task\.negatives.*'bpr_max' compares with samples"):
        NextItem.Config.parse({"loss": "bpr_max", "in_batch": False, "samples": 0}, "task.")


def test_the_best_metric_is_one_of_those_at_the_cutoffs() -> None:
    with pytest.raises(UserError, match=r"task\.best.*recall@7"):
        NextItem.Config.parse({"cutoffs": [7], "best": "recall@20"}, "task.")
