"""Commands as users run them, and one small data set that they share."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/dlrm_criteo.toml"
SMALL = ("head.dim=8", "head.bottom=[32]", "head.top=[32]", "optimizer.lr=0.01", "train.batch=256")
DIST_REC = (sys.executable, "-m", "dist_rec.cli.main")
LOCAL = str(ROOT / "launch/local.sh")


@dataclass(frozen=True)
class Ended:
    """A command that has ended; as text, all that a reader needs to see why."""

    command: Sequence[str]
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object on the last line of stdout."""
        return json.loads(self.out.splitlines()[-1])

    def __str__(self) -> str:
        return f"$ {' '.join(self.command)}\n[exit code {self.code}]\n[stdout]\n{self.out}\n[stderr]\n{self.err}"


def environment(**more: str) -> dict[str, str]:
    """One thread a process, the repository's code, and nothing of a launcher that may run the tests."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("TORCHELASTIC", "DIST_REC"))}
    path = f"{ROOT}:{ROOT / 'kernels'}:{os.environ.get('PYTHONPATH', '')}"
    return {**ours, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "PYTHONPATH": path, **more}


def run(*command: str | Path, code: int = 0, timeout: float = 120, cwd: Path | None = None, **env: str) -> Ended:
    """Runs a command to its end and demands its exit code; on a time-out its whole family is killed."""
    words = [str(word) for word in command]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**env), cwd=cwd
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # a launcher ends its processes, which killing it would orphan
            try:
                out, err = process.communicate(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
            pytest.fail(f"no end after {timeout} s\n{Ended(words, -1, out, err)}", pytrace=False)
    ended = Ended(words, process.returncode, out, err)
    if ended.code != code:
        pytest.fail(f"exit code {ended.code}, expected {code}\n{ended}", pytrace=False)
    return ended


def dist_rec(*words: str | Path, **options: Any) -> Ended:
    """`dist-rec` on one process."""
    return run(*DIST_REC, *words, **options)


def train(processes: int, data: Path, folder: Path, *words: str, **options: Any) -> Ended:
    """A small run by the launcher that users run; `words` override its settings."""
    settings = (CONFIG, f"data.path={data}", *SMALL, *words)
    return run(LOCAL, str(processes), *settings, "--run-dir", folder, "--json", **options)


def metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of that kind of a run's metrics.jsonl."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


@dataclass(frozen=True)
class Criteo:
    """Raw Criteo-shaped files and the folder prepared from them."""

    raw: Path
    data: Path

    def part(self, number: int) -> Path:
        """A raw file."""
        return self.raw / f"part_{number}.tsv.gz"


@pytest.fixture(scope="session")
def criteo(tmp_path_factory: pytest.TempPathFactory) -> Criteo:
    """20,000 rows in ten files: 0 to 7 train, 8 valid, 9 test."""
    folder = tmp_path_factory.mktemp("criteo")
    files = Criteo(folder / "raw", folder / "data")
    dist_rec("synthesize", "--rows", "20000", "--out", files.raw, "--workers", "1")
    splits = ("--train", files.raw / "part_[0-7].tsv.gz", "--valid", files.part(8), "--test", files.part(9))
    dist_rec("prepare", "criteo", *splits, "--out", files.data, "--workers", "1")
    return files


@pytest.fixture(scope="session")
def trained(criteo: Criteo, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A run on two processes, and what its command printed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, train(2, criteo.data, folder, "train.precision=fp32", "train.log_every=5")


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Runs what must fail as a user's mistake does: one line, no traceback, nothing left in the test's folder."""

    def run_refused(*command: str | Path, code: int = 2, **options: Any) -> str:
        before = sorted(tmp_path.rglob("*"))
        ended = run(*command, code=code, **options)
        lines = [line for line in ended.err.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("error: ")]
        assert len(said) == 1 and "Traceback" not in ended.err, ended
        assert lines[-1] == said[0], f"something follows the error\n{ended}"
        assert sorted(tmp_path.rglob("*")) == before, f"something is left behind\n{ended}"
        return said[0]

    return run_refused
