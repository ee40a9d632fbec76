"""NeuMF from a GMF and an MLP that were trained before: on one process, from runs of two and one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dist_rec.core.config import read_toml
from dist_rec.core.process import this_process
from dist_rec.data.loader import Loader
from dist_rec.data.shards import Dataset
from dist_rec.train.config import RunConfig
from dist_rec.train.model import build_model
from dist_rec.train.pretrained import start_from
from dist_rec.train.spec import resolve
from tests.integration.conftest import DIST_REC, LOCAL, dist_rec, run
from tests.processes import run_distributed

USERS, ITEMS = 30, 40
CONFIG = """
[task]
name = "implicit"
candidates = 9
[head]
name = "neumf"
parts = "{parts}"
factors = 4
hidden = [8, 4]
tradeoff = 0.3
[embedding]
optimizer = "adam"
init = 0.5
[data]
path = "{data}"
[train]
batch = 64
precision = "fp32"
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    pairs = [(user, item) for user in range(USERS) for item in random.choice(ITEMS, 9, replace=False)]
    lines = [f"{user}\t{item}\t5\t{when}" for when, (user, item) in enumerate(pairs)]
    raw = tmp_path / "ratings.tsv"
    raw.write_text("\n".join(lines) + "\n")
    out = tmp_path / "data"
    options = ("--split", "leave-one-out", "--draw", "9", "--layout", "interactions", "--implicit")
    dist_rec("prepare", "ratings", raw, "--out", out, *options)
    return out


def config_of(folder: Path, parts: str, data: Path) -> Path:
    path = folder / f"{parts}.toml"
    path.write_text(CONFIG.format(parts=parts, data=data))
    return path


def scores(parts: str, folder: Path, data: Path, pretrained: tuple[str, ...]) -> torch.Tensor:
    """Of all training pairs, by the best checkpoint of a run, or by a new model that starts from others."""
    process = this_process("cpu")
    config = RunConfig.parse(read_toml(config_of(folder, parts, data)))
    dataset = Dataset(str(data))
    model = build_model(resolve(config, dataset.manifest), process)
    start_from(model, pretrained or (str(folder / f"run_{parts}"),), process)
    loader = Loader(dataset, "train", config.data, batch=64, features=("user", "item"), shuffle=False)
    with torch.no_grad():
        head, embeddings = model.module.precise.head, model.module.embeddings
        return torch.cat([head(embeddings(batch)) for batch in loader.batches(0, loader.steps_per_epoch)])


def test_neumf_starts_as_the_mean_of_its_parts(tmp_path: Path, data: Path) -> None:
    runs = []
    for processes, parts in ((2, "gmf"), (1, "mlp")):
        runs.append(str(tmp_path / f"run_{parts}"))
        run(LOCAL, str(processes), config_of(tmp_path, parts, data), "--run-dir", runs[-1])
    ((gmf, mlp, both),) = run_distributed(all_scores, 1, tmp_path, data, tuple(runs))
    torch.testing.assert_close(both, 0.3 * gmf + 0.7 * mlp)
    assert gmf.std() > 0.01 and mlp.std() > 0.01
    folder = tmp_path / "run_both"
    config = config_of(tmp_path, "both", data)
    ended = run(LOCAL, "2", config, f"pretrained.runs={runs}", "--run-dir", folder, "--json")
    assert ended.json["valid"]["hr@10"] > 0
    other = (config, f"pretrained.runs={runs}", "head.hidden=[6, 4]", "--run-dir", tmp_path / "other")
    assert "mlp/user has 8 columns, this model's has 6" in run(*DIST_REC, "train", *other, code=2).err


def all_scores(folder: Path, data: Path, runs: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
    return scores("gmf", folder, data, ()), scores("mlp", folder, data, ()), scores("both", folder, data, runs)


ANCHORED = """
[task]
name = "implicit"
candidates = 9
[embedding]
init = 0.5
sharding = "{sharding}"
[data]
path = "{data}"
[train]
batch = 64
precision = "fp32"
[head]
dim = 6
"""


def anchors(config: Path, mf: str) -> list[list[list[float]]]:
    process, run_config = this_process("cpu"), RunConfig.parse(read_toml(config))
    model = build_model(resolve(run_config, Dataset(run_config.data.path).manifest), process)
    start_from(model, (mf,), process)
    return model.module.precise.head.anchors_FAG.tolist()


def test_rows_of_tables_come_from_all_processes(tmp_path: Path, data: Path) -> None:
    def written(sharding: str, name: str, more: str) -> Path:
        path = tmp_path / f"{name}_{sharding}.toml"
        path.write_text(ANCHORED.format(data=data, sharding=sharding) + f'name = "{name}"\n{more}\n')
        return path

    mf = str(tmp_path / "mf")
    run(LOCAL, "2", written("table_wise", "mf", "biases = false"), "--run-dir", mf)
    llorma = [written(sharding, "llorma", "anchors = 5") for sharding in ("row_wise", "column_wise", "data_parallel")]
    (alone,) = run_distributed(anchors, 1, llorma[0], mf)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=2), 1, rtol=1e-5)
    for config in llorma:
        for found in run_distributed(anchors, 2, config, mf):
            assert found == alone
    # Both are padded to 8 columns.
    wider = ("train", llorma[0], f"pretrained.runs=['{mf}']", "head.dim=7", "--run-dir", tmp_path / "wider")
    assert "factors/user has 6 columns, this model's has 7" in run(*DIST_REC, *wider, code=2).err


def looked_up(config: Path, fm: str) -> torch.Tensor:
    """Weights and factors of the training rows, by a model that starts from a run."""
    process, run_config = this_process("cpu"), RunConfig.parse(read_toml(config))
    dataset = Dataset(run_config.data.path)
    model = build_model(resolve(run_config, dataset.manifest), process)
    start_from(model, (fm,), process)
    features = ("user", "item", "candidates")
    loader = Loader(dataset, "train", run_config.data, batch=64, features=features, shuffle=False)
    with torch.no_grad():
        return model.module.embeddings(next(iter(loader.batches(0, 1)))).pooled["fields"]


def test_fnn_starts_from_the_fields_of_an_fm(tmp_path: Path, data: Path) -> None:
    configs = []
    for name in ("fm", "fnn"):
        configs.append(tmp_path / f"{name}.toml")
        text = ANCHORED.replace('"implicit"\ncandidates = 9', '"rating"') + f'name = "{name}"\n'
        configs[-1].write_text(text.format(data=data, sharding="table_wise"))
    fm = str(tmp_path / "fm")
    run(LOCAL, "1", configs[0], "--run-dir", fm)
    trained, adopted = (run_distributed(looked_up, 1, config, fm)[0] for config in configs)
    assert torch.equal(adopted, trained) and trained.std() > 0.1
