"""What a run tells survives a full disk, a kill and a progress line that is switched off."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
from tqdm import tqdm

from dist_rec.train import reporter
from dist_rec.train.run_folder import RunFolder


def test_a_full_disk_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with reporter.Reporter(RunFolder(tmp_path), 100, 0, 0) as report:
        report.log("train", 1, loss=0.5)
        report.log("train", 2, loss=0.5)
    assert caplog.text.count("No space left on device); training goes on") == 1


def test_what_a_killed_run_told_of_later_steps_is_taken_back(tmp_path: Path) -> None:
    with reporter.Reporter(RunFolder(tmp_path), 100, 0, 0) as report:
        for step in (1, 2, 3):
            report.log("train", step, loss=math.nan)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    with reporter.Reporter(RunFolder(tmp_path), 100, 20, 2) as report:
        report.log("train", 3, loss=0.5)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    told = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [(record["step"], record["loss"]) for record in told] == [(1, None), (2, None), (3, 0.5)]


def test_the_progress_line_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "tqdm", partial(tqdm, disable=True))
    with reporter.Reporter(RunFolder(tmp_path), 100, 0, 0) as report:
        report.advance(10)
        report.log("train", 1, loss=0.5)
