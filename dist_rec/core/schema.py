"""The manifest of a prepared data set: columns, tables of ids, splits, shards and their checksums.

`manifest.json` tells training everything about the data, so that configs stay short.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import xxhash
from pydantic import Field, ValidationError

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError

MANIFEST = "manifest.json"
Kind = Literal["label", "dense", "categorical", "bag", "sequence", "weight"]
ID_KINDS: tuple[Kind, ...] = ("categorical", "bag", "sequence")


class Column(Config):
    """One column of the shards."""

    name: str
    kind: Kind
    """label, dense and weight are float32; categorical is int32; bag and sequence are lists of int32."""
    table: str | None = None
    """The table of ids that a categorical, bag or sequence column indexes."""
    weights: str | None = None
    """For a weighted bag, the list<float32> column with one weight for each id."""


class Table(Config):
    """A space of ids shared by one or more columns; row 0 is the unknown id."""

    rows: int = Field(ge=1)


class Block(Config):
    """Consecutive rows that are read, checked and decoded at once: one Arrow record batch."""

    offset: int
    """Position of the first byte in the shard."""
    bytes: int
    rows: int
    checksum: str
    """xxh3_64 of the bytes, 16 hex digits."""


class Shard(Config):
    """One file of rows; blocks are listed for Arrow IPC, and empty for Parquet, whose blocks are its row groups."""

    path: str
    """Relative to the manifest's folder."""
    rows: int
    blocks: tuple[Block, ...] = ()


class Split(Config):
    """A named part of the data: train, valid or test."""

    rows: int
    positives: int | None = None
    """Rows whose label is 1, for click data."""
    shards: tuple[Shard, ...]


class Manifest(Config):
    """The whole data set."""

    version: Literal[1] = 1
    columns: tuple[Column, ...]
    tables: dict[str, Table]
    splits: dict[str, Split]
    transform: dict[str, Any] = {}
    """How raw data became ids and numbers; fitted on the training split only."""

    def names(self, *kinds: Kind) -> tuple[str, ...]:
        """Names of the columns of these kinds, in the order of the shards."""
        return tuple(column.name for column in self.columns if column.kind in kinds)

    def column(self, name: str) -> Column:
        """The column of that name; raises UserError that lists the known ones."""
        for column in self.columns:
            if column.name == name:
                return column
        raise UserError(f"the data has no column {name!r}; it has {', '.join(c.name for c in self.columns)}")

    def table_of(self, column: str) -> str:
        """The table that an id column indexes; raises UserError if the column holds no ids."""
        table = self.column(column).table
        if table is None:
            raise UserError(f"column {column!r} is {self.column(column).kind} and holds no ids; name an id column")
        return table

    def rows_of(self, column: str) -> int:
        """Rows of the table that an id column indexes."""
        return self.tables[self.table_of(column)].rows

    def split(self, name: str) -> Split:
        """The split of that name; raises UserError that lists the known ones."""
        if name not in self.splits:
            raise UserError(f"the data has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]

    def warnings(self) -> tuple[str, ...]:
        """Properties of valid data that are probably mistakes, one line each."""
        empty = [name for name, table in self.tables.items() if table.rows == 1]
        found = [f"table {name!r} has only the row of unknown ids: its features carry no information" for name in empty]
        train = self.splits.get("train")
        if train is not None and train.positives in (0, train.rows):
            found.append(f"the label is {int(bool(train.positives))} in all {train.rows:,} training rows")
        return tuple(found)

    @cached_property
    def checksum(self) -> str:
        """Identifies the data: equal if and only if columns, tables, transform and all shards are equal."""
        return xxhash.xxh3_64_hexdigest(self.model_dump_json().encode())

    def save(self, folder: Path) -> None:
        """Writes `manifest.json` into the folder."""
        (folder / MANIFEST).write_text(self.model_dump_json(indent=1, exclude_defaults=True) + "\n")

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Self:
        """Parses a manifest; `where` names it in the error."""
        try:
            manifest = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(f"{where} is not a valid manifest: {key}: {first['msg']}; prepare the data again") from None
        for column in manifest.columns:
            if column.table is not None and column.table not in manifest.tables:
                raise UserError(f"{where}: column {column.name!r} indexes table {column.table!r}, which is not listed")
        return manifest
