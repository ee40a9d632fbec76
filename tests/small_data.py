"""A small data set with every kind of column, written by the product's own writer; its labels can be learned."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from dist_rec.core.schema import Split
from dist_rec.data.shards import ShardWriter, arrow_schema
from tests.small_head import MANIFEST


def write_small_data(folder: Path, rows: int = 600) -> Path:
    splits = {}
    for number, (name, size) in enumerate({"train": rows, "valid": 150, "test": 150}.items()):
        with ShardWriter(folder, f"{name}/0.arrows", arrow_schema(MANIFEST.columns), block_rows=32) as writer:
            writer.write(_table(np.random.default_rng(number), size))
            shard = writer.close()
        splits[name] = Split(rows=shard.rows, shards=(shard,))
    MANIFEST.model_copy(update={"splits": splits}).save(folder)
    return folder


def _table(rng: np.random.Generator, rows: int) -> pa.Table:
    tables = {name: table.rows for name, table in MANIFEST.tables.items()}

    def lists(table: str, most: int) -> list[list[int]]:
        return [rng.integers(0, tables[table], rng.integers(0, most + 1)).tolist() for _ in range(rows)]

    user, item = rng.integers(0, tables["user"], rows), rng.integers(0, tables["item"], rows)
    price, scores = rng.random(rows), lists("word", 3)
    clicked = rng.random(rows) < 1 / (1 + np.exp(4 * price - (user % 5) + (item % 3)))
    return pa.table(
        {
            "label": clicked.astype(np.float32),
            "price": price.astype(np.float32),
            "age": rng.random(rows, np.float32),
            "user": user.astype(np.int32),
            "item": item.astype(np.int32),
            "tags": lists("tag", 3),
            "scores": scores,
            "score_weights": [rng.random(len(ids)).tolist() for ids in scores],
            "history": lists("item", 5),
        }
    )
