"""Baselines of sessions against their definitions, carried out one item and one target at a time."""

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.baselines import ranked_sessions, sessions
from dist_rec.baselines.last_item import LastItem
from dist_rec.baselines.ranked_sessions import Ranking, SessionBaseline, score_sessions
from dist_rec.baselines.session_pop import SessionPop, SPop
from dist_rec.baselines.sessions import Sessions
from dist_rec.core.errors import UserError
from dist_rec.data.counts import load_counts
from dist_rec.data.shards import Dataset
from dist_rec.embedding.scores import CatalogScores, TableShard
from dist_rec.prepare.engine import prepare
from dist_rec.prepare.sessions.form import Columns
from dist_rec.prepare.sessions.options import Options
from dist_rec.prepare.sessions.source import SessionFiles
from dist_rec.prepare.sessions.split import Fraction as ByShare
from dist_rec.prepare.sessions.split import LastSession
from dist_rec.tasks.next_item import NextItem
from tests.processes import run_distributed
from tests.small_sessions import wandering, write_sessions

ITEMS = 7
Row = tuple[list[int], list[int]]
"""History and targets."""
Score = Callable[[list[int], int], Any]
"""(session so far, item) → what ranks it."""


@st.composite
def rows(draw: st.DrawFn, first: int, whole: bool) -> list[Row]:
    """Sessions of a few items; of `whole` ones all but the first are targets, of others only some of the last."""
    made = []
    for _ in range(draw(st.integers(1, 6))):
        items = draw(st.lists(st.integers(first, ITEMS - 1), min_size=2, max_size=7))
        targets = len(items) - 1 if whole else draw(st.integers(0, len(items) - 1))
        made.append((items[:-1], items[len(items) - targets :]))
    return made


def folder(path: Path, train: list[Row], test: list[Row]) -> Dataset:
    splits = {"train": [(1, *row) for row in train], "test": [(1, *row) for row in test]}
    return Dataset(write_sessions(path, splits, users=2, items=ITEMS, block_rows=4))


def whole(train: list[Row]) -> list[list[int]]:
    return [history + target[-1:] for history, target in train]


def pop(train: list[Row]) -> Score:
    count = Counter(item for session in whole(train) for item in session)
    return lambda session, item: count[item]


def s_pop(train: list[Row]) -> Score:
    count = Counter(item for session in whole(train) for item in session)
    return lambda session, item: (session.count(item), count[item])


def item_knn(train: list[Row], neighbors: int | None, shrinkage: float, alpha: float, distinct: bool) -> Score:
    number: Counter[int] = Counter()
    both: Counter[tuple[int, int]] = Counter()
    for session in whole(train):
        for one in set(session):
            events = 1 if distinct else session.count(one)
            number[one] += events
            for other in set(session) - {one}:
                both[one, other] += events

    def similarity(one: int, other: int) -> np.float32:
        norm = (number[one] + shrinkage) ** alpha * (number[other] + shrinkage) ** (1 - alpha)
        return np.float32(both[one, other] / norm if both[one, other] else 0)

    def score(session: list[int], item: int) -> np.float32:
        last = session[-1]
        nearest = sorted(range(ITEMS), key=lambda other: (-similarity(last, other), other))
        return similarity(last, item) if item in nearest[:neighbors] else np.float32(0)

    return score


def markov(train: list[Row], smoothing: float) -> Score:
    count = Counter(item for session in whole(train) for item in session)
    follows = Counter(pair for session in whole(train) for pair in pairwise(session))

    def score(session: list[int], item: int) -> Fraction:
        popular = Fraction(smoothing) * Fraction(count[item], sum(count.values()))
        after = sum(follows[session[-1], other] for other in range(ITEMS))
        return (follows[session[-1], item] + popular) / (after + Fraction(smoothing) or 1)

    return score


def places_by_hand(
    score: Score, test: list[Row], seen: list[list[int]] | None = None, windows: bool = False, items: int = ITEMS
) -> list[tuple[float, float]]:
    """How many items score higher than each target, and how many others not lower; unknown ones come last."""
    places = []
    for number, (history, target) in enumerate(test):
        excluded = set(seen[number] if seen else [])
        for place, item in enumerate(target):
            session = history if windows else history[: len(history) - len(target) + place + 1]
            others = [score(session, other) for other in range(1, items) if other not in excluded | {item}]
            own = score(session, item)
            unknown = target.count(0) if windows else 1
            last = items - 1 - len(excluded - {0})
            higher, not_lower = sum(other > own for other in others), sum(other >= own for other in others)
            places.append((higher, not_lower) if item else (last, last + unknown - 1))
    return places


def read(dataset: Dataset, split: str, *names: str) -> list[list[list[int]]]:
    """Columns as lists."""
    columns: list[list[list[int]]] = [[] for _ in names]
    for batch in sessions.rows_of(dataset, split, names):
        for column, name in zip(columns, names, strict=True):
            ids = batch.column(name)
            column += [some.tolist() for some in ids.values.split(ids.lengths.tolist())]
    return columns


def places(
    baseline: SessionBaseline, dataset: Dataset, seen: str | None = None, windows: bool = False
) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    names = ("history", "target", *([seen] if seen else []))
    for batch in sessions.rows_of(dataset, "test", names):
        found += map(tuple, Ranking(baseline).evidence(batch, seen, windows)[0].tolist())
    return found


@settings(max_examples=60, deadline=None)
@given(
    rows(1, whole=True),
    rows(0, whole=False),
    st.none() | st.integers(1, 8),
    st.sampled_from([0.0, 20.0]),
    st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    st.booleans(),
    st.sampled_from([0.0, 0.25, 2.718]),
    st.integers(1, 60),
)
def test_places_by_the_definitions(
    train: list[Row],
    test: list[Row],
    neighbors: int | None,
    shrinkage: float,
    alpha: float,
    distinct: bool,
    smoothing: float,
    block: int,
) -> None:
    with TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranked_sessions, "BLOCK", block)
        patch.setattr(sessions, "ROWS", 3)
        dataset = folder(Path(path), train, test)
        count_I, of_training = load_counts(dataset), Sessions.of_training(dataset)
        knn = (neighbors, shrinkage, alpha, distinct)
        cases: dict[str, tuple[SessionBaseline, Score]] = {
            "pop": (SessionPop(count_I), pop(train)),
            "s-pop": (SPop(count_I), s_pop(train)),
            "item-knn": (LastItem.item_knn(of_training, *knn), item_knn(train, *knn)),
            "markov": (LastItem.markov(of_training, count_I, smoothing), markov(train, smoothing)),
        }
        in_order = list(zip(*read(dataset, "test", "history", "target"), strict=True))
        assert sorted(in_order) == sorted(test)
        for name, (baseline, score) in cases.items():
            assert places(baseline, dataset) == places_by_hand(score, in_order), name


def scores_as_the_task_next_item(path: Path) -> dict[str, float]:
    """A Markov chain as a catalog: the counts are its columns, the last item of each session the query."""
    dataset = Dataset(path)
    items = dataset.manifest.tables["item"].rows
    markov = LastItem.markov(Sessions.of_training(dataset), load_counts(dataset), 0.5)
    score_II = torch.from_numpy(np.tile(markov.base_I, (items, 1)))
    rows_X, columns_X = markov.scores_II.nonzero()
    score_II[rows_X, columns_X] = torch.from_numpy(markov.scores_II.data)
    task = NextItem(NextItem.Config(), "target")
    metrics = task.metrics(torch.device("cpu"))
    for batch in sessions.rows_of(dataset, "test", ("history", "target")):
        queries = sessions.Queries.of(batch, windows=False)
        query_VI = torch.nn.functional.one_hot(torch.from_numpy(queries.last()), items).double()
        scores = CatalogScores(TableShard(score_II.t().contiguous(), None, 0), query_VI)
        scores.per_target = True
        metrics.update(*task.evidence(scores, batch))
    return metrics.compute()


def test_judged_as_by_the_task(tmp_path: Path) -> None:
    made = wandering(0, 60, users=9, items=40)
    context = [(user, history, []) for user, history, _ in made[30:35]]
    unknown = [(3, [5, 0, 6], [6, 0])]
    write_sessions(tmp_path, {"train": made[:30], "test": [*context, *made[30:], *unknown]}, users=9, items=40)
    dataset = Dataset(tmp_path)
    chain = LastItem.markov(Sessions.of_training(dataset), load_counts(dataset), 0.5)
    scores = score_sessions(chain, dataset, "test")
    assert scores == pytest.approx(run_distributed(scores_as_the_task_next_item, 1, tmp_path)[0], abs=1e-9)
    assert scores["rows"] == sum(len(target) for _, _, target in [*made[30:], *unknown])
    assert {"recall@5", "recall@20", "mrr@5", "mrr@20", "precision@10", "map@10"} < scores.keys()
    assert scores["recall@5"] > score_sessions(SessionPop(load_counts(dataset)), dataset, "test")["recall@5"] + 0.2
    few = score_sessions(chain, dataset, "train", cutoffs=(3,))
    assert "recall@3" in few and "recall@5" not in few and few["rows"] == sum(len(target) for *_, target in made[:30])


def users(path: Path) -> str:
    """Some events of users, each of whom has items that others have not."""
    random, lines = np.random.default_rng(1), ["user_id,session_id,item_id"]
    for user in range(12):
        for session in range(4):
            items = random.integers(0, 9, random.integers(2, 6)) + user // 2
            lines += [f"{user},{4 * user + session},{item}" for item in items]
    (path / "events.csv").write_text("\n".join(lines) + "\n")
    return str(path / "events.csv")


def test_windows_with_many_targets_and_what_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranked_sessions, "BLOCK", 40)
    options = Options(layout="windows", length=3, targets=2)
    prepare(SessionFiles([users(tmp_path)], ByShare(test_share=0.4), options, Columns()), tmp_path / "data")
    dataset = Dataset(tmp_path / "data")
    history, target, seen = read(dataset, "test", "history", "target", "seen")
    assert max(map(len, target)) > 3, "more targets than a window has events"
    count_I, items = load_counts(dataset), dataset.manifest.tables["item"].rows
    by_hand: Score = lambda session, item: (session.count(item), count_I[item])  # noqa: E731
    test = list(zip(history, target, strict=True))
    expected = places_by_hand(by_hand, test, seen, windows=True, items=items)
    assert places(SPop(count_I), dataset, "seen", windows=True) == expected
    assert places(SPop(count_I), dataset, windows=True) == places_by_hand(by_hand, test, None, True, items)
    scores = score_sessions(SPop(count_I), dataset, "test", seen="seen")
    assert scores["rows"] == len(test)
    assert scores["precision@5"] == pytest.approx(
        np.mean([sum(last < 5 for _, last in ranks) / 5 for ranks in by_rows(expected, target)]), abs=0.05
    )
    with pytest.raises(UserError, match="has windows of sessions, which overlap"):
        Sessions.of_training(dataset)


def by_rows(places: list[tuple[float, float]], target: list[list[int]]) -> list[list[tuple[float, float]]]:
    ends = np.cumsum([0, *map(len, target)]).tolist()
    return [places[start:stop] for start, stop in pairwise(ends)]


def test_seen_items_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranked_sessions, "BLOCK", 40)
    options = Options(layout="users", length=6)
    prepare(SessionFiles([users(tmp_path)], LastSession(), options, Columns()), tmp_path / "data")
    dataset = Dataset(tmp_path / "data")
    history, target, seen = read(dataset, "test", "history", "target", "seen")
    count_I, items = load_counts(dataset), dataset.manifest.tables["item"].rows
    by_hand: Score = lambda session, item: (session.count(item), count_I[item])  # noqa: E731
    test = list(zip(history, target, strict=True))
    assert places(SPop(count_I), dataset, "seen") == places_by_hand(by_hand, test, seen, items=items)
    with pytest.raises(UserError, match="no column 'label' of items"):
        score_sessions(SPop(count_I), dataset, "test", seen="label")


def test_targets_that_follow_nothing(tmp_path: Path) -> None:
    dataset = folder(tmp_path, [([1, 2], [2, 3])], [([1], [2, 3])])
    with pytest.raises(UserError, match="'target' of more ids than 'history'"):
        score_sessions(SessionPop(load_counts(dataset)), dataset, "test")
