"""DIN from a table of histories: users click again what they have clicked before."""

from pathlib import Path

import numpy as np

from tests.integration.conftest import LOCAL, ROOT, dist_rec, run

ITEMS, ROWS = 40, 6000


def write(path: Path, rows: int, seed: int) -> Path:
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(rows):
        history = random.choice(ITEMS, random.integers(0, 6), replace=False)
        item = random.choice(history) if len(history) and random.random() < 0.5 else random.integers(ITEMS)
        click = random.random() < (0.9 if item in history else 0.1)
        items, categories = ("|".join(map(str, ids)) for ids in (history, history // 4))
        lines.append(f"{int(click)}\t{random.integers(50)}\t{item}\t{item // 4}\t{items}\t{categories}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_din_learns_what_only_the_history_tells(tmp_path: Path) -> None:
    files = {split: write(tmp_path / split, rows, rows) for split, rows in (("train", ROWS), ("valid", 999))}
    data = tmp_path / "data"
    words = ("--train", files["train"], "--valid", files["valid"], "--out", data)
    dist_rec("prepare", "table", ROOT / "configs/data/histories.toml", *words)
    settings = (f"data.path={data}", "train.batch=64", "train.epochs=4", "optimizer.lr=0.003", "embedding.init=0.3")
    ended = run(LOCAL, "2", ROOT / "configs/din_histories.toml", *settings, "--run-dir", tmp_path / "run", "--json")
    assert ended.json["valid"]["auc"] > 0.75
