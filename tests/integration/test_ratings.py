"""From a file of ratings to recommenders and baselines, by the commands that users run."""

from pathlib import Path

import numpy as np
import pytest

from tests.integration.conftest import LOCAL, ROOT, dist_rec, run

USERS, ITEMS = 300, 80
CONFIGS = ROOT / "configs"


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tastes: a user of one likes the items of that one more; some items are good, and chosen more often."""
    random = np.random.default_rng(0)
    lines = []
    for user in range(USERS):
        chance = np.where(np.arange(ITEMS) % 2 == user % 2, 8.0, 1.0) / (10 + np.arange(ITEMS))
        items = random.choice(ITEMS, size=30, replace=False, p=chance / chance.sum())
        liked = np.where(items % 2 == user % 2, 1.2, -1.2) + np.where(items < ITEMS / 2, 0.5, -0.5)
        stars = np.clip(np.round(3 + liked + 0.3 * random.normal(size=len(items))), 1, 5).astype(int)
        lines += [f"{user}::{item}::{star}::{time}" for time, (item, star) in enumerate(zip(items, stars, strict=True))]
    path = tmp_path_factory.mktemp("ratings") / "ratings.dat"
    path.write_text("\n".join(lines) + "\n")
    return path


def prepared(ratings: Path, name: str, *options: str) -> Path:
    out = ratings.parent / name
    if not out.exists():
        dist_rec("prepare", "ratings", ratings, "--out", out, *options)
    return out


def fit(processes: int, config: str, data: Path, folder: Path, *settings: str) -> dict[str, float]:
    """Test metrics of a run; what the configs say of MovieLens is scaled down to this data."""
    words = (CONFIGS / config, f"data.path={data}", *settings, "--run-dir", folder, "--json")
    return run(LOCAL, str(processes), *words).json["test"]


def test_ratings_are_predicted(ratings: Path, tmp_path: Path) -> None:
    triples = prepared(ratings, "triples", "--split", "random")
    pairs = prepared(ratings, "levels", "--split", "random", "--layout", "items", "--levels")
    small = ("head.dim=4", "embedding.lr=5.0", "embedding.weight_decay=1e-4", "train.batch=128", "train.epochs=15")
    biased = fit(2, "biased_mf_ml1m.toml", triples, tmp_path / "biased", *small)
    plain = fit(1, "mf_ml1m.toml", triples, tmp_path / "plain", *small, "embedding.init=0.5")
    machine = fit(
        2, "rbm_item_ml1m.toml", pairs, tmp_path / "rbm", "head.hidden=8", "embedding.lr=0.05", "train.batch=16",
        "train.epochs=25", "embedding.weight_decay=0.0",
    )  # fmt: skip
    assert biased["rows"] == plain["rows"] == machine["rows"] == 900
    # Noise and rounding are 0.4, the ratings deviate by 1.3.
    assert max(biased["rmse"], plain["rmse"]) < 0.55
    assert machine["rmse"] < 0.85, "that has only a handful of hidden units and steps"


def test_items_are_ranked(ratings: Path, tmp_path: Path) -> None:
    data = prepared(ratings, "loo", "--split", "leave-one-out", "--draw", "30", "--implicit")
    settings = ("head.dim=8", "train.batch=256", "train.epochs=10", "embedding.optimizer=adam", "embedding.lr=0.01")
    learned = fit(2, "bpr_mf_ml1m.toml", data, tmp_path / "bpr", *settings)
    popular = dist_rec("baseline", "pop", data, "--json").json
    alike = dist_rec("baseline", "item-knn", data, "--neighbors", "20", "--json").json
    assert popular.pop("baseline") == "pop" and alike.pop("baseline") == "item_knn"
    assert learned.keys() == popular.keys() - {"data", "split"} == alike.keys() - {"data", "split"}
    assert popular["auc"] > 0.52, "some items are chosen more often"
    assert min(learned["auc"], alike["auc"]) > popular["auc"] + 0.05, "users have tastes"
    shown = dist_rec("baseline", "pop", data, "--cutoff", "1", "--cutoff", "5", "--split", "valid").out
    assert "hr@1 " in shown and "hr@5 " in shown and "hr@10 " not in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--split", "random", "--layout", "items"), "neither candidates nor histories of items to rank"),
        (("--split", "random"), "neither candidates nor histories of items to rank"),
    ],
)
def test_data_that_a_baseline_cannot_rank(ratings: Path, options: tuple[str, ...], message: str) -> None:
    data = prepared(ratings, "-".join(options), *options)
    ended = dist_rec("baseline", "pop", data, code=2)
    assert message in ended.err and ended.err.startswith("error: "), ended


def test_what_is_for_sessions_alone(ratings: Path) -> None:
    data = prepared(ratings, "loo", "--split", "leave-one-out", "--draw", "30", "--implicit")
    said = dist_rec("baseline", "markov", data, code=2).err
    assert "has no sessions; make it with `dist-rec prepare sessions`" in said
    said = dist_rec("baseline", "item-knn", data, "--alpha", "0.5", code=2).err
    assert "--alpha is for folders of `dist-rec prepare sessions`" in said
