"""Sessions from a log to a trained HRNN, by the commands: on two processes, then evaluated on one."""

from pathlib import Path

import pytest

from tests.integration.conftest import LOCAL, ROOT, dist_rec, run

SMALL = ("head.hidden=16", "head.user_hidden=16", "embedding.lr=0.01", "optimizer.lr=0.01", "train.batch=16")


def test_users_are_remembered_from_a_log_to_scores(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    dist_rec("synthesize-sessions", "--out", tmp_path / "raw", "--users", "150", "--genres", "3", "--brands", "4")
    log = tmp_path / "raw/sessions.csv.gz"
    dist_rec("prepare", "sessions", log, "--split", "last-session", "--validation", "--out", data)
    settings = (f"data.path={data}", *SMALL, "train.eval_batch=64")
    first = (*settings, "train.epochs=1")
    run(LOCAL, "2", ROOT / "configs/hrnn_users.toml", *first, "--run-dir", folder)
    words = (*settings, "train.epochs=4", "--run-dir", folder, "--resume", "--allow-changes", "--json")
    ended = run(LOCAL, "2", ROOT / "configs/hrnn_users.toml", *words)
    # By chance: a quarter of the brands, two products each.
    assert ended.json["test"]["recall@5"] > 0.5
    evaluated = dist_rec("evaluate", folder, "--split", "test", "--json")
    assert evaluated.json["recall@5"] == pytest.approx(ended.json["test"]["recall@5"], abs=1e-6)
