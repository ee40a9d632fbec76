"""Heads of catalogs from rating files to a stopped and resumed run, by the commands and the launcher that users run."""

from pathlib import Path

import numpy as np
import pytest

from tests.integration.conftest import LOCAL, Ended, dist_rec, metrics, run

USERS, ITEMS, STEPS = 60, 40, 12
CONFIGS = {
    "autorec": """
[task]
name = "rating"
range = [1.0, 5.0]
[head]
name = "autorec"
hidden = 8
""",
    "vae": """
[task]
name = "top_n"
[head]
name = "vae"
hidden = [8]
latent = 4
anneal_steps = 30
""",
}
REST = """
[embedding]
optimizer = "adam"
lr = 0.02
weight_decay = 0.01
[optimizer]
lr = 0.02
[train]
batch = 16
precision = "fp32"
log_every = 1
evaluate_every = 3
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of two groups of users who like different items."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("ratings")
    lines = [
        f"{user}\t{item}\t{5 - 3 * ((user + item) % 2) - random.integers(0, 2)}"
        for user in range(USERS)
        for item in random.choice(ITEMS, 15, replace=False)
    ]
    (folder / "ratings.tsv").write_text("\n".join(lines) + "\n")
    options = ("--split", "random", "--valid-share", "0.1", "--layout", "users")
    dist_rec("prepare", "ratings", folder / "ratings.tsv", "--out", folder / "data", *options)
    return folder / "data"


@pytest.mark.parametrize(
    ("head", "whole", "resumed", "tolerance"),
    [("autorec", 2, 1, 1e-4), ("vae", 1, 2, 1e-4)],
    ids=["AutoRec on fewer processes", "Mult-VAE on more, whose noise and annealing are drawn and counted"],
)
def test_stopped_and_resumed(tmp_path: Path, data: Path, head: str, whole: int, resumed: int, tolerance: float) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'{CONFIGS[head]}{REST}\n[data]\npath = "{data}"\n')

    def train(processes: int, folder: str, steps: int, *words: str) -> Ended:
        settings = (f"train.steps={steps}", "--run-dir", tmp_path / folder, "--json")
        return run(LOCAL, str(processes), config, *settings, *words)

    uninterrupted = train(whole, "whole", STEPS).json
    train(whole, "parts", 5)
    result = train(resumed, "parts", STEPS, "--resume", "--allow-changes").json
    losses = [
        {line["step"]: line["loss"] for line in metrics(tmp_path / folder, "train")} for folder in ("whole", "parts")
    ]
    assert losses[0].keys() == losses[1].keys() == set(range(1, STEPS + 1))
    np.testing.assert_allclose(list(losses[1].values()), list(losses[0].values()), rtol=tolerance)
    best = {"autorec": "rmse", "vae": "ndcg@100"}[head]
    assert result["test"][best] == pytest.approx(uninterrupted["test"][best], rel=1e-3)
    assert losses[0][STEPS] < 0.98 * losses[0][1]
