"""Where heads and tasks meet: the shape of scores, predictions by the head's rule, and which score is better."""

import pytest
import torch
from torch import Tensor

from dist_rec.core.errors import UserError
from dist_rec.core.head import Head, Inputs, Query
from dist_rec.embedding.scores import CatalogScores, TableShard
from dist_rec.tasks.click import Click
from dist_rec.tasks.implicit import Implicit
from dist_rec.tasks.rating import Rating
from dist_rec.tasks.task import Task
from dist_rec.tasks.top_n import TopN
from dist_rec.train.recommender import Objective, Precise, of_query
from tests.small_head import MANIFEST, SmallHead


class Columns(SmallHead):
    """Forgets to squeeze."""

    def forward(self, inputs: Inputs) -> Tensor:
        return inputs.dense[:, :1]


def build(head: type[Head]) -> Precise:
    return Precise(head(head.Config(dim=6), MANIFEST), "fp32", torch.device("cpu"))


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_column_of_scores_is_refused(rows: int) -> None:
    with pytest.raises(UserError, match=rf"head Columns gives scores of shape \[{rows}, 1\] for {rows} rows"):
        build(Columns)(Inputs(dense=torch.zeros(rows, 2)), None)  # type: ignore[arg-type]


def test_predictions_follow_the_head_s_rule() -> None:
    scores = CatalogScores(TableShard(torch.eye(3), None, 0), torch.eye(3))
    query = Query(torch.eye(3), predict=lambda scores, ids: 7 * torch.ones(2))
    assert of_query(query, scores) is scores
    assert isinstance(scores, CatalogScores) and scores.predict(None).tolist() == [7, 7]  # type: ignore[arg-type]
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
