"""What users get wrong: one line that names it, an exit code, and nothing left behind."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_rec.core.schema import Manifest, Split, Table
from tests.integration.conftest import (
    CONFIG,
    DIST_REC,
    LOCAL,
    SMALL,
    Criteo,
    Ended,
    dist_rec,
    environment,
    metrics,
    run,
    train,
)
from tests.small_data import write_small_data
from tests.small_head import MANIFEST

Refused = Callable[..., str]
GOOD = "\t".join(["1", *["3"] * 13, *["68fd1e64"] * 26])
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
LAUNCH = (sys.executable, "-m", "dist_rec.cli.launch")


def changed(field: int, text: str) -> str:
    fields = GOOD.split("\t")
    fields[field] = text
    return "\t".join(fields)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("\t".join(GOOD.split("\t")[:-1]), ["39"]),
        (changed(0, "2"), ["label", "2"]),
        (changed(5, "x7"), ["x7"]),
        (changed(20, "not-hex"), ["not-hex"]),
    ],
    ids=["few fields", "label", "integer", "hex"],
)
def test_a_bad_line(tmp_path: Path, refused: Refused, line: str, named: list[str]) -> None:
    file = tmp_path / "day.tsv"
    file.write_text("\n".join([GOOD] * 4 + [line] + [GOOD] * 4) + "\n")
    said = refused(*DIST_REC, "prepare", "criteo", "--train", file, "--out", tmp_path / "data")
    assert f"{file}" in said and "5" in said and all(name in said for name in named)


def test_a_truncated_gzip(tmp_path: Path, refused: Refused, criteo: Criteo) -> None:
    file = tmp_path / "day.tsv.gz"
    file.write_bytes(criteo.part(0).read_bytes()[:-1000])
    assert f"{file}" in refused(*DIST_REC, "prepare", "criteo", "--train", file, "--out", tmp_path / "data")


@pytest.mark.parametrize("name", ["none.tsv", "none_*.tsv"])
def test_a_missing_file(tmp_path: Path, refused: Refused, name: str) -> None:
    assert name in refused(*DIST_REC, "prepare", "criteo", "--train", tmp_path / name, "--out", tmp_path / "data")


def test_an_empty_split(tmp_path: Path, refused: Refused, criteo: Criteo) -> None:
    file = tmp_path / "empty.tsv.gz"
    file.write_bytes(gzip.compress(b""))
    splits = ("--train", criteo.part(0), "--valid", file)
    assert "empty.tsv.gz" in refused(*DIST_REC, "prepare", "criteo", *splits, "--out", tmp_path / "data")


def test_a_folder_that_exists(tmp_path: Path, refused: Refused, criteo: Criteo) -> None:
    out = tmp_path / "data"
    out.mkdir()
    assert f"{out} exists" in refused(*DIST_REC, "prepare", "criteo", "--train", criteo.part(0), "--out", out)
    assert f"{out} exists" in refused(*DIST_REC, "synthesize", "--rows", "10", "--out", out)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["head.foo=1"], ["'head.foo'", "bottom"]),
        pytest.param(["train.bach=1"], ["'train.bach'", "batch"], marks=pytest.mark.slow),
        (["train.batch=many"], ["train.batch", "'many'"]),
        pytest.param(["head.name=dlrn"], ["'dlrn'", "dlrm"], marks=pytest.mark.slow),
        (["data.path=nowhere"], ["nowhere", "manifest.json"]),
        (["--foo"], ["--foo", "dist-rec train --help"]),
    ],
)
def test_a_config_that_cannot_be(
    tmp_path: Path, refused: Refused, criteo: Criteo, words: list[str], named: list[str]
) -> None:
    said = refused(*DIST_REC, "train", CONFIG, f"data.path={criteo.data}", *words, "--run-dir", tmp_path / "run")
    assert all(name in said for name in named), said


def test_an_error_of_all_processes_is_told_once(tmp_path: Path, refused: Refused, criteo: Criteo) -> None:
    settings = (CONFIG, f"data.path={criteo.data}", "--run-dir", tmp_path / "run")
    assert "2 processes" in refused(LOCAL, "2", *settings, "train.batch=1")


def test_data_that_do_not_fit_the_head(tmp_path: Path, refused: Refused) -> None:
    columns = tuple(column for column in MANIFEST.columns if column.kind in ("label", "dense"))
    Manifest(columns=columns, tables={}, splits={"train": Split(rows=0, shards=())}).save(tmp_path)
    said = refused(*DIST_REC, "train", CONFIG, f"data.path={tmp_path}", "--run-dir", tmp_path / "run")
    assert "head needs id features" in said


def test_a_split_without_rows(tmp_path: Path, refused: Refused) -> None:
    MANIFEST.model_copy(update={"splits": {"train": Split(rows=0, shards=())}}).save(tmp_path)
    said = refused(*DIST_REC, "train", CONFIG, f"data.path={tmp_path}", "--run-dir", tmp_path / "run")
    assert "'train'" in said and "no rows" in said


def test_an_id_outside_of_its_table(tmp_path: Path, refused: Refused) -> None:
    """Only the process that reads the row knows; the others fail for want of it and stay silent."""
    data = write_small_data(tmp_path)
    manifest = Manifest.from_json((data / "manifest.json").read_text(), "")
    tables = {**manifest.tables, "user": Table(rows=manifest.tables["user"].rows - 1)}
    manifest.model_copy(update={"tables": tables}).save(data)
    said = refused(LOCAL, "2", CONFIG, f"data.path={data}", *SMALL, "train.batch=64", "--run-dir", tmp_path / "run")
    assert f"{data}/train/0.arrows, row " in said and "'user'" in said and f"{tables['user'].rows} rows" in said


def test_a_shard_that_is_missing_is_told_before_the_training(tmp_path: Path, refused: Refused) -> None:
    data = write_small_data(tmp_path)
    (shard,) = (data / "valid").iterdir()
    shard.unlink()
    said = refused(*DIST_REC, "train", CONFIG, f"data.path={data}", *SMALL, "--run-dir", tmp_path / "run")
    assert f"{shard}: the file is missing" in said


def test_splits_that_the_settings_want(tmp_path: Path, refused: Refused) -> None:
    data = write_small_data(tmp_path)
    manifest = Manifest.from_json((data / "manifest.json").read_text(), "")
    manifest.model_copy(update={"splits": {"train": manifest.splits["train"]}}).save(data)
    settings = (CONFIG, f"data.path={data}", *SMALL, "--run-dir", tmp_path / "run", "train.patience=2")
    assert f"train.patience needs a validation split, but {data} has none" in refused(*DIST_REC, "train", *settings)


def test_patience_without_a_score_to_wait_for(tmp_path: Path, refused: Refused) -> None:
    data = write_small_data(tmp_path)
    manifest = Manifest.from_json((data / "manifest.json").read_text(), "")
    valid = manifest.splits["valid"].model_copy(update={"positives": 0})
    manifest.model_copy(update={"splits": {**manifest.splits, "valid": valid}}).save(data)
    settings = (CONFIG, f"data.path={data}", *SMALL, "--run-dir", tmp_path / "run", "train.patience=2")
    assert f"validation split of {data} has none: all 150 labels are 0" in refused(*DIST_REC, "train", *settings)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_diverges_keeps_its_curve(tmp_path: Path, processes: int) -> None:
    data, folder = write_small_data(tmp_path / "data"), tmp_path / "run"
    diverging = ("train.log_every=1", "embedding.optimizer=sgd", "embedding.lr=1e36", "optimizer.name=sgd")
    said = train(processes, data, folder, *diverging, "optimizer.lr=9", "train.batch=60", code=2).err.splitlines()[-1]
    assert said.startswith("error: the loss is "), said
    step = int(said.split(" in step ")[1].split()[0])
    assert step > 0 and [line["step"] for line in metrics(folder, "train")] == list(range(1, step + 1))
    assert list((folder / "tensorboard").glob("events.*")) and not list(folder.glob("checkpoints/*"))


def test_what_the_system_refuses(tmp_path: Path, refused: Refused, criteo: Criteo) -> None:
    out = tmp_path / ("long" * 99)
    said = refused(*DIST_REC, "prepare", "criteo", "--train", criteo.part(0), "--out", out)
    assert said.endswith(f"{out}: File name too long")


def test_data_fitted_anew_is_refused_by_a_run(
    tmp_path: Path, refused: Refused, criteo: Criteo, trained: tuple[Path, Ended]
) -> None:
    dist_rec("prepare", "criteo", "--train", criteo.part(0), "--test", criteo.part(9), "--out", tmp_path / "anew")
    said = refused(*DIST_REC, "evaluate", trained[0], "--data", tmp_path / "anew")
    assert f"{tmp_path / 'anew'}" in said and "--fitted-from" in said
    assert "nowhere" in refused(*DIST_REC, "evaluate", "nowhere")


def test_data_prepared_again_are_refused_by_evaluate(tmp_path: Path, refused: Refused) -> None:
    data, run_folder = write_small_data(tmp_path / "data"), tmp_path / "run"
    train(1, data, run_folder, "train.steps=1")
    manifest = Manifest.from_json((data / "manifest.json").read_text(), "")
    manifest.model_copy(update={"tables": {**manifest.tables, "user": Table(rows=14)}}).save(data)
    assert f"{data} is not the data that {run_folder} was trained on" in refused(*DIST_REC, "evaluate", run_folder)


def test_a_port_in_use(tmp_path: Path, refused: Refused, criteo: Criteo) -> None:
    settings = (CONFIG, f"data.path={criteo.data}", *SMALL, "--run-dir", tmp_path / "run")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        alone = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        assert f"127.0.0.1:{port}" in refused(*DIST_REC, "train", *settings, **alone)
        options = ("--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", port)
        assert port in refused(*LAUNCH, *options, "-m", "dist_rec.cli.main", "train", *settings)


@pytest.mark.slow
def test_plain_torchrun_shows_the_line_among_its_own(tmp_path: Path, criteo: Criteo) -> None:
    words = ("train", CONFIG, f"data.path={criteo.data}", "--run-dir", tmp_path)
    failed = run(*TORCHRUN, "--standalone", "--nproc-per-node", "2", *DIST_REC[1:], *words, code=1)
    assert f"error: {tmp_path} exists already" in failed.err, failed


def family(pid: int) -> set[int]:
    """A process and all that descend from it."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found |= family(int(child))
    return found


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return met


def interrupt(command: list[str | Path], when: Callable[[], bool], number: signal.Signals) -> Ended:
    """Starts a command, signals it as a terminal does once `when` holds, and waits until all its processes are gone."""
    words = [str(word) for word in command]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    try:
        assert wait_until(lambda: when() or process.poll() is not None, 60), "nothing happened"
        members = family(process.pid)
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert wait_until(lambda: not any(map(runs, members)), 5), f"of {members}, {list(filter(runs, members))} live on"
    return Ended(words, process.returncode, out, err)


def forever(criteo: Criteo, folder: Path) -> list[str | Path]:
    return [CONFIG, f"data.path={criteo.data}", *SMALL, "train.epochs=1000", "train.log_every=1", "--run-dir", folder]


def test_ctrl_c_while_preparing(tmp_path: Path, criteo: Criteo) -> None:
    out = tmp_path / "data"
    command = [*DIST_REC, "prepare", "criteo", "--train", criteo.raw / "*.gz", "--out", out, "--workers", "2"]
    ended = interrupt(command, lambda: (tmp_path / ".data.partial").exists(), signal.SIGINT)
    assert (ended.code, ended.err.splitlines()[-1]) == (130, "interrupted"), ended
    assert "Traceback" not in ended.err and not list(tmp_path.iterdir()), ended


@pytest.mark.parametrize("launcher", [[*DIST_REC, "train"], [LOCAL, "2"]], ids=["alone", "launcher"])
def test_ctrl_c_while_training(tmp_path: Path, criteo: Criteo, launcher: list[str]) -> None:
    folder = tmp_path / "run"
    log = folder / "metrics.jsonl"
    command = [*launcher, *forever(criteo, folder)]
    ended = interrupt(command, lambda: log.exists() and "valid" in log.read_text(), signal.SIGINT)
    assert (ended.code, ended.err.splitlines()[-1]) == (130, "interrupted"), ended
    assert "Traceback" not in ended.err, ended
    if list(folder.glob("checkpoints/step_*")):
        dist_rec("evaluate", folder, "--checkpoint", "last")


def test_a_run_that_is_told_to_end_saves_and_goes_on(tmp_path: Path, criteo: Criteo) -> None:
    folder = tmp_path / "run"
    log = folder / "metrics.jsonl"
    command = [LOCAL, "2", *forever(criteo, folder)]
    ended = interrupt(command, lambda: log.exists() and '"train"' in log.read_text(), signal.SIGTERM)
    assert ended.code == 75 and "Traceback" not in ended.err, ended
    last = ended.err.splitlines()[-1]
    assert last.startswith("stopped after step ") and "--resume" in last, ended
    step = int(last.split()[3])
    assert f"stopped after step {step} of 63000 by SIGTERM" in last, ended
    stop = json.loads((folder / "result.json").read_text())["stop"]
    assert stop == {"reason": "SIGTERM", "step": step, "steps": 63000}
    assert (folder / f"checkpoints/step_{step:08d}").is_dir()
    words = ("train.epochs=1000", "train.log_every=1", f"train.steps={step + 1}", "--resume", "--allow-changes")
    assert train(2, criteo.data, folder, *words).json["train"]["steps"] == 1
