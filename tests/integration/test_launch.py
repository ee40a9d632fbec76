"""Of all that many processes say when one fails, the user sees what explains it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from dist_rec.cli.launch import verdict
from dist_rec.core.log import NOTES, Note, complain, read_notes
from tests.integration.conftest import LOCAL, environment, run

SCRIPT = """
import os, signal, time
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""


def died(rank: int, code: int) -> dict[int, ProcessFailure]:
    return {rank: ProcessFailure(rank, pid=1, exitcode=code, error_file="")}


def test_a_mistake_explains_a_crash_that_came_first() -> None:
    notes = [Note(0, 1, "Traceback", 1.0), Note(1, 2, "error: bad row", 2.0)]
    assert verdict(notes, died(0, 1) | died(1, 2)) == ("error: bad row", 2)


def test_a_killed_process_explains_the_crashes_of_others() -> None:
    notes = [Note(0, 1, "Traceback: connection closed", 1.0)]
    said = ("error: process 1 was killed by SIGKILL; was memory short?", 137)
    assert verdict(notes, died(0, 1) | died(1, -signal.SIGKILL)) == said


def test_a_process_that_the_launcher_ended_explains_nothing() -> None:
    notes = [Note(1, 1, "Traceback", 1.0)]
    assert verdict(notes, died(0, -signal.SIGTERM) | died(1, 1)) == ("Traceback", 1)
    assert verdict([], died(0, 3)) == ("error: process 0 ended with exit code 3", 3)


def test_a_rank_that_is_no_number_is_complained_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(NOTES, raising=False)
    monkeypatch.setenv("RANK", "x")
    assert complain("error: RANK must be an integer", 2) == 2
    assert capsys.readouterr().err == "error: RANK must be an integer\n"


@pytest.mark.parametrize("processes", ["0", "many"])
def test_a_number_of_processes_that_cannot_be(processes: str) -> None:
    ended = run(LOCAL, processes, "config.toml", code=2)
    assert ended.err.startswith(f"error: {processes} processes: ") and len(ended.err.splitlines()) == 1


def test_only_the_newest_start_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NOTES, str(tmp_path))
    for attempt, rank, message in [("0", "0", "old"), ("10", "1", "second"), ("10", "0", "third"), ("9", "0", "older")]:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        monkeypatch.setenv("RANK", rank)
        assert complain(message, 1) == 1
    assert [note.message for note in read_notes(tmp_path)] == ["second", "third"]
    assert len(list(tmp_path.iterdir())) == 4


def test_the_launcher_tells_of_a_killed_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "dist_rec.cli.launch", "--standalone", "--nproc-per-node", "2", str(script)]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    said = "error: process 1 was killed by SIGKILL; was memory short?\n"
    assert (ended.returncode, ended.stderr) == (137, said)
