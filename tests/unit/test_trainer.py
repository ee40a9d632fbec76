"""What a trainer decides without a model: which score is the best, which labels are clicks, what a full disk stops."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dist_rec.core.errors import UserError
from dist_rec.tasks.click import Click
from dist_rec.train.reporter import Reporter
from dist_rec.train.result import write_result
from dist_rec.train.trainer import Progress, Trainer


def test_a_score_that_is_not_a_number_is_never_the_best() -> None:
    scores = iter([math.nan, 0.5, math.nan, 0.6, math.nan, math.nan])
    trainer = SimpleNamespace(
        progress=Progress(),
        scored={"valid": None},
        task=Click(Click.Config()),
        _score=lambda split: {"auc": next(scores)},
    )
    best = []
    for step in range(6):
        trainer.progress.step = step
        Trainer._evaluate(trainer, Reporter(None, 0, 0, 0))
        best.append(trainer.progress.best_step)
    assert best == [None, 1, 1, 3, 3, 3]
    assert trainer.progress.evaluations_since_best == 2


def test_labels_that_are_no_clicks_are_refused() -> None:
    check = Click(Click.Config()).for_training(SimpleNamespace(path="data/ratings"), seed=0)
    clicks = SimpleNamespace(labels=torch.tensor([0.0, 1.0]))
    assert check(clicks, 0) is clicks
    with pytest.raises(UserError, match="data/ratings: a label is 3; task 'click' wants 0 and 1"):
        check(SimpleNamespace(labels=torch.tensor([0.0, 3.0])), 0)


def test_a_result_that_cannot_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".result.json.partial").symlink_to("/dev/full")
    write_result(tmp_path, {"best_step": None})
    assert f"{tmp_path}/result.json was not written: [Errno 28]" in caplog.text
    assert not (tmp_path / "result.json").exists()
