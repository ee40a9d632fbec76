"""Rows of libFM's files to shards: places or bags of indices to rows of tables.

Shapes: N rows of a block, V entries of all its rows, F places, K known indices.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.core.schema import Column
from dist_rec.data.shards import arrow_schema
from dist_rec.data.workers import Report
from dist_rec.prepare.libfm.lines import Rows, read_rows
from dist_rec.prepare.splits import SplitWriter, Transform, Written

BAG, WEIGHTS = "features", "values"
LabelKind = Literal["rating", "click"]


class LibFMTransform(Transform):
    """How lines became ids."""

    source: Literal["libfm"] = "libfm"
    label: LabelKind
    """rating: as it is in the file; click: 1 for 1, and 0 for 0 or -1."""
    fields: int = 0
    """Entries of every row if they are categorical columns; 0 if they are a bag."""
    weighted: bool = False
    """Whether the bag has weights."""
    vocabulary: dict[str, str] = {}
    """Checksum of every `vocabulary/<table>.npy`: ascending indices, that of row i + 1 at place i."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(f"field_{place}" for place in range(self.fields)) or (BAG,)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of the shards."""
        label = Column(name="label", kind="label")
        if self.fields:
            return (label, *(Column(name=name, kind="categorical", table=name) for name in self.tables))
        if not self.weighted:
            return label, Column(name=BAG, kind="bag", table=BAG)
        return label, Column(name=BAG, kind="bag", table=BAG, weights=WEIGHTS), Column(name=WEIGHTS, kind="weight")

    def vocabularies(self, folder: Path) -> list[NDArray[np.int64]]:
        """The known indices of every table."""
        return [np.load(folder / self.vocabulary_file(table)) for table in self.tables]

    def table_rows(self, folder: Path) -> dict[str, int]:
        """Rows of every table."""
        return {table: known_K.size + 1 for table, known_K in zip(self.tables, self.vocabularies(folder), strict=True)}


@dataclass(frozen=True)
class EncodeFile:
    """Writes the rows of a file as one shard."""

    path: str
    split: str
    index: int
    """Among the files of the split."""
    transform: LibFMTransform
    folder: Path

    def run(self, report: Report) -> list[Written]:
        """The shard."""
        transform, vocabularies = self.transform, self.transform.vocabularies(self.folder)
        schema, clicks = arrow_schema(transform.columns), transform.label == "click"
        with SplitWriter(self.folder, self.split, f"{self.index:05}", transform.columns, clicks) as writer:
            for rows in read_rows(self.path, report):
                columns = (_clicks(rows) if clicks else rows.label_N, *self._features(rows, vocabularies))
                writer.write(pa.Table.from_arrays([pa.array(column) for column in columns], schema=schema))
            return [writer.written()]

    def _features(self, rows: Rows, vocabularies: list[NDArray[np.int64]]) -> list[NDArray[np.int32] | pa.Array]:
        if self.transform.fields:
            index_NF = _places(rows, self.transform.fields)
            return [_ids(index_N, known_K) for index_N, known_K in zip(index_NF.T, vocabularies, strict=True)]
        if not self.transform.weighted and (rows.value_V != 1).any():
            row = int(np.searchsorted(np.cumsum(rows.length_N), (rows.value_V != 1).argmax(), side="right"))
            raise UserError(f"{rows.place.of(row)} has a value that is not 1, which the earlier files had alone")
        offsets = pa.array(np.concatenate(([0], np.cumsum(rows.length_N))).astype(np.int32))
        lists = [_ids(rows.index_V, vocabularies[0])] + ([rows.value_V] if self.transform.weighted else [])
        return [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in lists]


def _clicks(rows: Rows) -> NDArray[np.float32]:
    wrong = ~np.isin(rows.label_N, (-1, 0, 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(f"{rows.place.of(row)}: the label {rows.label_N[row]:g} is not -1, 0 or 1; try --label rating")
    return (rows.label_N == 1).astype(np.float32)


def _places(rows: Rows, fields: int) -> NDArray[np.int64]:
    wrong = rows.length_N != fields
    if not wrong.any():
        wrong = (rows.value_V != 1).reshape(-1, fields).any(1)
    if wrong.any():
        raise UserError(f"{rows.place.of(int(wrong.argmax()))} has not {fields} entries of value 1, as earlier files")
    return rows.index_V.reshape(-1, fields)


def _ids(index_V: NDArray[np.int64], known_K: NDArray[np.int64]) -> NDArray[np.int32]:
    place = np.searchsorted(known_K, index_V)
    known = np.append(known_K, -1)[place] == index_V
    return np.where(known, place + 1, 0).astype(np.int32)
