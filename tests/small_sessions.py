"""Small data sets of sessions, written by the product's own writer."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from dist_rec.core.schema import Column, Manifest, Split, Table
from dist_rec.data.counts import save_counts
from dist_rec.data.shards import ShardWriter, arrow_schema

COLUMNS = (
    Column(name="label", kind="label"),
    Column(name="user", kind="categorical", table="user"),
    Column(name="history", kind="sequence", table="item"),
    Column(name="target", kind="sequence", table="item"),
)
Session = tuple[int, list[int], list[int]]
"""User, history, target."""


def write_sessions(folder: Path, splits: dict[str, list[Session]], users: int, items: int, block_rows: int = 7) -> Path:
    """Sessions of rows of the tables `user` and `item`, split by split."""
    written, count_I = {}, np.zeros(items, np.int64)
    for name, sessions in splits.items():
        users_R, histories, targets = zip(*sessions, strict=True)
        table = pa.table(
            {
                "label": np.zeros(len(sessions), np.float32),
                "user": np.array(users_R, np.int32),
                "history": pa.array(histories, pa.list_(pa.int32())),
                "target": pa.array(targets, pa.list_(pa.int32())),
            }
        )
        with ShardWriter(folder, f"{name}/0.arrows", arrow_schema(COLUMNS), block_rows) as writer:
            writer.write(table)
            shard = writer.close()
        written[name] = Split(rows=shard.rows, shards=(shard,))
    for _, history, target in splits["train"]:
        np.add.at(count_I, [*history, *target[-1:]], 1)
    count_I[0] = 0
    counts = save_counts(folder, count_I)
    transform = {"source": "sessions", "counts": counts.model_dump()}
    manifest(users, items).model_copy(update={"splits": written, "transform": transform}).save(folder)
    return folder


def manifest(users: int, items: int) -> Manifest:
    """Of data without rows."""
    tables = {"user": Table(rows=users), "item": Table(rows=items)}
    return Manifest(columns=COLUMNS, tables=tables, splits={})


def wandering(seed: int, sessions: int, users: int, items: int, most: int = 8) -> list[Session]:
    """Sessions, user by user, whose items wander: what comes next is near what was last."""
    rng = np.random.default_rng(seed)
    made: list[Session] = []
    for user in np.sort(rng.integers(1, users, sessions)).tolist():
        steps = rng.choice([1, 1, 2, -1], rng.integers(2, most + 1))
        visited = ((rng.integers(items) + steps.cumsum()) % (items - 1) + 1).tolist()
        made.append((user, visited[:-1], visited[1:]))
    return made
