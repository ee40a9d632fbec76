"""Small data sets of sessions, written by the product's own writer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dist_rec.core.schema import Column, Manifest, Split, Table
from dist_rec.data.counts import save_counts
from dist_rec.data.seen import save_seen
from dist_rec.data.shards import ShardWriter, arrow_schema

COLUMNS = (
    Column(name="label", kind="label"),
    Column(name="user", kind="categorical", table="user"),
    Column(name="history", kind="sequence", table="item"),
    Column(name="target", kind="sequence", table="item"),
)
WINDOW_COLUMNS = (*COLUMNS, Column(name="seen", kind="bag", table="item"))
Session = tuple[int, list[int], list[int]]
"""User, history, target."""
Window = tuple[int, list[int], list[int], list[int]]
"""User, history, target, seen items."""


def write_sessions(
    folder: Path,
    splits: Mapping[str, Sequence[Session | Window]],
    users: int,
    items: int,
    block_rows: int = 7,
    columns: tuple[Column, ...] = COLUMNS,
    pairs: bool = False,
) -> Path:
    """Sessions, or windows, of rows of the tables `user` and `item`, split by split."""
    written, count_I, schema = {}, np.zeros(items, np.int64), arrow_schema(columns)
    for name, sessions in splits.items():
        values = [[0.0] * len(sessions), *zip(*sessions, strict=True)]
        with ShardWriter(folder, f"{name}/0.arrows", schema, block_rows) as writer:
            writer.write(
                pa.table([pa.array(column, field.type) for column, field in zip(values, schema, strict=True)], schema)
            )
            shard = writer.close()
        written[name] = Split(rows=shard.rows, shards=(shard,))
    for _, history, target, *_ in splits["train"]:
        np.add.at(count_I, [*history, *target[-1:]], 1)
    count_I[0] = 0
    counts = save_counts(folder, count_I)
    transform: dict[str, Any] = {"source": "sessions", "counts": counts.model_dump()}
    if pairs:
        of_users = {
            user * items + item for user, history, target, *_ in splits["train"] for item in (*history, *target)
        }
        transform["seen"] = save_seen(folder, np.array(sorted(of_users))).model_dump()
    manifest(users, items, columns).model_copy(update={"splits": written, "transform": transform}).save(folder)
    return folder


def manifest(users: int, items: int, columns: tuple[Column, ...] = COLUMNS) -> Manifest:
    """Of data without rows."""
    tables = {"user": Table(rows=users), "item": Table(rows=items)}
    return Manifest(columns=columns, tables=tables, splits={})


def wandering(seed: int, sessions: int, users: int, items: int, most: int = 8) -> list[Session]:
    """Sessions, user by user, whose items wander: what comes next is near what was last."""
    rng = np.random.default_rng(seed)
    made: list[Session] = []
    for user in np.sort(rng.integers(1, users, sessions)).tolist():
        steps = rng.choice([1, 1, 2, -1], rng.integers(2, most + 1))
        visited = ((rng.integers(items) + steps.cumsum()) % (items - 1) + 1).tolist()
        made.append((user, visited[:-1], visited[1:]))
    return made


def windows(seed: int, users: int, items: int, length: int, targets: int) -> dict[str, list[Window]]:
    """Windows of what users have, with the targets that follow, and for each user one that all others come before.

    Some users have too little for a window, which begins with row 0 then.
    """
    train: list[Window] = []
    valid: list[Window] = []
    for user, (_, history, target) in enumerate(wandering(seed, users - 1, 2, items, most=4 * length), 1):
        had, held_out = history[: len(history) // 2 + 1], target[len(history) // 2 :]
        padded = [0] * (length + targets - len(had)) + had
        for start in range(len(padded) - length - targets + 1):
            middle = start + length
            train.append((user, padded[start:middle], padded[middle : middle + targets], []))
        valid.append((user, ([0] * length + had)[-length:], held_out, sorted(set(had))))
    return {"train": train, "valid": valid}
