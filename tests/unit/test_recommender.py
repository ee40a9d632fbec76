"""Where heads and tasks meet: the shape of scores, predictions by the head's rule, and which score is better."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_rec.core.errors import UserError
from dist_rec.core.head import Catalog, CatalogHead, Head, Ids, Inputs, Lanes, Query
from dist_rec.core.process import Process
from dist_rec.core.schema import Manifest
from dist_rec.embedding.scores import CatalogScores, TableShard
from dist_rec.tasks.click import Click
from dist_rec.tasks.implicit import Implicit
from dist_rec.tasks.rating import Rating
from dist_rec.tasks.task import Task
from dist_rec.tasks.top_n import TopN
from dist_rec.train.lane_state import LaneState
from dist_rec.train.recommender import Objective, Precise, of_query
from tests.small_head import MANIFEST, SmallHead

PAIR = Ids(torch.arange(2), torch.tensor([1, 1, 0]))


class Columns(SmallHead):
    """Forgets to squeeze."""

    def forward(self, inputs: Inputs) -> Tensor:
        return inputs.dense[:, :1]


class Asked(CatalogHead):
    """Gives the query that it is told to."""

    Config = SmallHead.Config
    lookups, catalog = SmallHead.lookups, None  # type: ignore[assignment]
    query: Any = None

    def __init__(self, config: Any, manifest: Manifest) -> None:
        super().__init__(config, manifest)

    def forward(self, inputs: Inputs) -> Query:
        return self.query


def build(head: type[Head], *more: Any) -> Precise:
    return Precise(head(head.Config(dim=6), MANIFEST), "fp32", torch.device("cpu"), *more)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_column_of_scores_is_refused(rows: int, training: bool) -> None:
    with pytest.raises(UserError, match=rf"head Columns gives scores of shape \[{rows}, 1\] for {rows} rows"):
        build(Columns).train(training)(Inputs(dense=torch.zeros(rows, 2)), None)


LANES = Lanes(torch.arange(2), torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool))
STATE = torch.zeros(2, 5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("query", "message"),
    [
        (torch.zeros(2, 4), "head Asked gives Tensor; it must give a Query"),
        (Query(torch.zeros(2, 1, 4), state=STATE), r"queries of shape \[2, 1, 4\] for 2 rows; .* shape \[2, 4\]"),
        (Query(torch.zeros(2, 6), state=STATE), r"queries of shape \[2, 6\] for 2 rows; .* shape \[2, 4\]"),
        (Query(torch.zeros(2, 4), per_target=True), r"queries of shape \[2, 4\] for 3 targets; .* shape \[3, 4\]"),
        (Query(torch.zeros(2, 4), torch.zeros(2, 1), state=STATE), r"penalties of shape \[2, 1\] for 2 rows"),
        (Query(torch.zeros(2, 4)), r"states of type NoneType for 2 rows; they must have shape \[2, 5\]"),
        (Query(torch.zeros(2, 4), state=torch.zeros(5)), r"states of shape \[5\] for 2 rows; .* shape \[2, 5\]"),
        (Query(torch.zeros(2, 4), state=STATE), ""),
        (Query(torch.zeros(3, 4), torch.zeros(2), per_target=True, state=STATE), ""),
    ],
)
def test_the_query_of_a_head_has_one_row_for_each_of_the_batch(query: Any, message: str, training: bool) -> None:
    state = LaneState(2, 2, 5, Process(0, 1, 0, 1, torch.device("cpu")), torch.float32)
    precise = build(Asked, Catalog("output", "next", dim=4), state).train(training)
    precise.head.query = query
    targets = Ids(torch.zeros(3, dtype=torch.int64), torch.tensor([1, 2]))
    batch: Any = SimpleNamespace(lanes=LANES, column=lambda name: targets)
    with pytest.raises(UserError, match=message) if message else nullcontext():
        assert precise(Inputs(dense=torch.zeros(2, 0)), batch) is query


def test_losses_and_predictions_of_another_shape_are_refused() -> None:
    scores = CatalogScores(TableShard(torch.eye(2), None, 0), torch.eye(2))
    column = Query(torch.eye(2), predict=lambda scores, ids: torch.zeros(2, 1), loss=lambda *_: torch.zeros(2, 1))
    task: Any = SimpleNamespace(targets=lambda batch: None)
    batch: Any = SimpleNamespace(weights=torch.ones(2), scale=torch.tensor(0.5))
    with pytest.raises(UserError, match=r"losses have shape \[2, 1\]; they must have shape \[2\]"):
        Objective(task)(column, scores, batch)
    with pytest.raises(UserError, match=r"predictions have shape \[2, 1\]; they must have shape \[2\]"):
        scores.predict(Ids(torch.arange(2), torch.ones(2, dtype=torch.int32)))


def test_predictions_follow_the_head_s_rule() -> None:
    scores = CatalogScores(TableShard(torch.eye(3), None, 0), torch.eye(3))
    query = Query(torch.eye(3), predict=lambda scores, ids: 7 * torch.ones(2))
    assert of_query(query, scores) is scores
    assert isinstance(scores, CatalogScores) and scores.predict(PAIR).tolist() == [7, 7]
    rows_B = torch.randn(4)
    assert of_query(rows_B, rows_B) is rows_B


def test_the_loss_is_the_task_s_and_the_head_s_penalty_or_the_head_s_own() -> None:
    class Constant(Task):
        judges = ("catalog",)
        loss = staticmethod(lambda scores, batch: torch.ones(2))
        targets = staticmethod(lambda batch: None)
        evidence = metrics = None

    class Weighted:
        weights, scale = torch.tensor([1.0, 3.0]), torch.tensor(0.5)

    objective, scores = Objective(Constant(None)), CatalogScores(TableShard(torch.eye(2), None, 0), torch.eye(2))
    penalty, own = torch.tensor([10.0, 0.0]), lambda scores, targets: torch.tensor([0.0, 5.0])
    for query, expected in (
        (Query(torch.eye(2)), 0.5 * (1 + 3)),
        (Query(torch.eye(2), penalty), 0.5 * (11 + 3)),
        (Query(torch.eye(2), penalty, loss=own), 0.5 * (10 + 15)),
    ):
        loss, output = objective(query, scores, Weighted())
        assert float(loss) == float(output.loss) == expected


@pytest.mark.parametrize(
    ("task", "better", "worse"),
    [
        (Click(Click.Config()), 0.8, 0.7),
        (Click(Click.Config(best="logloss")), 0.4, 0.5),
        (Click(Click.Config(best="ne")), 0.4, 0.5),
        (Rating(Rating.Config()), 0.8, 0.9),
        (Rating(Rating.Config(best="mae")), 0.8, 0.9),
        (Implicit(Implicit.Config()), 0.5, 0.4),
        (TopN(TopN.Config(best="recall@20"), "target"), 0.5, 0.4),
    ],
)
def test_which_score_is_better(task: Task, better: float, worse: float) -> None:
    assert task.is_better(better, worse)
    assert not task.is_better(worse, better) and not task.is_better(better, better)
