"""Prepares libFM's files (Rendle 2012), `label index:value …`.

If all rows have the same number of entries, all of value 1, and the ranges of indices at different places do not
overlap, the places are categorical columns (Frappe: user, item and eight contexts); otherwise a row is one bag,
weighted unless all values are 1. Indices of the training split become rows of a table in ascending order, others row 0.

Memory grows only with the number of distinct indices.

Shapes: N rows of a block, V entries of all its rows, F places, K distinct indices.
"""

from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.core.schema import Column
from dist_rec.data.shards import arrow_schema, checksum, lists
from dist_rec.data.workers import Report, Workers
from dist_rec.prepare.libfm.lines import Rows, read_rows
from dist_rec.prepare.splits import SplitSource, SplitWriter, Transform, Written

BAG, WEIGHTS = "features", "values"
LabelKind = Literal["rating", "click"]


class LibFMTransform(Transform):
    """Transform of lines to ids."""

    source: Literal["libfm"] = "libfm"
    label: LabelKind
    """rating: the label of the file; click: 1 for 1, and 0 for 0 or -1."""
    fields: int = 0
    """Number of entries of every row if they are categorical columns; 0 if they are a bag."""
    weighted: bool = False
    """Whether the bag has weights."""
    vocabulary: dict[str, str] = {}
    """Checksum of every `vocabulary/<table>.npy`: ascending indices; the one at place i has row i + 1."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables."""
        return tuple(f"field_{place}" for place in range(self.fields)) or (BAG,)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the shards."""
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
class Form:
    """Common properties of rows."""

    index_K: NDArray[np.int64]
    """Distinct indices, ascending."""
    only_ones: bool
    labels: tuple[float, float]
    """The lowest and the highest label."""
    low_F: NDArray[np.int64] | None = None
    """The smallest index at each place; None if rows differ in their number of entries."""
    high_F: NDArray[np.int64] | None = None
    """The largest index likewise."""

    @classmethod
    def of(cls, rows: Rows) -> "Form":
        """The form of a block."""
        labels = float(rows.label_N.min()), float(rows.label_N.max())
        form = cls(np.unique(rows.index_V), bool((rows.value_V == 1).all()), labels)
        places = int(rows.length_N[0])
        if not places or (rows.length_N != places).any():
            return form
        index_NF = rows.index_V.reshape(-1, places)
        return replace(form, low_F=index_NF.min(0), high_F=index_NF.max(0))

    def __or__(self, other: "Form") -> "Form":
        labels = min(self.labels[0], other.labels[0]), max(self.labels[1], other.labels[1])
        form = Form(np.union1d(self.index_K, other.index_K), self.only_ones and other.only_ones, labels)
        if self.low_F is None or other.low_F is None or self.low_F.size != other.low_F.size:
            return form
        assert self.high_F is not None and other.high_F is not None
        return replace(form, low_F=np.minimum(self.low_F, other.low_F), high_F=np.maximum(self.high_F, other.high_F))

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The smallest and the largest index of each place, if places are categorical columns; else empty."""
        if self.low_F is None or self.high_F is None or not self.only_ones:
            return []
        order = np.argsort(self.low_F)
        if (self.high_F[order][:-1] >= self.low_F[order][1:]).any():
            return []
        return list(zip(self.low_F.tolist(), self.high_F.tolist(), strict=True))

    @property
    def no_fields(self) -> str:
        """The reason why places are not categorical columns."""
        if not self.only_ones:
            return "there are values other than 1"
        return "rows differ in their number of entries" if self.low_F is None else "the columns share indices"


@dataclass(frozen=True)
class ScanFile:
    """Determines the form of a file."""

    path: str

    def run(self, report: Report) -> Form:
        """Returns the form."""
        return reduce(or_, map(Form.of, read_rows(self.path, report)))


@dataclass(frozen=True)
class EncodeFile:
    """Writes the rows of a file as one shard."""

    path: str
    split: str
    index: int
    """Index among the files of the split."""
    transform: LibFMTransform
    folder: Path

    def run(self, report: Report) -> list[Written]:
        """Returns the shard."""
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
            raise UserError(f"{rows.place.of(row)} has a value other than 1, unlike the files of --fitted-from")
        values = [_ids(rows.index_V, vocabularies[0])] + ([rows.value_V] if self.transform.weighted else [])
        return [lists(values_V, rows.length_N) for values_V in values]


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
        place = rows.place.of(int(wrong.argmax()))
        raise UserError(f"{place} must have {fields} entries of value 1, like the files of --fitted-from")
    return rows.index_V.reshape(-1, fields)


def _ids(index_V: NDArray[np.int64], known_K: NDArray[np.int64]) -> NDArray[np.int32]:
    place = np.searchsorted(known_K, index_V)
    known = np.append(known_K, -1)[place] == index_V
    return np.where(known, place + 1, 0).astype(np.int32)


@dataclass
class LibFM(SplitSource[LibFMTransform]):
    """Files of libFM."""

    label: LabelKind | None = None
    """rating (the default) keeps labels as they are; click maps -1, 0 and 1 to 0, 0 and 1."""

    kind = LibFMTransform
    of_fit = ("label",)

    def learn(self, folder: Path, pool: Workers) -> LibFMTransform:
        """Determines the form of the files of all splits, and saves the indices of the training split."""
        forms = pool.run([ScanFile(path) for path in self.paths], "read", self.bytes)
        of_train = reduce(or_, forms[: len(self.files["train"])])
        form = reduce(or_, forms[len(self.files["train"]) :], of_train)
        known_K, ranges = of_train.index_K, form.ranges
        transform = LibFMTransform(label=self.label or "rating", fields=len(ranges), weighted=not form.only_ones)
        checksums = {}
        (folder / "vocabulary").mkdir()
        for name, (low, high) in zip(transform.tables, ranges or [(0, np.iinfo(np.int64).max)], strict=True):
            path = folder / transform.vocabulary_file(name)
            np.save(path, known_K[(low <= known_K) & (known_K <= high)])
            checksums[name] = checksum(path)
        lowest, highest = of_train.labels
        if lowest == highest:
            self.warnings.append(f"the label is {lowest:g} in every training row")
        if not ranges:
            self.warnings.append(
                f"{form.no_fields}: all entries of a row form one bag, and pairs of them do not interact"
            )
        return transform.model_copy(update={"vocabulary": checksums})

    def tasks(self, transform: LibFMTransform, folder: Path) -> list[EncodeFile]:
        """A task for every file."""
        return [
            EncodeFile(file, split, index, transform, folder)
            for split, of_split in self.files.items()
            for index, file in enumerate(of_split)
        ]
