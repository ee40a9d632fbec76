"""Tasks over processes: results in order, errors as they are, and no process left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dist_rec.core.errors import UserError
from dist_rec.data.workers import Report, Task, Workers


@dataclass(frozen=True)
class Square:
    number: int

    def run(self, report: Report) -> int:
        time.sleep(0.01 * (self.number % 3))
        report(1, 10)
        return self.number**2


@dataclass(frozen=True)
class Fail:
    message: str

    def run(self, report: Report) -> int:
        raise UserError(self.message)


@dataclass(frozen=True)
class Die:
    def run(self, report: Report) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


@dataclass(frozen=True)
class Wait:
    """Tells its process by a file, then waits."""

    folder: Path

    def run(self, report: Report) -> int:
        (self.folder / str(os.getpid())).touch()
        time.sleep(60)
        return 0


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_the_tasks(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    with Workers(count, __name__) as workers:
        assert workers.run([Square(number) for number in range(20)], "square", 20) == [n**2 for n in range(20)]
        assert workers.run([Square(3)], "again", 1, "numbers") == [9]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("square: 200 rows, ")
    assert second.startswith("again: 10 numbers, ")


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_ends_the_others(tmp_path: Path, count: int) -> None:
    began = time.monotonic()
    tasks: list[Task[int]] = [Fail("wrong"), Wait(tmp_path), Square(1)]
    with pytest.raises(UserError, match="wrong"), Workers(count, __name__) as workers:
        workers.run(tasks, "fail", 3)
    assert time.monotonic() - began < 30
    assert not running(tmp_path)


def test_a_killed_worker_is_one_clear_line(tmp_path: Path) -> None:
    tasks: list[Task[int]] = [Die(), Wait(tmp_path)]
    with pytest.raises(UserError, match="a worker process was killed"), Workers(2, __name__) as workers:
        workers.run(tasks, "die", 2)
    assert not running(tmp_path)


# The child script stands for the command line: it is interrupted or killed from outside.
SCRIPT = """
import sys
from pathlib import Path
from dist_rec.data.shards import new_folder
from dist_rec.data.workers import Workers
from tests.unit.test_workers import Wait
if __name__ == "__main__":
    pids, out = map(Path, sys.argv[1:])
    with new_folder(out), Workers(2, __name__) as workers:
        workers.run([Wait(pids)] * 4, "wait", 4)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    script, pids = tmp_path / "script.py", tmp_path / "pids"
    script.write_text(SCRIPT)
    pids.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, str(script), str(pids), str(tmp_path / "out")],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        wait_until(lambda: len(list(pids.iterdir())) == 2)
        if number == signal.SIGINT:  # as Ctrl-C does: to the whole group
            os.killpg(process.pid, number)
        else:
            process.kill()
        assert process.stderr is not None
        errors = process.stderr.read()
    wait_until(lambda: not running(pids))
    if number == signal.SIGINT:
        assert errors.count("Traceback") == 1, errors
        assert {path.name for path in tmp_path.iterdir()} == {"script.py", "pids"}


def running(pids: Path) -> list[str]:
    return [path.name for path in pids.iterdir() if path.name.isdigit() and Path(f"/proc/{path.name}").exists()]


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
