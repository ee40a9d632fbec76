"""The folder of a run: where it may be, and what is left of it when a run ends early."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dist_rec.cli.main import app
from dist_rec.cli.train import _choose_folder, _run_folder
from dist_rec.core.errors import UserError
from dist_rec.train.config import RunConfig

SETTINGS = RunConfig.parse({"data": {"path": "nowhere"}, "head": {"name": "lr"}})


@pytest.mark.parametrize("saved", [False, True])
def test_only_a_run_that_has_saved_leaves_a_folder(tmp_path: Path, saved: bool) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), _run_folder(folder, SETTINGS, resume=False):
        (folder / "checkpoints/.step_00000002.partial").mkdir(parents=True)
        if saved:
            (folder / "checkpoints/step_00000001").mkdir()
        raise KeyboardInterrupt
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == (["run", "run/checkpoints", "run/checkpoints/step_00000001", "run/config.toml"] if saved else [])


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="file/run, cannot be written: Not a directory"),
        _run_folder(tmp_path / "file/run", SETTINGS, resume=False),
    ):
        pass


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with _run_folder(folder, SETTINGS, resume=False):
        (folder / "config.toml").write_text("the first")
        with (
            pytest.raises(UserError, match="be written: File exists"),
            _run_folder(folder, SETTINGS, False),
        ):
            pass
    assert (folder / "config.toml").read_text() == "the first"
    with _run_folder(folder, SETTINGS, resume=True):
        pass


def test_only_a_run_goes_on(tmp_path: Path) -> None:
    assert _choose_folder("lr", tmp_path, resume=True) == tmp_path
    (tmp_path / "notes.txt").touch()
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match=f"{folder} is not a run"):
            _choose_folder("lr", folder, resume=True)
    (tmp_path / "config.toml").touch()
    assert _choose_folder("lr", tmp_path, resume=True) == tmp_path


@pytest.mark.parametrize(("command", "default"), [("train", "runs/CONFIG-DATE-TIME"), ("evaluate", "the run's")])
def test_defaults_are_shown_in_the_help(command: str, default: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert f"[default: {default}]" in shown
