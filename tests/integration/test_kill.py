"""Twenty times, a random process is killed at a random moment; the run goes on by itself to the same parameters."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xxhash

from dist_rec.core.process import this_process
from dist_rec.embedding.sharded_tensors import parts
from dist_rec.train.run_folder import RunFolder
from dist_rec.train.state import state_of
from dist_rec.train.trainer import Trainer
from tests.processes import run_distributed
from tests.small_data import write_small_data

KILLS = 20
OVERRIDES = ["train.steps=3000", "checkpoint.every=20", "train.evaluate_every=1000", "train.log_every=10"]
CONFIG = """
[data]
path = "{data}"
streams = 8
window = 16
[head]
name = "tests.small_head"
dim = 16
[train]
batch = 60
"""


def hash_of(folder: Path) -> str:
    """Hash of this process's tensors in the newest checkpoint."""
    trainer = Trainer(RunFolder(folder).config, this_process("cpu"), RunFolder(folder))
    trainer.resume()
    digest = xxhash.xxh3_64()
    for name, value in sorted(state_of(trainer.model, trainer.optimizer).items()):
        digest.update(name.encode())
        for tensor, *_ in parts(value):
            digest.update(tensor.detach().contiguous().numpy().tobytes())
    return f"{trainer.progress.step} {digest.hexdigest()}"


def start(config: Path, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", str(KILLS + 5), "--monitor-interval", "0.1", "-m", "dist_rec.cli.main", "train"]
    command += [str(config), *OVERRIDES, "--run-dir", str(folder), "--resume"]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"})


def workers(agent: int) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(agent)], capture_output=True, text=True, check=False).stdout.split()
    return [int(pid) for pid in listed]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_twenty_times(tmp_path: Path) -> None:
    write_small_data(tmp_path / "data")
    config = tmp_path / "small.toml"
    config.write_text(CONFIG.format(data=tmp_path / "data"))
    assert start(config, tmp_path / "whole").wait(300) == 0
    run, chance, kills = start(config, tmp_path / "killed"), random.Random(0), 0
    steps_seen = set()
    while run.poll() is None:
        steps = [int(path.name[5:]) for path in (tmp_path / "killed" / "checkpoints").glob("step_*")]
        # A kill waits for progress since the last one, so that the twenty are spread over the run.
        fresh = steps and max(steps) not in steps_seen
        if kills < KILLS and fresh and max(steps) < 2800:
            time.sleep(chance.random() * 1.0)
            pids = workers(run.pid)
            if pids:
                os.kill(chance.choice(pids), signal.SIGKILL)
                kills += 1
                steps_seen |= set(steps)
        time.sleep(0.05)
    assert run.returncode == 0
    hashes = {name: run_distributed(hash_of, 2, tmp_path / name) for name in ("whole", "killed")}
    print(f"\n{kills} kills; uninterrupted {hashes['whole']}, killed {hashes['killed']}")
    assert kills == KILLS
    assert hashes["whole"] == hashes["killed"]
