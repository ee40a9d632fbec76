"""Raw files to a trained and evaluated model, through the commands and the launcher that users run."""

import json
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import CONFIG, DIST_REC, SMALL, Criteo, Ended, dist_rec, metrics, run, train
from tests.small_data import write_small_data

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def test_train_prints_its_result_and_leaves_a_whole_run_folder(trained: tuple[Path, Ended]) -> None:
    folder, ended = trained
    result = ended.json
    assert result["run"] == str(folder)
    assert result["valid"]["rows"] == result["test"]["rows"] == 2_000
    assert {"auc", "logloss", "ne"} <= result["valid"].keys() & result["test"].keys()
    assert result["test"]["auc"] > 0.55, "the data has a signal"
    assert result["train"]["rows"] == 16_000 and result["train"]["steps"] == 63
    assert result["train"]["rows_per_s"] > 0
    assert json.loads((folder / "result.json").read_text()) == {k: v for k, v in result.items() if k != "run"}
    assert [line["step"] for line in metrics(folder, "train")] == list(range(5, 61, 5))
    assert [line["step"] for line in metrics(folder, "valid")] == [63]
    assert (folder / "config.toml").is_file()
    assert list((folder / "tensorboard").glob("events.*"))
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_00000063"]


def test_the_config_of_a_run_is_that_of_its_command(trained: tuple[Path, Ended], criteo: Criteo) -> None:
    settings = (f"data.path={criteo.data}", *SMALL, "train.precision=fp32", "train.log_every=5")
    printed = dist_rec("train", CONFIG, *settings, "--print-config").out
    assert (trained[0] / "config.toml").read_text().strip() == printed.strip()


@pytest.mark.parametrize(("launcher", "tolerance"), [(DIST_REC, 1e-9), ((*TORCHRUN, "2", *DIST_REC[1:]), 1e-6)])
def test_evaluate_finds_what_training_found(
    trained: tuple[Path, Ended], launcher: tuple[str, ...], tolerance: float
) -> None:
    folder, ended = trained
    found = run(*launcher, "evaluate", folder, "--json").json
    assert found.pop("run") == str(folder) and found.pop("split") == "test"
    assert found == pytest.approx(ended.json["test"], rel=0, abs=tolerance)


@pytest.mark.parametrize("processes", [1, 4])
def test_the_number_of_processes_changes_nothing(
    criteo: Criteo, trained: tuple[Path, Ended], tmp_path: Path, processes: int
) -> None:
    folder, ended = trained
    other = train(processes, criteo.data, tmp_path / "run", "train.precision=fp32", "train.log_every=5")
    curve, expected = ([line["loss"] for line in metrics(f, "train")] for f in (tmp_path / "run", folder))
    assert curve == pytest.approx(expected, rel=0, abs=1e-4)
    for split in ("valid", "test"):
        assert other.json[split]["auc"] == pytest.approx(ended.json[split]["auc"], rel=0, abs=0.0015)


def test_a_stopped_run_goes_on_where_it_was(criteo: Criteo, trained: tuple[Path, Ended], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ("train.precision=fp32", "train.log_every=5")
    train(2, criteo.data, folder, *settings, "train.steps=30")
    resumed = train(2, criteo.data, folder, *settings, "--resume", "--allow-changes")
    assert resumed.json["train"]["steps"] == 63 - 30
    assert resumed.json["test"] == trained[1].json["test"]
    after = {line["step"]: line["loss"] for line in metrics(folder, "train")}
    assert after == {line["step"]: line["loss"] for line in metrics(trained[0], "train")}


def test_new_files_are_prepared_by_an_earlier_fit(criteo: Criteo, trained: tuple[Path, Ended], tmp_path: Path) -> None:
    day = tmp_path / "day"
    dist_rec("prepare", "criteo", "--fitted-from", criteo.data, "--test", criteo.part(9), "--out", day)
    found = dist_rec("evaluate", trained[0], "--data", day, "--json").json
    assert {name: found[name] for name in trained[1].json["test"]} == pytest.approx(trained[1].json["test"], abs=1e-9)


def test_dlrm_reads_bags_weighted_bags_and_sequences(tmp_path: Path) -> None:
    data = write_small_data(tmp_path, rows=6_000)
    ended = train(2, data, tmp_path / "run", "train.epochs=5", "embedding.lr=0.1", "embedding.init=0.1")
    assert ended.json["train"]["rows"] == 5 * 6_000
    assert ended.json["test"]["auc"] > 0.75, "the labels can be learned"
    found = dist_rec("evaluate", tmp_path / "run", "--json").json
    assert {name: found[name] for name in ended.json["test"]} == pytest.approx(ended.json["test"], abs=1e-9)


@pytest.mark.parametrize("words", [(), ("prepare",), ("prepare", "criteo"), ("train",), ("evaluate",), ("heads",),
                                   ("doctor",), ("synthesize",), ("baseline",), ("baseline", "pop"),
                                   ("baseline", "item-knn"), ("baseline", "s-pop"),
                                   ("baseline", "markov")])  # fmt: skip
def test_every_command_explains_itself(words: tuple[str, ...]) -> None:
    assert f"Usage: dist-rec {' '.join(words)}".strip() in dist_rec(*words, "--help").out


def test_heads_are_listed_with_their_keys() -> None:
    assert "dlrm" in dist_rec("heads").out
    assert "head.bottom" in dist_rec("heads", "dlrm").out


def test_the_doctor_finds_this_installation_well() -> None:
    found = dist_rec("doctor", "--json").json
    assert found["good"] and len(found["findings"]) >= 6 and all(finding["good"] for finding in found["findings"])


def test_the_doctor_does_not_need_a_torch_that_loads(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open')")
    ended = dist_rec("doctor", code=1, PYTHONPATH=str(tmp_path))
    assert ended.out.splitlines()[-2] == "BAD  FBGEMM does not load: OSError: libcudart.so.13: cannot open"
    assert "Traceback" not in ended.err


def test_the_doctor_says_why_processes_do_not_meet() -> None:
    ill = dist_rec("doctor", code=1, GLOO_SOCKET_IFNAME="none0").out.splitlines()[-2:]
    assert ill[0].startswith("BAD  two processes") and "Unable to find address for: none0" in ill[0]
    assert "set GLOO_SOCKET_IFNAME" in ill[1]
