"""libFM's files (Rendle 2012), `label index:value …`, to a prepared folder.

If every row has as many entries, all of value 1, and no index at one place lies within the range of another place's,
the places are categorical columns (Frappe: user, item and eight contexts); otherwise a row is one bag, weighted unless
all values are 1. An index that training has becomes a row of a table, in ascending order; others are unknown, row 0.

Memory grows with the distinct indices alone.

Shapes: N rows of a block, V entries of all its rows, F places, K distinct indices.
"""

from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.shards import checksum
from dist_rec.data.workers import Report, Workers
from dist_rec.prepare.libfm.encode import EncodeFile, LabelKind, LibFMTransform
from dist_rec.prepare.libfm.lines import Rows, read_rows
from dist_rec.prepare.splits import SplitSource


@dataclass(frozen=True)
class Form:
    """What rows have in common."""

    index_K: NDArray[np.int64]
    """Distinct indices, ascending."""
    low_F: NDArray[np.int64] | None
    """The smallest index at each place; None if rows differ in their number of entries."""
    high_F: NDArray[np.int64] | None
    only_ones: bool

    @classmethod
    def of(cls, rows: Rows) -> "Form":
        """That of a block."""
        index_K, only_ones = np.unique(rows.index_V), bool((rows.value_V == 1).all())
        places = int(rows.length_N[0]) if rows.length_N.size else 0
        if not places or (rows.length_N != places).any():
            return cls(index_K, None, None, only_ones)
        index_NF = rows.index_V.reshape(-1, places)
        return cls(index_K, index_NF.min(0), index_NF.max(0), only_ones)

    def __or__(self, other: "Form") -> "Form":
        index_K, only_ones = np.union1d(self.index_K, other.index_K), self.only_ones and other.only_ones
        if self.low_F is None or other.low_F is None or self.low_F.size != other.low_F.size:
            return Form(index_K, None, None, only_ones)
        assert self.high_F is not None and other.high_F is not None
        low_F, high_F = np.minimum(self.low_F, other.low_F), np.maximum(self.high_F, other.high_F)
        return Form(index_K, low_F, high_F, only_ones)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The smallest and the largest index of each place, if places are categorical columns."""
        if self.low_F is None or self.high_F is None or not self.only_ones:
            return []
        order = np.argsort(self.low_F)
        if (self.high_F[order][:-1] >= self.low_F[order][1:]).any():
            return []
        return list(zip(self.low_F.tolist(), self.high_F.tolist(), strict=True))

    @property
    def no_fields(self) -> str:
        """Why places are no categorical columns, where they are not."""
        if not self.only_ones:
            return "there are values other than 1"
        return "rows differ in their number of entries" if self.low_F is None else "the columns share indices"


@dataclass(frozen=True)
class Scanned:
    """A file's form, and the range of its labels."""

    form: Form
    lowest: float
    highest: float


@dataclass(frozen=True)
class ScanFile:
    """Reads a file for its form."""

    path: str

    def run(self, report: Report) -> Scanned:
        """The form and the labels."""
        form: Form | None = None
        lowest, highest = np.inf, -np.inf
        for rows in read_rows(self.path, report):
            form = Form.of(rows) if form is None else form | Form.of(rows)
            lowest, highest = min(lowest, rows.label_N.min()), max(highest, rows.label_N.max())
        assert form is not None
        return Scanned(form, float(lowest), float(highest))


@dataclass
class LibFM(SplitSource[LibFMTransform]):
    """libFM's files."""

    label: LabelKind | None = None
    """rating, if nothing is said, keeps labels as they are; click makes -1, 0 and 1 into 0, 0 and 1."""

    kind = LibFMTransform
    of_fit = ("label",)

    def learn(self, folder: Path, pool: Workers) -> LibFMTransform:
        """Scans the files of all splits for their form, and keeps the indices of training."""
        scanned = pool.run([ScanFile(path) for path in self.paths], "read", self.bytes)
        train, others = scanned[: len(self.files["train"])], scanned[len(self.files["train"]) :]
        of_train: Form = reduce(or_, (of.form for of in train))
        form = reduce(or_, (of.form for of in others), of_train)
        known_K, ranges = of_train.index_K, form.ranges
        transform = LibFMTransform(label=self.label or "rating", fields=len(ranges), weighted=not form.only_ones)
        checksums = {}
        (folder / "vocabulary").mkdir()
        for name, (low, high) in zip(transform.tables, ranges or [(0, np.iinfo(np.int64).max)], strict=True):
            path = folder / transform.vocabulary_file(name)
            np.save(path, known_K[(low <= known_K) & (known_K <= high)])
            checksums[name] = checksum(path)
        lowest, highest = min(of.lowest for of in train), max(of.highest for of in train)
        if lowest == highest:
            self.warnings.append(f"the label is {lowest:g} in every training row")
        if not ranges:
            self.warnings.append(
                f"{form.no_fields}: all entries of a row are one bag, and pairs of them do not interact"
            )
        return transform.model_copy(update={"vocabulary": checksums})

    def tasks(self, transform: LibFMTransform, folder: Path) -> list[EncodeFile]:
        """For every file."""
        return [
            EncodeFile(file, split, index, transform, folder)
            for split, of_split in self.files.items()
            for index, file in enumerate(of_split)
        ]
