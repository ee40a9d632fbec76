"""Parses Criteo's lines (a label, 13 integers and 26 hexadecimal categories) to arrays; errors name line and field.

Shapes: N rows of a segment, 13 integers (I) and 26 categories (C) a row.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.data.workers import Report
from dist_rec.prepare.criteo.tsv import MARGIN, Fields, NotNumbers
from dist_rec.prepare.criteo.vocabulary import SEGMENT_ROWS, Factors, factorize
from dist_rec.prepare.lines import Piece, read_lines

INTS, CATS = 13, 26
DENSE = tuple(f"int_{index}" for index in range(INTS))
CATEGORICAL = tuple(f"cat_{index}" for index in range(CATS))
NAMES = ("label", *DENSE, *CATEGORICAL)
DENSE_FIELDS, CATEGORICAL_FIELDS = slice(1, 1 + INTS), slice(1 + INTS, None)


@dataclass(frozen=True)
class Rows:
    """Parsed lines."""

    label_N: NDArray[np.float32]
    dense_IN: NDArray[np.float32]
    factors_C: list[Factors]


class Segment:
    """Buffers for the rows of several blocks of lines."""

    def __init__(self) -> None:
        self.size = 0
        self._label_N = np.empty(SEGMENT_ROWS, np.float32)
        self._dense_IN = np.empty((INTS, SEGMENT_ROWS), np.float32)
        self._word_CN = np.empty((CATS, SEGMENT_ROWS), np.uint64)

    def add(self, fields: Fields) -> None:
        """Parses labels and integers, and keeps the words of categories."""
        new = slice(self.size, self.size + fields.rows)
        self._label_N[new] = fields.bit(0)
        np.log1p(np.maximum(fields.integer(DENSE_FIELDS), 0, dtype=np.float32), out=self._dense_IN[:, new])
        self._word_CN[:, new] = fields.word(CATEGORICAL_FIELDS)
        self.size = new.stop

    def rows(self) -> Rows:
        """All rows, with their words factorized."""
        factors_C = [factorize(word_N[: self.size]) for word_N in self._word_CN]
        return Rows(self._label_N[: self.size], self._dense_IN[:, : self.size], factors_C)


def read_rows(piece: Piece, report: Report) -> Iterator[Rows]:
    """Segments of at most `SEGMENT_ROWS` rows, which is more than a block of lines can hold.

    Raises:
        UserError: naming the file, line and field of the first fault.
    """
    segment, lines_before = Segment(), 0
    blocks: list[bytes] = []
    try:
        for lines, size in read_lines(piece, MARGIN):
            blocks.append(lines)
            fields = Fields.find(lines, len(NAMES))
            if segment.size + fields.rows > SEGMENT_ROWS:
                yield segment.rows()
                segment, blocks, lines_before = Segment(), [lines], lines_before + segment.size
            segment.add(fields)
            report(size, fields.rows)
        if segment.size:
            yield segment.rows()
        elif piece.start == 0:
            raise UserError(f"{piece.path} holds no rows; leave it out")
    except NotNumbers:
        raise _first_error(piece, blocks, lines_before) from None


def _first_error(piece: Piece, blocks: list[bytes], lines_before: int) -> UserError:
    lines = chain.from_iterable(block[len(MARGIN) :].split(b"\n")[:-1] for block in blocks)
    for index, line in enumerate(lines):
        fields = line.split(b"\t")
        where = f"{piece.path}, line {piece.line_number(lines_before + index)}"
        if len(fields) != len(NAMES):
            return UserError(f"{where} has {len(fields)} tab-separated fields, not {len(NAMES)}")
        for place, (name, text) in enumerate(zip(NAMES, fields, strict=True), start=1):
            pattern, meaning = _form(name)
            if not re.fullmatch(pattern, text):
                shown = text[:40].decode(errors="replace")
                return UserError(f"{where}, field {place} ({name}): {shown!r} is not {meaning}")
    raise AssertionError("the fast parser refused valid lines")


def _form(name: str) -> tuple[bytes, str]:
    if name == "label":
        return rb"[01]", "0 or 1"
    if name in DENSE:
        return rb"(-?[0-9]{1,16})?", "an integer of at most 16 digits"
    return rb"[0-9a-fA-F]{0,8}", "a hexadecimal number of at most 8 digits"
