"""Criteo's lines, Kaggle or Terabyte: a label, 13 integers and 26 hexadecimal categories, in arrays or refused by name.

Shapes: N rows of a segment, 13 integers (I) and 26 categories (C) a row.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.data.prepare.lines import Piece, read_lines
from dist_rec.data.prepare.tsv import MARGIN, Fields, NotNumbers
from dist_rec.data.prepare.vocabulary import SEGMENT_ROWS
from dist_rec.data.workers import Report

INTS, CATS = 13, 26
DENSE = tuple(f"int_{index}" for index in range(INTS))
CATEGORICAL = tuple(f"cat_{index}" for index in range(CATS))
NAMES = ("label", *DENSE, *CATEGORICAL)


@dataclass(frozen=True)
class Rows:
    """Parsed lines."""

    label_N: NDArray[np.float32]
    dense_IN: NDArray[np.float32]
    value_CN: NDArray[np.uint32]
    missing_CN: NDArray[np.bool_]

    @classmethod
    def empty(cls, rows: int) -> "Rows":
        """Room for that many rows."""
        return cls(
            np.empty(rows, np.float32),
            np.empty((INTS, rows), np.float32),
            np.empty((CATS, rows), np.uint32),
            np.empty((CATS, rows), np.bool_),
        )

    def __getitem__(self, rows: slice) -> "Rows":
        return Rows(self.label_N[rows], self.dense_IN[:, rows], self.value_CN[:, rows], self.missing_CN[:, rows])

    def fill(self, fields: Fields) -> None:
        """Parses lines into these rows, of which there must be as many."""
        self.label_N[:] = fields.bit(0)
        for index, dense_N in enumerate(self.dense_IN, start=1):
            np.log1p(np.maximum(fields.integer(index), 0, dtype=np.float32), out=dense_N)
        for index, value_N in enumerate(self.value_CN, start=1 + INTS):
            value_N[:] = fields.hexadecimal(index)
        np.equal(fields.length_FN[1 + INTS :], 0, out=self.missing_CN)


def read_rows(piece: Piece, report: Report) -> Iterator[Rows]:
    """Segments of at most `SEGMENT_ROWS` rows, which is more than a block of lines can hold.

    Raises:
        UserError: naming the file, line and field that is wrong.
    """
    room, rows, lines_before = Rows.empty(SEGMENT_ROWS), 0, 0
    for lines, size in read_lines(piece, MARGIN):
        try:
            fields = Fields.find(lines, len(NAMES))
            if rows + fields.rows > SEGMENT_ROWS:
                yield room[:rows]
                room, rows = Rows.empty(SEGMENT_ROWS), 0
            room[rows : rows + fields.rows].fill(fields)
        except NotNumbers:
            raise _first_error(piece, lines[len(MARGIN) :], lines_before) from None
        rows += fields.rows
        lines_before += fields.rows
        report(size, fields.rows)
    if lines_before == 0 and piece.start == 0:
        raise UserError(f"{piece.path} holds no rows")
    if rows:
        yield room[:rows]


def _first_error(piece: Piece, lines: bytes, lines_before: int) -> UserError:
    for index, line in enumerate(lines.split(b"\n")[:-1]):
        fields = line.split(b"\t")
        where = f"{piece.path}, line {piece.line_number(lines_before + index)}"
        if len(fields) != len(NAMES):
            return UserError(f"{where} has {len(fields)} tab-separated fields, not {len(NAMES)}")
        for place, (name, text) in enumerate(zip(NAMES, fields, strict=True), start=1):
            pattern, meaning = _form(name)
            if not re.fullmatch(pattern, text):
                shown = text[:40].decode(errors="replace")
                return UserError(f"{where}, field {place} ({name}): {shown!r} is not {meaning}")
    raise AssertionError("the fast parser refused lines that are right")


def _form(name: str) -> tuple[bytes, str]:
    if name == "label":
        return rb"[01]", "0 or 1"
    if name in DENSE:
        return rb"(-?[0-9]{1,16})?", "an integer of at most 16 digits"
    return rb"[0-9a-fA-F]{0,8}", "a hexadecimal number of at most 8 digits"
