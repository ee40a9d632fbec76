"""The folder of a run: where it may be, who writes there, and what is left of it when a run ends early."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dist_rec.cli.main import app
from dist_rec.core.errors import UserError
from dist_rec.train import lock
from dist_rec.train.config import RunConfig
from dist_rec.train.lock import Lock, Owner
from dist_rec.train.run_folder import RunFolder, reserve

SETTINGS = RunConfig.parse({"data": {"path": "nowhere"}, "head": {"name": "lr"}})
ELSEWHERE = Owner("elsewhere", 7, "")


@pytest.mark.parametrize("reserved", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_only_a_run_that_has_done_a_step_leaves_a_folder(tmp_path: Path, trained: bool, reserved: bool) -> None:
    folder = RunFolder(reserve(tmp_path / "run") if reserved else tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), folder.owned(resume=False, reserved=reserved):
        folder.make(SETTINGS)
        folder.metrics.touch()
        (folder.path / "checkpoints/.step_00000002.partial").mkdir(parents=True)
        if trained:
            folder.keep()
        raise KeyboardInterrupt
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    kept = ["run", "run/.lock", "run/checkpoints", "run/config.toml", "run/metrics.jsonl"]
    assert left == (kept if trained else [])
    if trained:
        assert folder.config == SETTINGS and (folder.path / "config.toml").read_text() == SETTINGS.to_toml()


def test_runs_of_the_same_name_get_folders_of_their_own(tmp_path: Path) -> None:
    made = [reserve(tmp_path / "runs/a-20260101") for _ in range(3)]
    assert [path.name for path in made] == ["a-20260101", "a-20260101_2", "a-20260101_3"]
    assert all(path.is_dir() for path in made)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/a, cannot be written: Not a directory"):
        reserve(tmp_path / "file/a")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[train]\nlog_interval = 5", "unknown key 'train.log_interval'"),
        ("[head]\nwidth = 5", "unknown key 'head.width'"),
    ],
)
def test_a_key_that_this_version_does_not_know_is_told_with_its_file(tmp_path: Path, line: str, message: str) -> None:
    config = SETTINGS.to_toml().replace(line.split("\n")[0], line)
    (tmp_path / "config.toml").write_text(config)
    with pytest.raises(UserError, match=rf"{tmp_path}/config\.toml: {message}; known: .* rename or remove the key"):
        _ = RunFolder(tmp_path).config


def test_a_run_that_cannot_be_built_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "run").owned(resume=False):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = RunFolder(tmp_path / "file/run")
    with pytest.raises(UserError, match="file/run, cannot be written: Not a directory"), folder.owned(resume=False):
        folder.make(SETTINGS)


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_do_not_make_the_same_folder(tmp_path: Path, resume: bool) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with first.owned(resume):
        with pytest.raises(UserError, match="be written: File exists"), second.owned(resume):
            first.make(SETTINGS)
            second.make(SETTINGS)
        assert first.config == SETTINGS


def test_two_runs_do_not_go_on_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    monkeypatch.setattr(lock.socket, "gethostname", lambda: "here")
    with first.owned(resume=False):
        first.make(SETTINGS)
        (first.path / "checkpoints/.step_00000002.partial").mkdir(parents=True)
        said = f"{tmp_path}/run is in use by process {os.getpid()} on here; wait for its end"
        with pytest.raises(UserError, match=said), second.owned(resume=True):
            pass
        assert (first.path / "checkpoints/.step_00000002.partial").exists()
    with second.owned(resume=True):
        second.make(SETTINGS)


def killed(folder: Path) -> int:
    """Number of a process that took the lock and was killed."""
    script = f"import os, pathlib, dist_rec.train.lock as l; l.Lock(pathlib.Path({str(folder)!r}, '.lock')).take()"
    process = subprocess.Popen([sys.executable, "-c", f"{script}; os.kill(os.getpid(), 9)"])
    assert process.wait() == -9
    return process.pid


@pytest.mark.parametrize("flock", [True, False])
def test_the_lock_of_a_killed_process_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, flock: bool
) -> None:
    pid = killed(tmp_path)
    if not flock:
        monkeypatch.setattr(lock, "_flock", lambda file: None)
    with RunFolder(tmp_path).owned(resume=True):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert f"{tmp_path}: taken over from process {pid} on {lock.socket.gethostname()}, which has ended" in caplog.text
    assert (tmp_path / ".lock").read_text() == ""


def held_by(owner: Owner, folder: Path) -> Lock:
    (folder / ".lock").write_text(json.dumps(owner._asdict()))
    return Lock(folder / ".lock")


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_flock", lambda file: None)
    here = lock.socket.gethostname()
    alive = held_by(Owner(here, os.getppid(), ""), tmp_path)
    with pytest.raises(UserError, match=rf"process {os.getppid()} on {here}; if that has ended, remove .*/\.lock"):
        alive.take()
    held_by(Owner(here, os.getpid(), ""), tmp_path).take()  # of a container before, where numbers are the same


def test_the_lock_of_another_host_is_that_of_the_same_job_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for run_id in ("", "none", "other"):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
        for owner in (ELSEWHERE, ELSEWHERE._replace(job="first")):
            with pytest.raises(UserError, match=r"process 7 on elsewhere; if that has ended, remove .*/\.lock"):
                held_by(owner, tmp_path).take()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    held_by(ELSEWHERE._replace(job="first"), tmp_path).take()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "12.1@host:1")  # the same SLURM job, queued again
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    held_by(ELSEWHERE._replace(job="12"), tmp_path).take()


def test_only_a_run_goes_on(tmp_path: Path) -> None:
    def goes_on(folder: Path) -> bool:
        with RunFolder(folder).owned(resume=True):
            return True

    assert goes_on(tmp_path)
    assert goes_on(tmp_path)  # stopped before it had a config
    (tmp_path / "notes.txt").touch()
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match=f"{folder} is not a run"):
            goes_on(folder)
    (tmp_path / "config.toml").touch()
    assert goes_on(tmp_path)


def test_a_result_that_cannot_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".result.json.partial").symlink_to("/dev/full")
    RunFolder(tmp_path).write_result({"best_step": None})
    assert f"{tmp_path}/result.json was not written: [Errno 28]" in caplog.text
    assert not (tmp_path / "result.json").exists() and RunFolder(tmp_path).result == {}


@pytest.mark.parametrize(
    ("result", "ended"),
    [
        ({}, False),
        ({"test": {}}, True),
        ({"stop": {"reason": "SIGTERM"}}, False),
        ({"stop": {"reason": "steps"}}, True),
    ],
)
def test_a_run_that_was_interrupted_has_not_ended(tmp_path: Path, result: dict[str, Any], ended: bool) -> None:
    RunFolder(tmp_path).write_result(result)
    assert RunFolder(tmp_path).ended is ended


@pytest.mark.parametrize(("command", "default"), [("train", "runs/CONFIG-DATE-TIME"), ("evaluate", "the run's")])
def test_defaults_are_shown_in_the_help(command: str, default: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert f"[default: {default}]" in shown
