"""Baselines against their definitions, carried out one number at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.baselines import item_knn, ranked
from dist_rec.baselines.item_knn import ItemKNN
from dist_rec.baselines.pop import Pop
from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.data.loader import Loader, LoaderConfig
from dist_rec.data.shards import Dataset
from dist_rec.embedding.scores import CatalogScores, TableShard
from dist_rec.prepare.engine import prepare
from dist_rec.prepare.ratings.source import Options, RatingFiles
from dist_rec.prepare.ratings.split import HeldOutUsers, LeaveOneOut, Splitter
from dist_rec.tasks.implicit import Implicit
from dist_rec.tasks.top_n import TopN
from tests.processes import run_distributed


@st.composite
def seen_pairs(draw: st.DrawFn) -> NDArray[np.float32]:
    """Which of a few users has which of a few items; some have none."""
    users, items = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    cells = draw(st.lists(st.booleans(), min_size=users * items, max_size=users * items))
    return np.array(cells, np.float32).reshape(users, items)


def similarity_by_hand(seen_UI: NDArray[np.float32], neighbors: int | None, shrinkage: float) -> NDArray[np.float64]:
    items = seen_UI.shape[1]
    similarity = np.zeros((items, items))
    for i in range(items):
        for j in range(items):
            both = (seen_UI[:, i] * seen_UI[:, j]).sum()
            if i != j and both:
                similarity[i, j] = both / (np.sqrt(seen_UI[:, i].sum() * seen_UI[:, j].sum()) + shrinkage)
        nearest = sorted(range(items), key=lambda j: (-np.float32(similarity[i, j]), j))
        similarity[i, nearest[neighbors:] if neighbors is not None else []] = 0
    return similarity


@given(seen_pairs(), st.none() | st.integers(1, 8), st.sampled_from([0.0, 2.5]), st.integers(1, 20))
def test_item_knn(seen_UI: NDArray[np.float32], neighbors: int | None, shrinkage: float, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_knn, "BLOCK", block)
        baseline = ItemKNN(csr_array(seen_UI), neighbors, shrinkage)
    expected = similarity_by_hand(seen_UI, neighbors, shrinkage)
    np.testing.assert_allclose(baseline.similarity_II.toarray(), expected, rtol=1e-6)
    np.testing.assert_allclose(baseline.scores(csr_array(seen_UI)), seen_UI @ expected, rtol=1e-5)


@given(seen_pairs())
def test_pop(seen_UI: NDArray[np.float32]) -> None:
    scores = Pop(csr_array(seen_UI)).scores(csr_array(seen_UI[:2]))
    assert scores.tolist() == [seen_UI.sum(0).tolist()] * len(seen_UI[:2])


def some_ratings(folder: Path) -> Path:
    """Thirty users of twelve items, the first ones more often."""
    random = np.random.default_rng(0)
    lines = []
    for user in range(30):
        items = random.choice(12, size=7, replace=False, p=np.arange(12, 0, -1) / 78)
        lines += [f"{user}\t{item}\t5\t{time}" for time, item in enumerate(items)]
    path = folder / "ratings.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def prepared(folder: Path, splitter: Splitter, **options: str | bool) -> Dataset:
    prepare(RatingFiles([str(some_ratings(folder))], splitter, Options(**options)), folder / "data")  # type: ignore[arg-type]
    return Dataset(folder / "data")


def batches(dataset: Dataset, features: tuple[str, ...], **options: Any) -> list[Batch]:
    loader = Loader(
        dataset, "test", LoaderConfig(path=dataset.path), batch=7, features=features, shuffle=False, **options
    )
    return list(loader.batches(0, loader.steps_per_epoch))


def scores_as_the_task_implicit(data: Path) -> dict[str, float]:
    """Item-KNN by hand, on the rows that a head would score."""
    dataset = Dataset(data)
    seen_UI = ranked.seen_matrix(dataset).toarray()
    scores_UI = torch.from_numpy(seen_UI @ similarity_by_hand(seen_UI, None, 0.0)).float()
    task = Implicit(Implicit.Config(candidates=5))
    metrics = task.metrics(torch.device("cpu"))
    for batch in batches(dataset, ("user", "item", "candidates"), transform=task.for_evaluation(dataset)):
        scores_B = scores_UI[batch.ids["user"].values(), batch.ids["item"].values()]
        metrics.update(*task.evidence(scores_B, batch))
    return metrics.compute()


def scores_as_the_task_top_n(data: Path) -> dict[str, float]:
    """Item-KNN by hand, as a catalog: the similarities are its rows, a user's history the query."""
    dataset = Dataset(data)
    seen_UI = ranked.seen_matrix(dataset).toarray()
    similarity_II = torch.from_numpy(similarity_by_hand(seen_UI, None, 0.0)).float()
    task = TopN(TopN.Config(), "target")
    metrics = task.metrics(torch.device("cpu"))
    for batch in batches(dataset, ("history", "target", "seen")):
        history = batch.weighted_ids["history"]
        queries_BI = torch.zeros(len(batch.labels), len(similarity_II))
        for row, items in enumerate(history.values().split(history.lengths().tolist())):
            queries_BI[row, items] = 1
        scores = CatalogScores(TableShard(similarity_II.t().contiguous(), None, 0), queries_BI)
        metrics.update(*task.evidence(scores, batch))
    return metrics.compute()


@pytest.mark.parametrize("block", [13, 1 << 24])
def test_ranked_as_by_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(ranked, "BLOCK", block)
    cases: list[tuple[str, Splitter, dict[str, Any], Callable[[Path], dict[str, float]]]] = [
        ("candidates", LeaveOneOut(draw=5), {}, scores_as_the_task_implicit),
        ("all", HeldOutUsers(valid_users=4, test_users=9), {"layout": "users"}, scores_as_the_task_top_n),
    ]
    for name, splitter, options, by_the_task in cases:
        folder = tmp_path / name
        folder.mkdir()
        dataset = prepared(folder, splitter, implicit=True, **options)
        seen_UI = ranked.seen_matrix(dataset)
        scores = ranked.score_split(ItemKNN(seen_UI), dataset, "test", seen_UI)
        assert scores == pytest.approx(run_distributed(by_the_task, 1, folder / "data")[0], abs=1e-6), name
        assert 0.5 < scores["auc"] < 1, name


HISTORIES_AND_TARGETS = [([1, 2], [3, 5]), ([2], [0, 3]), ([0, 1, 4], [2]), ([], [0, 0])]


def bags(rows: list[tuple[list[int], list[int]]], padding: int = 0) -> Batch:
    """Histories, which are what is seen, and targets, with empty rows at the end."""
    history, target = ([*column, *[[]] * padding] for column in zip(*rows, strict=True))
    columns = [history, target, history]
    lengths = torch.tensor([len(ids) for column in columns for ids in column])
    values = torch.tensor([item for column in columns for ids in column for item in ids])
    ids = KeyedJaggedTensor(["history", "target", "seen"], values, torch.ones(len(values)), lengths)
    ones = torch.ones(len(rows))
    return Batch(ones[:, None], KeyedJaggedTensor.empty(), ids, ones, ones, torch.tensor(1.0))


def evidence_by_the_task(rows: list[tuple[list[int], list[int]]], weight_IK: torch.Tensor) -> list[torch.Tensor]:
    scores, batch = CatalogScores(TableShard(weight_IK, None, 0), torch.ones(len(rows), 1)), bags(rows, padding=1)
    return list(TopN(TopN.Config(), "target").evidence(scores, batch))


def test_row_0_is_no_item() -> None:
    # The higher the row the lower the score: row 0 would come before all items.
    (found,) = run_distributed(evidence_by_the_task, 1, HISTORIES_AND_TARGETS, -torch.arange(6.0).unsqueeze(1))
    places_V2, targets_B, candidates_B = (tensor.tolist() for tensor in found)
    assert places_V2 == [[0, 0], [2, 2], [4, 4], [1, 1], [0, 0], [5, 6], [5, 6]]
    assert (targets_B, candidates_B) == ([2, 2, 1, 2], [3, 5, 3, 7])
    metrics = TopN(TopN.Config()).metrics(torch.device("cpu"))
    metrics.update(*found)
    # Pairs of a target and another candidate that are in the right order, of all.
    assert metrics.compute()["auc"] == pytest.approx((1 / 2 + 2 / 6 + 2 / 2 + 0 / 10) / 4)


def test_a_baseline_ranks_as_the_task_does_without_row_0() -> None:
    class Descending:
        def scores(self, history_BI: csr_array) -> NDArray[np.float32]:
            return np.tile(-np.arange(6, dtype=np.float32), (history_BI.shape[0], 1))

    (found,) = run_distributed(evidence_by_the_task, 1, HISTORIES_AND_TARGETS, -torch.arange(6.0).unsqueeze(1))
    ours = ranked._among_all(Descending(), bags(HISTORIES_AND_TARGETS), 6)
    assert [tensor.tolist() for tensor in ours] == [tensor.tolist() for tensor in found]


def test_cutoffs(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, LeaveOneOut(draw=5), implicit=True)
    seen_UI = ranked.seen_matrix(dataset)
    scores = ranked.score_split(Pop(seen_UI), dataset, "valid", seen_UI, (1, 6))
    assert scores["rows"] == 30 and scores["hr@6"] == 1 and "hr@10" not in scores
    assert 0 < scores["hr@1"] == scores["precision@1"] < 1


def test_data_that_has_nothing_to_rank(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, HeldOutUsers(valid_users=4, test_users=9), layout="users", implicit=True)
    columns = dataset.manifest.columns
    plain = dataset.manifest.model_copy(update={"columns": columns[:2]})
    seen_UI = ranked.seen_matrix(dataset)
    dataset.manifest = plain
    with pytest.raises(UserError, match="neither candidates nor histories of items"):
        ranked.score_split(Pop(seen_UI), dataset, "test", seen_UI)
    older = tuple(column for column in columns if column.name != "seen")
    dataset.manifest = plain.model_copy(update={"columns": older})
    with pytest.raises(UserError, match="does not say what users have seen: prepare the ratings again"):
        ranked.score_split(Pop(seen_UI), dataset, "test", seen_UI)
