"""Rows of a split to shards, a few at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dist_rec.core.schema import Column, Shard, Split
from dist_rec.data.shards import ShardWriter, arrow_schema

SHARD_ROWS = 1 << 20
"""A shard is full when it has that many."""


@dataclass
class Tally:
    """What was written of a split."""

    rows: int = 0
    targets: int = 0
    unknown: int = 0
    """Targets that are row 0."""
    empty: int = 0
    """Rows without targets."""

    def count(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables."""
        for table in tables:
            target = table["target"]
            self.rows += table.num_rows
            self.targets += pc.sum(pc.list_value_length(target)).as_py() or 0
            self.unknown += pc.sum(pc.equal(pc.list_flatten(target), 0)).as_py() or 0
            self.empty += pc.sum(pc.equal(pc.list_value_length(target), 0)).as_py() or 0
            yield table


def write_split(folder: Path, name: str, tables: Iterable[pa.Table], columns: tuple[Column, ...]) -> Split | None:
    """Writes the tables of a split; None if there are no rows."""
    shards: list[Shard] = []
    schema, coming = arrow_schema(columns), iter(tables)
    while (table := next(coming, None)) is not None:
        with ShardWriter(folder, f"{name}/{len(shards):05}.arrows", schema) as writer:
            rows = 0
            while table is not None:
                writer.write(table)
                rows += table.num_rows
                table = None if rows >= SHARD_ROWS else next(coming, None)
            shards.append(writer.close())
    return Split(rows=sum(shard.rows for shard in shards), shards=tuple(shards)) if shards else None
