"""`dist-rec reproduce`: a list of runs as a table; what is done is not done again."""

from pathlib import Path

import pytest

from dist_rec.cli.reproduce import _spread
from tests.integration.conftest import CONFIG, DIST_REC, SMALL, Criteo, Ended, dist_rec, run

LIST = """
metrics = ["auc", "logloss"]
seeds = 3

[data]
small = ["criteo", "--train", "{{raw}}/{train}", "--test", "{{raw}}/{test}"]

[[run]]
name = "DLRM, small"
config = "{config}"
data = "small"
settings = {settings}
seeds = 2
paper = "AUC .79"
"""


@pytest.fixture
def study(tmp_path: Path, criteo: Criteo) -> Path:
    path = tmp_path / "small.toml"
    first, second = criteo.part(0), criteo.part(1)
    path.write_text(LIST.format(train=first.name, test=second.name, config=CONFIG, settings=list(SMALL)))
    return path


def reproduce(study: Path, criteo: Criteo, *words: str) -> Ended:
    return dist_rec("reproduce", study, "--raw", criteo.raw, "--out", study.parent / "out", "--json", *words)


def test_a_table_that_goes_on_where_it_stopped(study: Path, criteo: Criteo) -> None:
    out = study.parent / "out"
    reproduce(study, criteo, "--seeds", "1")
    results = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}
    assert len(results) == 1
    both = reproduce(study, criteo)
    assert len(list(out.glob("runs/*/result.json"))) == 2
    assert all(path.stat().st_mtime_ns == when for path, when in results.items())
    (row,) = both.json["runs"]
    assert row["name"] == "DLRM, small" and 0.5 < row["test"]["auc"] < 1 and row["parameters"] > 1000
    table = (out / "small.md").read_text()
    assert "| DLRM, small | dlrm_criteo |" in table and "| AUC .79 |" in table and table in both.out
    # Other settings are not taken for the same.
    study.write_text(study.read_text().replace("optimizer.lr=0.01", "optimizer.lr=0.02"))
    command = (*DIST_REC, "reproduce", study, "--raw", criteo.raw, "--out", out)
    assert "optimizer.lr: 0.01 → 0.02" in run(*command, code=2).err
    assert "no run of" in run(*command, "--only", "FM", code=2).err


def test_a_mean_has_its_interval_from_three_seeds_on() -> None:
    assert _spread([]) == ""
    assert _spread([0.5]) == "0.5000"
    assert _spread([0.1, 0.3]) == "0.2000 (0.1000–0.3000)"
    # Student's t of two degrees of freedom is 4.303; the standard deviation is .1.
    assert _spread([0.1, 0.2, 0.3]) == "0.2000 ± 0.2484 (0.1000–0.3000)"


BASELINES = """
metrics = ["hr@10", "ndcg@10"]
[data]
loo = ["ratings", "{{raw}}/ratings", "--split", "leave-one-out", "--draw", "9", "--implicit"]
[[run]]
name = "POP"
baseline = "pop"
data = "loo"
seeds = 1
{more}
"""


def test_baselines_are_lines_too(tmp_path: Path) -> None:
    path, words = tmp_path / "cf.toml", ("--raw", tmp_path, "--out", tmp_path / "out")
    pairs = [(user, (user + 3 * place) % 20) for user in range(20) for place in range(4)]
    (tmp_path / "ratings").write_text("".join(f"{user}\t{item}\t1\t1\n" for user, item in pairs))
    path.write_text(BASELINES.format(more='settings = ["--cutoff", "10"]'))
    ended = dist_rec("reproduce", path, *words, "--json")
    (row,) = ended.json["runs"]
    assert row["test"]["hr@10"] == 1 and row["parameters"] == 0
    assert "| POP | pop |  | 1.0000 | " in ended.out
    path.write_text(BASELINES.format(more='config = "mf.toml"'))
    said = run(*DIST_REC, "reproduce", path, *words, code=2).err
    assert "run 'POP' needs a config or a baseline, and not both" in said
