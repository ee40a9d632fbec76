"""Stop and go on: the same losses and the same model on other numbers of processes and under other shardings."""

import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import xxhash

from dist_rec.core.process import this_process
from dist_rec.embedding.sharded_tensors import parts
from dist_rec.train import checkpoint, saver
from dist_rec.train.config import RunConfig
from dist_rec.train.run_folder import RunFolder
from dist_rec.train.state import state_of
from dist_rec.train.trainer import Trainer
from tests.processes import ProcessFailure, run_distributed
from tests.small_data import write_small_data

STEPS, BATCH = 24, 60
OPTIMIZERS = pytest.mark.parametrize("optimizer", ["rowwise_adagrad", pytest.param("adagrad", marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_data(tmp_path_factory.mktemp("data"))


def settings(data: Path, sharding: str = "table_wise", optimizer: str = "rowwise_adagrad", **train: Any) -> dict:
    return {
        "data": {"path": str(data), "streams": 8, "window": 16},
        "head": {"name": "tests.small_head", "with_sequence": sharding in ("table_wise", "row_wise", "column_wise")},
        "embedding": {"sharding": sharding, "optimizer": optimizer, "lr": 0.05},
        "schedule": {"warmup_steps": 5, "decay": "linear"},
        "train": {"precision": "fp32", "batch": BATCH, "steps": STEPS, "log_every": 1, "evaluate_every": 12, **train},
        "checkpoint": {"every": 7, "keep": 10},
    }


def train(config: dict, folder: Path, allow_changes: bool = False) -> tuple[dict, str]:
    """Trains, from the newest checkpoint if there is one; returns the result and a hash of the local tensors."""
    folder.mkdir(exist_ok=True)
    trainer = Trainer(RunConfig.parse(config), this_process("cpu"), RunFolder(folder))
    trainer.resume(allow_changes)
    result = trainer.fit()
    digest = xxhash.xxh3_64()
    for name, value in sorted(state_of(trainer.model, trainer.optimizer).items()):
        digest.update(name.encode())
        for tensor, *_ in parts(value):
            digest.update(tensor.detach().contiguous().numpy().tobytes())
    return result, digest.hexdigest()


def train_until(config: dict, folder: Path, stop: int) -> None:
    """Trains up to a checkpoint and leaves the run as a killed process would."""
    folder.mkdir(exist_ok=True)
    trainer = Trainer(RunConfig.parse(config), this_process("cpu"), RunFolder(folder))
    trainer.resume()
    trainer.lengths = replace(trainer.lengths, steps=stop)
    trainer.fit()


def losses(folder: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records if record["kind"] == "train"}


def check_same_curve(folder: Path, other: Path, tolerance: float) -> None:
    ours, theirs = losses(folder), losses(other)
    assert ours.keys() == theirs.keys() == set(range(1, STEPS + 1))
    assert max(abs(ours[step] - theirs[step]) for step in ours) < tolerance


@OPTIMIZERS
def test_bit_for_bit_on_as_many_processes(data: Path, tmp_path: Path, optimizer: str) -> None:
    config = settings(data, optimizer=optimizer)
    whole = run_distributed(train, 2, config, tmp_path / "whole")
    for stop in (7, 14, 21):
        run_distributed(train_until, 2, config, tmp_path / "parts", stop)
    parts = run_distributed(train, 2, config, tmp_path / "parts")
    assert [digest for _, digest in parts] == [digest for _, digest in whole]
    assert parts[0][0]["test"] == whole[0][0]["test"]
    check_same_curve(tmp_path / "parts", tmp_path / "whole", 1e-12)


PLANS = [
    [(2, "table_wise"), (4, "row_wise"), (1, "table_wise")],
    [(1, "row_wise"), (3, "table_wise"), (2, "row_wise")],
    [(2, "table_row_wise"), (2, "data_parallel"), (4, "grid")],
    [(2, "data_parallel"), (4, "data_parallel"), (2, "table_row_wise")],
]
PLANS_AND_OPTIMIZERS = [
    # Each plan once; what is left of all pairs takes its time.
    *zip(PLANS, ["rowwise_adagrad", "adagrad"] * 2, strict=True),
    *(
        pytest.param(plan, optimizer, marks=pytest.mark.slow)
        for plan, optimizer in zip(PLANS, ["adagrad", "rowwise_adagrad"] * 2, strict=True)
    ),
]


def _words(value: object) -> str:
    return value if isinstance(value, str) else "-".join(f"{sharding}{world}" for world, sharding in value)


@pytest.mark.parametrize(("plan", "optimizer"), PLANS_AND_OPTIMIZERS, ids=_words)
def test_other_processes_and_shardings(data: Path, tmp_path: Path, plan: list, optimizer: str) -> None:
    world, sharding = plan[0]
    whole = run_distributed(train, world, settings(data, sharding, optimizer), tmp_path / "whole")
    for (world, sharding), stop in zip(plan, (7, 14, STEPS), strict=True):
        run_distributed(train_until, world, settings(data, sharding, optimizer), tmp_path / "parts", stop)
    check_same_curve(tmp_path / "parts", tmp_path / "whole", 1e-4)
    result = json.loads((tmp_path / "parts" / "result.json").read_text())
    assert result["test"]["auc"] == pytest.approx(whole[0][0]["test"]["auc"], abs=1e-3)


@OPTIMIZERS
def test_from_and_to_column_wise(data: Path, tmp_path: Path, optimizer: str) -> None:
    """Row-wise Adagrad by column shards is another algorithm, so the curves are only close after the change."""
    whole = tmp_path / "whole"
    run_distributed(train, 2, settings(data, "table_wise", optimizer), whole)
    for (world, sharding), stop in zip(
        [(2, "column_wise"), (2, "table_wise"), (1, "column_wise")], (7, 14, STEPS), strict=True
    ):
        run_distributed(train_until, world, settings(data, sharding, optimizer), tmp_path / "parts", stop)
    check_same_curve(tmp_path / "parts", whole, 1e-4 if optimizer == "adagrad" else 0.02)


def test_changes_are_refused_by_name(data: Path, tmp_path: Path) -> None:
    config = settings(data)
    run_distributed(train_until, 1, config, tmp_path / "run", 7)
    changed = {**config, "optimizer": {"lr": 0.5}}
    with pytest.raises(ProcessFailure, match=r"UserError: .*optimizer.lr: 0.001 → 0.5"):
        run_distributed(train, 1, changed, tmp_path / "run")
    other = write_small_data(tmp_path / "other", rows=601)
    for allow_changes in (False, True):
        said = rf"UserError: {tmp_path}/run cannot go on: .* other data than .*other; .* pretrained.runs=\['.*/run'\]"
        with pytest.raises(ProcessFailure, match=said):
            run_distributed(train, 1, settings(other), tmp_path / "run", allow_changes)
    run_distributed(train, 1, changed, tmp_path / "run", True)


def test_a_run_on_new_rows_starts_from_the_optimizers_of_another(data: Path, tmp_path: Path) -> None:
    day = write_small_data(tmp_path / "day", rows=350)
    config, first = {**settings(data), "schedule": {}}, tmp_path / "first"
    config["embedding"]["optimizer"] = "adagrad"
    run_distributed(train, 2, {**config, "train": {**config["train"], "steps": 10, "evaluate_every": 10}}, first)
    (first / "config.toml").write_text(RunConfig.parse(config).to_toml())
    next_day = {**config, "data": {**config["data"], "path": str(day)}, "train": {"precision": "fp32", "batch": BATCH}}
    for optimizer in (False, True):
        (tmp_path / f"{optimizer}").mkdir()
        pretrained = {"runs": (str(first),), "optimizer": optimizer}
        (found,) = run_distributed(fresh_state, 1, {**next_day, "pretrained": pretrained}, tmp_path / f"{optimizer}")
        (saved,) = run_distributed(saved_state, 1, config, first)
        assert (found == pytest.approx(saved)) is optimizer
    (result, _), *_ = run_distributed(train, 1, {**next_day, "pretrained": pretrained}, tmp_path / "run")
    assert (result["train"]["rows"], result["train"]["steps"]) == (350, 6)
    other = {**next_day, "pretrained": pretrained, "head": {"name": "tests.small_head", "dim": 16}}
    with pytest.raises(ProcessFailure, match=r"UserError: .* columns, this model's has 16"):
        run_distributed(train, 1, other, tmp_path / "other")


def optimizer_sums(trainer: Trainer) -> list[float]:
    state = state_of(trainer.model, trainer.optimizer)
    sums = {name: value for name, value in state.items() if name.startswith("optimizer.")}
    return [sum(float(part.tensor.sum()) for part in parts(value)) for _, value in sorted(sums.items())]


def saved_state(config: dict, folder: Path) -> list[float]:
    """Sums of the optimizers' tensors in the best checkpoint of a run."""
    trainer = Trainer(RunConfig.parse(config), this_process("cpu"), RunFolder(folder))
    trainer.checkpoints.load(trainer.checkpoints.find("best"), trainer.model, trainer.optimizer)
    return optimizer_sums(trainer)


def fresh_state(config: dict, folder: Path) -> list[float]:
    """Sums of the optimizers' tensors before the first step of a run."""
    trainer = Trainer(RunConfig.parse(config), this_process("cpu"), RunFolder(folder))
    trainer.optimizer.init_state()
    found: list[float] = []
    trainer.saver.reserve = lambda *_: found.extend(optimizer_sums(trainer))
    trainer.lengths = replace(trainer.lengths, steps=0)
    trainer._final_scores = dict
    trainer.fit()
    return found


def test_the_config_of_another_version_is_a_change(data: Path, tmp_path: Path) -> None:
    config = settings(data)
    run_distributed(train_until, 1, config, tmp_path, 7)
    file = tmp_path / "checkpoints/step_00000007/state.json"
    state = json.loads(file.read_text().replace('"log_every"', '"log_interval"'))
    del state["checksum"]
    file.write_text(json.dumps({**state, "checksum": checkpoint.checksum_of(state)}))
    said = rf"UserError: .* the config in {file}: unknown key 'train\.log_interval'; .*--allow-changes"
    with pytest.raises(ProcessFailure, match=said):
        run_distributed(train, 1, config, tmp_path)
    assert run_distributed(train, 1, config, tmp_path, True)[0][0]["train"]["steps"] == STEPS - 7


@pytest.mark.parametrize(
    ("section", "key", "value", "tensor"),
    [
        ("head", "dim", 16, r"model\..*/tag\.weight has size \[7, 8\] in the checkpoint and \[7, 16\] in this run"),
        ("optimizer", "name", "adagrad", r"the checkpoint has no optimizer\..*\.sum;"),
        ("embedding", "optimizer", "adam", r"optimizer\..*/user\.weight\.momentum1 has size \[13\] in"),
    ],
)
def test_changes_of_shape_are_refused_by_name(
    data: Path, tmp_path: Path, section: str, key: str, value: Any, tensor: str
) -> None:
    config = settings(data)
    run_distributed(train_until, 1, config, tmp_path, 7)
    changed = {**config, section: {**config.get(section, {}), key: value}}
    with pytest.raises(ProcessFailure, match=rf"UserError: .* cannot go on with {section}\.{key}: .* → {value}"):
        run_distributed(train, 1, changed, tmp_path)
    with pytest.raises(ProcessFailure, match=f"UserError: {tensor}"):
        run_distributed(train, 1, changed, tmp_path, True)


def newest_damaged(config: dict, folder: Path) -> tuple[int, int, list[int]]:
    trainer = Trainer(RunConfig.parse(config), this_process("cpu"), RunFolder(folder))
    found = trainer.checkpoints.find("last")
    trainer.resume()
    return found, trainer.progress.step, trainer.checkpoints.steps()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "state", "state flip"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(data: Path, tmp_path: Path, damage: str) -> None:
    config = settings(data)
    run_distributed(train_until, 2, config, tmp_path, 14)
    newest = tmp_path / "checkpoints" / "step_00000014"
    file = newest / "state.json" if "state" in damage else next(newest.glob("__1_*"))
    content = bytearray(file.read_bytes())
    content[content.index(b'"data"') + 2 if damage == "state flip" else len(content) // 2] ^= 8
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content[:-10] if damage in ("truncate", "state") else content)
    assert run_distributed(newest_damaged, 2, config, tmp_path) == [(12, 12, [7, 12])] * 2
    assert (tmp_path / "checkpoints" / "damaged_00000014").is_dir()


def found(config: dict, folder: Path, which: str) -> int:
    return Trainer(RunConfig.parse(config), this_process("cpu"), RunFolder(folder)).checkpoints.find(which)


def test_damage_of_the_best_or_of_all_checkpoints_is_told(data: Path, tmp_path: Path) -> None:
    config = settings(data)
    run_distributed(train_until, 1, config, tmp_path, 14)
    for step in (12, 14):
        (tmp_path / f"checkpoints/step_{step:08d}/.metadata").unlink()
    state = tmp_path / "checkpoints/step_00000007/state.json"
    state.write_text(json.dumps({"best_step": 12, "files": {}}))
    with pytest.raises(ProcessFailure, match=r"UserError: the best checkpoint, .*step_00000012, is damaged"):
        run_distributed(found, 1, config, tmp_path, "best")
    assert run_distributed(found, 1, config, tmp_path, "last") == [7]
    state.unlink()
    with pytest.raises(ProcessFailure, match=r"UserError: all checkpoints in .* steps \[7, 12, 14\]"):
        run_distributed(found, 1, config, tmp_path, "best")


def not_saved(config: dict, folder: Path, rank: int, part: str) -> tuple[list[int], list[str]]:
    """Trains, and the checkpoint of step 14 fails on a rank in a part of the save."""
    folder.mkdir(exist_ok=True)
    trainer = Trainer(RunConfig.parse(config), this_process("cpu"), RunFolder(folder))
    said: list[str] = []
    saver.log.warning = lambda message, *values: said.append(message % values)
    owner = saver if part == "checksum" else trainer.saver
    works = getattr(owner, part)

    def fails(path: Path, *args: Any) -> Any:
        if "step_00000014" in str(path) and dist.get_rank() == rank:
            raise OSError(28, "No space left on device")
        return works(path, *args)

    setattr(owner, part, fails)
    trainer.fit()
    return trainer.checkpoints.steps(), said


def comes_back(config: dict, folder: Path, before: str) -> bool:
    """Whether the folder of a run that is removed before a part of a save is there again after it."""
    trainer = Trainer(RunConfig.parse(config), this_process("cpu"), RunFolder(folder))
    module = saver.dcp if before == "save" else saver
    part = getattr(module, before)

    def removed_before(*args: Any, **options: Any) -> Any:
        if trainer.process.first:
            folder.rename(folder.with_name("gone"))
        if before == "save":  # of the parts, that which all processes carry out
            dist.barrier(trainer.saver._group)
        return part(*args, **options)

    setattr(module, before, removed_before)
    trainer.saver.save(7, trainer.model, trainer.optimizer, {"best_step": None})
    trainer.saver.wait()
    return folder.exists()


@pytest.mark.parametrize("before", ["_make_anew", "save"])
def test_a_run_that_was_removed_does_not_come_back(data: Path, tmp_path: Path, before: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert run_distributed(comes_back, 2, settings(data), folder, before) == [False, False]
    assert (tmp_path / "gone").exists()


@pytest.mark.parametrize(("rank", "part"), [(0, "_commit"), (0, "checksum"), (1, "checksum")])
def test_a_failed_save_does_not_stop_training(data: Path, tmp_path: Path, rank: int, part: str) -> None:
    (steps, said), also = run_distributed(not_saved, 2, settings(data), tmp_path, rank, part)
    assert steps == [7, 12, 21, 24] and also == (steps, [])
    why = "[Errno 28] No space left on device"
    assert said == [f"the checkpoint of step 14 was not saved: {why}; training goes on, older ones are intact"]
    assert not list((tmp_path / "checkpoints").glob(".step*"))


def not_readable(config: dict, folder: Path) -> tuple[str | None, int | None]:
    checkpoints = Trainer(RunConfig.parse(config), this_process("cpu"), RunFolder(folder)).checkpoints

    def fails(path: Path) -> str:
        raise MemoryError("no memory")

    if dist.get_rank() == 1:
        checkpoint.checksum = fails
    return checkpoints.damage(14), checkpoints.newest()


def test_what_one_process_cannot_read_is_damaged_for_all(data: Path, tmp_path: Path) -> None:
    run_distributed(train_until, 2, settings(data), tmp_path, 14)
    found = run_distributed(not_readable, 2, settings(data), tmp_path)
    assert found == [("state.json is unreadable: no memory", None)] * 2


def reading_starts(folder: Path) -> tuple[int, int, int]:
    """The newest checkpoint, and how many threads and process groups reading it has started."""
    before = threading.active_count(), len(dist.distributed_c10d._world.pg_map)
    newest = RunFolder(folder).checkpoints(this_process("cpu")).find("last")
    return newest, threading.active_count() - before[0], len(dist.distributed_c10d._world.pg_map) - before[1]


def test_reading_starts_no_thread_and_no_group(data: Path, tmp_path: Path) -> None:
    run_distributed(train_until, 2, settings(data), tmp_path, 14)
    assert run_distributed(reading_starts, 2, tmp_path) == [(14, 0, 0)] * 2


def test_only_the_newest_and_the_best_are_kept(data: Path, tmp_path: Path) -> None:
    config = settings(data)
    config["checkpoint"] = {"every": 3, "keep": 2}
    (result, _), *_ = run_distributed(train, 1, config, tmp_path)
    kept = {int(path.name[5:]) for path in (tmp_path / "checkpoints").glob("step_*")}
    assert kept == {21, 24, result["best_step"]}


def test_checkpoints_rarer_than_evaluations(data: Path, tmp_path: Path) -> None:
    config = settings(data, evaluate_every=2)
    config["checkpoint"] = {"every": 10, "keep": 100}
    (whole, digest), *_ = run_distributed(train, 1, config, tmp_path / "whole")
    kept = {int(path.name[5:]) for path in (tmp_path / "whole/checkpoints").glob("step_*")}
    assert kept == {10, 20, 24, whole["best_step"]}
    run_distributed(train_until, 1, config, tmp_path / "parts", 14)
    assert run_distributed(train, 1, config, tmp_path / "parts")[0][1] == digest
    check_same_curve(tmp_path / "parts", tmp_path / "whole", 1e-12)


def without_scores(config: dict, folder: Path) -> dict:
    """Trains with a validation score that is a number in the first and third evaluation only."""
    folder.mkdir(exist_ok=True)
    trainer = Trainer(RunConfig.parse(config), this_process("cpu"), RunFolder(folder))
    evaluate, scores = trainer._score, iter([0.5, math.nan, 0.4, math.nan, 0.3, 0.2])
    trainer._score = lambda split: {**evaluate(split), "auc": next(scores)} if split == "valid" else evaluate(split)
    trainer._final_scores = dict
    return trainer.fit()["stop"]


def test_patience_waits_for_evaluations_that_have_a_score(data: Path, tmp_path: Path) -> None:
    config = settings(data, evaluate_every=2, patience=2)
    (stop,) = run_distributed(without_scores, 1, config, tmp_path)
    assert stop == json.loads((tmp_path / "result.json").read_text())["stop"]
    assert stop == {"reason": "patience", "step": 10, "steps": STEPS}


def not_finite(data: Path, folder: Path, action: str) -> Any:
    folder.mkdir(exist_ok=True)
    config = settings(data, on_nonfinite=action, steps=10)
    trainer = Trainer(RunConfig.parse(config), this_process("cpu"), RunFolder(folder))
    head = trainer.model.module.precise.head
    forward = head.forward

    def poisoned(inputs: Any) -> torch.Tensor:
        scores = forward(inputs)
        bad = trainer.progress.step == 4 and head.training and dist.get_rank() == 1
        return scores * float("nan") if bad else scores

    head.forward = poisoned
    return trainer.fit()["train"]["skipped_steps"], float(torch.stack([p.sum() for p in head.parameters()]).sum())


def test_a_loss_that_is_not_a_number(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ProcessFailure, match=r"UserError: the loss is nan in step 4 \(epoch 0, rows 240"):
        run_distributed(not_finite, 2, data, tmp_path / "error", "error")
    (skipped, first), (also, second) = run_distributed(not_finite, 2, data, tmp_path / "skip", "skip")
    assert skipped == also == [4]
    assert first == second


def test_a_split_that_cannot_be_scored_stops_the_run_before_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ProcessFailure, match="UserError: 2 processes, but a global batch of 1 rows of 'valid'"):
        run_distributed(train, 2, settings(data, eval_batch=1), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_finished_run_that_goes_on_keeps_its_result(data: Path, tmp_path: Path) -> None:
    config = settings(data, steps=7)
    run_distributed(train, 1, config, tmp_path)
    files = [tmp_path / "result.json", tmp_path / "metrics.jsonl"]
    before = [file.read_text() for file in files]
    run_distributed(train, 1, config, tmp_path)
    assert [file.read_text() for file in files] == before


def test_rows_left_out_are_counted_when_they_are_missed(tmp_path: Path) -> None:
    """Once each epoch, whatever was read ahead of a stop, and not among the rows that were trained on."""
    file = write_small_data(tmp_path / "data") / "train/0.arrows"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    config = settings(tmp_path / "data")
    config["data"]["on_corrupt"] = "skip"
    ((whole, _),) = run_distributed(train, 1, config, tmp_path / "whole")
    run_distributed(train_until, 2, config, tmp_path / "parts", 7)
    (parts, _), _ = run_distributed(train, 2, config, tmp_path / "parts")
    lost = whole["train"]["skipped_rows"]
    assert 2 * 32 <= lost <= 3 * 32 and parts["train"]["skipped_rows"] == lost
    assert whole["train"]["rows"] == STEPS * BATCH - lost
