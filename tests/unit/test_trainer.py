"""What is decided without a model: which score is the best, what falls on a step, which labels are clicks."""

import math
import operator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.core.errors import UserError
from dist_rec.core.schema import Split
from dist_rec.tasks.click import Click
from dist_rec.train.config import RunConfig
from dist_rec.train.progress import Lengths, Progress, Stop, judge

PERIODS = st.integers(1, 9)
LENGTHS = st.builds(Lengths, PERIODS, PERIODS, PERIODS, PERIODS, st.none() | PERIODS)


def judged(scores: list[float], better: Any, least_gain: float = 0.0) -> list[Progress]:
    progress, found = Progress(skipped_rows=7), []
    for step, score in enumerate(scores):
        progress = judge(replace(progress, step=step), score, better, least_gain)
        found.append(progress)
    return found


def test_a_score_that_is_not_a_number_is_no_evaluation() -> None:
    found = judged([math.nan, 0.5, math.nan, 0.6, math.nan, 0.6], operator.gt)
    assert [progress.best_step for progress in found] == [None, 1, 1, 3, 3, 3]
    assert [progress.evaluations_since_best for progress in found] == [0, 0, 0, 0, 0, 1]
    assert found[-1] == Progress(5, 3, 0.6, 1, 7)


def test_the_first_of_equal_scores_is_the_best() -> None:
    assert [progress.best_step for progress in judged([2.0, 3.0, 1.0, 1.0, 1.5], operator.lt)] == [0, 0, 2, 2, 2]


def test_small_gains_add_up_to_a_new_best() -> None:
    found = judged([1.0, 1.25, 1.5, 1.75, 2.0], operator.gt, least_gain=0.5)
    assert [progress.best_step for progress in found] == [0, 0, 2, 2, 4]


def test_patience_is_over_after_so_many_evaluations_without_a_better_score() -> None:
    lengths = Lengths(100, 10, 10, 10, 2)
    stops = [lengths.stop(progress) for progress in judged([0.5, 0.4, 0.6, 0.6, 0.5], operator.gt)]
    assert stops == [None, None, None, None, Stop("patience", 4, 100)]
    assert replace(lengths, patience=None).stop(Progress(99, evaluations_since_best=1000)) is None
    assert replace(lengths, patience=None).stop(Progress(100)) == Stop("steps", 100, 100)
    assert lengths.stop(Progress(7), "SIGTERM") == Stop("SIGTERM", 7, 100)


def test_checkpoints_are_due_by_their_own_period_and_for_the_best() -> None:
    lengths = Lengths(100, 10, 10, 25, None)
    due = [step for step in (10, 20, 25, 30, 50) if lengths.saves(Progress(step, best_step=20))]
    assert due == [20, 25, 50]


def test_progress_that_another_version_wrote() -> None:
    assert Progress.of({"step": 3, "best_step": 2}, Path("state.json")) == Progress(3, 2)
    with pytest.raises(UserError, match=r"run/state\.json: unknown key 'progress\.epoch'"):
        Progress.of({"step": 3, "epoch": 2}, Path("run/state.json"))


@given(LENGTHS)
def test_segments_end_where_an_evaluation_or_a_checkpoint_falls(lengths: Lengths) -> None:
    step, ends = 0, []
    while step < lengths.steps:
        step = lengths.segment_end(step)
        ends.append(step)
    every = (lengths.evaluate_every, lengths.save_every)
    assert ends == [s for s in range(1, lengths.steps + 1) if s == lengths.steps or any(s % n == 0 for n in every)]
    steps = range(1, lengths.steps + 1)
    assert [s for s in steps if lengths.evaluates(s)] == [s for s in ends if s % every[0] == 0 or s == lengths.steps]


def test_lengths_that_are_not_set() -> None:
    config = RunConfig.parse({"data": {"path": "x"}, "head": {"name": "lr"}, "train": {"epochs": 3, "batch": 5}})
    assert Lengths.of(config, 4) == Lengths(12, 4, 4, 4, None)
    settings = {"train": {"steps": 9, "evaluate_every": 2, "patience": 1}, "checkpoint": {"every": 3}}
    config = RunConfig.parse({"data": {"path": "x"}, "head": {"name": "lr"}, **settings})
    assert Lengths.of(config, 4) == Lengths(9, 4, 2, 3, 1)


@pytest.mark.parametrize(
    ("best", "positives", "reason"),
    [
        ("auc", 0, "all 9 labels are 0"),
        ("ne", 9, "all 9 labels are 1"),
        ("auc", 4, None),
        ("auc", None, None),
        ("logloss", 0, None),
    ],
)
def test_a_split_of_one_class_has_no_auc(best: str, positives: int | None, reason: str | None) -> None:
    assert Click(Click.Config(best=best)).has_no_score(Split(rows=9, positives=positives, shards=())) == reason


def test_labels_that_are_no_clicks_are_refused() -> None:
    check = Click(Click.Config()).for_training(SimpleNamespace(path="data/ratings"), seed=0)
    clicks = SimpleNamespace(labels=torch.tensor([0.0, 1.0]))
    assert check(clicks, 0) is clicks
    with pytest.raises(UserError, match="data/ratings: a label is 3; task 'click' needs labels 0 and 1"):
        check(SimpleNamespace(labels=torch.tensor([0.0, 3.0])), 0)
