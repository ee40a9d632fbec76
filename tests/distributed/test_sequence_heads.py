"""Heads of sessions on several processes: one model, one loss, and hidden states that follow their lanes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.test_resume import losses, train, train_until
from tests.processes import run_distributed
from tests.small_sessions import WINDOW_COLUMNS, wandering, windows, write_sessions

USERS, ITEMS, STEPS = 12, 40, 20
# Tables are float32, and Adagrad's first step makes much of the last digit of a gradient near 0.
CLOSE = 1e-5
HEADS: dict[str, dict[str, Any]] = {
    "gru4rec": {"hidden": 12, "layers": 2, "input": "discounted", "embedding_dropout": 0.1},
    "hrnn": {"hidden": 12, "user_hidden": 6, "variant": "all", "user_dropout": 0.1},
    "sasrec": {"dim": 12, "heads": 2, "dropout": 0.1, "longest": 8, "embedding": "separate"},
    "hstu": {"dim": 12, "heads": 2, "key": 4, "value": 5, "dropout": 0.1, "longest": 8, "temperature": 0.2},
    "session_mf": {"dim": 12},
    "caser": {"length": 4, "dim": 10, "horizontal": 3, "vertical": 2, "dropout": 0.1},
}
TASKS: dict[str, dict[str, Any]] = {
    "gru4rec": {"logq": True},
    "session_mf": {"loss": "bpr"},
    "caser": {"loss": "logistic", "in_batch": False, "alpha": 0, "seen": "seen"},
}
MOMENTUM = {"gru4rec": 0.3}
OPTIMIZERS = {"gru4rec": {"name": "adagrad", "lr": 0.05, "momentum": 0.3}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sessions, and one of windows."""
    folder = tmp_path_factory.mktemp("sessions")
    splits = {"train": wandering(0, 60, USERS, ITEMS), "valid": wandering(1, 40, USERS, ITEMS)}
    write_sessions(folder / "sessions", splits, USERS, ITEMS)
    of_windows = windows(0, 3 * USERS, ITEMS, length=4, targets=2)
    write_sessions(folder / "windows", of_windows, 3 * USERS, ITEMS, columns=WINDOW_COLUMNS)
    return folder


def settings(data: Path, head: str) -> dict[str, Any]:
    return {
        "task": {"name": "next_item", "samples": 8, "cutoffs": [5], "best": "recall@5", **TASKS.get(head, {})},
        "data": {"path": str(data / ("windows" if head == "caser" else "sessions"))},
        "head": {"name": head, **HEADS[head]},
        "embedding": {"optimizer": "adagrad", "lr": 0.05, "momentum": MOMENTUM.get(head, 0.0)},
        "optimizer": OPTIMIZERS.get(head, {}),
        "train": {
            "precision": "fp64",
            "batch": 10,
            "eval_batch": 7,
            "steps": STEPS,
            "log_every": 1,
            "evaluate_every": 7,
        },
        "checkpoint": {"every": 7, "keep": 10},
    }


def each(function: Callable[..., Any], data: Path, folder: Path, *arguments: Any) -> dict[str, Any]:
    """A function of the config and run folder of each head; one process group for all, whose start takes the time."""
    folder.mkdir(exist_ok=True)
    return {head: function(settings(data, head), folder / head, *arguments) for head in HEADS}


def test_one_loss_on_any_number_of_processes(data: Path, tmp_path: Path) -> None:
    expected, *others = (run_distributed(each, world, train, data, tmp_path / str(world))[0] for world in (1, 2, 4))
    for head in HEADS:
        alone = losses(tmp_path / "1" / head)
        assert min(alone.values()) < alone[1] - 0.1, head
        for world, results in zip((2, 4), others, strict=True):
            assert losses(tmp_path / str(world) / head) == pytest.approx(alone, rel=CLOSE), (head, world)
            assert results[head][0]["valid"] == pytest.approx(expected[head][0]["valid"], abs=1e-6), (head, world)


def test_goes_on_in_mid_epoch_bit_for_bit_and_on_other_numbers_of_processes(data: Path, tmp_path: Path) -> None:
    whole = run_distributed(each, 2, train, data, tmp_path / "whole")
    run_distributed(each, 2, train_until, data, tmp_path / "again", 7)
    again = run_distributed(each, 2, train, data, tmp_path / "again")
    run_distributed(each, 1, train_until, data, tmp_path / "moved", 7)
    run_distributed(each, 3, train_until, data, tmp_path / "moved", 14)
    run_distributed(each, 2, train, data, tmp_path / "moved")
    for head in HEADS:
        assert [rank[head][1] for rank in again] == [rank[head][1] for rank in whole], head
        expected = pytest.approx(losses(tmp_path / "whole" / head), rel=CLOSE)
        assert losses(tmp_path / "moved" / head) == expected, head
