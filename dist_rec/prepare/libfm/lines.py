"""Parses lines of libFM (Rendle 2012), `label index:value …`, to arrays; errors name the line.

Shapes: N rows of a block, V entries of all its rows.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.data.workers import Report
from dist_rec.prepare.lines import Piece, read_lines

NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"


@dataclass(frozen=True)
class Rows:
    """N rows of a file."""

    label_N: NDArray[np.float32]
    length_N: NDArray[np.int64]
    """Number of entries of each row."""
    index_V: NDArray[np.int64]
    """Indices of all rows, end to end."""
    value_V: NDArray[np.float32]
    place: "Place"


@dataclass(frozen=True)
class Place:
    """Position of rows in a file, for messages."""

    path: str
    lines: bytes
    lines_before: int

    def of(self, row: int) -> str:
        """File and line of a row."""
        kept = [number for number, line in enumerate(self.lines.split(b"\n")) if line.strip()]
        return f"{self.path}, line {self.lines_before + kept[row] + 1}"

    def first_error(self) -> UserError:
        """The error of the first invalid line."""
        for number, line in enumerate(self.lines.split(b"\n"), start=self.lines_before + 1):
            label, *entries = line.decode(errors="replace").split() or ["0"]
            where = f"{self.path}, line {number}"
            if not _is_number(label):
                return UserError(f"{where}: the label {label[:40]!r} is not a number")
            for entry in entries:
                index, _, value = entry.partition(":")
                if not re.fullmatch("[0-9]{1,18}", index) or not _is_number(value):
                    return UserError(f"{where}: {entry[:40]!r} is not index:value")
        raise AssertionError("the fast parser refused valid lines")


def read_rows(path: str, report: Report) -> Iterator[Rows]:
    """The rows of a plain or gzipped file, block by block; empty lines are left out.

    Raises:
        UserError: naming the first invalid line, or a file without rows.
    """
    lines_before = count = 0
    for lines, size in read_lines(Piece(path, 0, Path(path).stat().st_size), b""):
        place = Place(path, lines, lines_before)
        try:
            rows = _parse(lines, place)
        except (pa.ArrowInvalid, UnicodeDecodeError):
            raise place.first_error() from None
        lines_before += lines.count(b"\n")
        count += rows.label_N.size
        if rows.label_N.size:
            yield rows
        report(size, rows.label_N.size)
    if not count:
        raise UserError(f"{path} holds no rows; leave it out")


def _parse(lines: bytes, place: Place) -> Rows:
    end = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n")) + 1
    offsets = pa.py_buffer(np.concatenate(([0], end)).astype(np.int32))
    line = pa.StringArray.from_buffers(end.size, offsets, pa.py_buffer(lines))
    line.validate(full=True)
    line = pc.utf8_trim_whitespace(line)
    tokens = pc.utf8_split_whitespace(line.filter(pc.not_equal(line, "")))
    first = tokens.offsets.to_numpy()
    flat = tokens.flatten()
    is_entry = np.ones(len(flat), np.bool_)
    is_entry[first[:-1]] = False
    pairs = pc.split_pattern(flat.filter(pa.array(is_entry)), ":")
    if (pc.list_value_length(pairs).to_numpy() != 2).any():
        raise pa.ArrowInvalid("not index:value")
    parts, even = pairs.flatten(), np.arange(0, 2 * len(pairs), 2)
    label_N = flat.take(pa.array(first[:-1])).cast(pa.float32()).to_numpy()
    index_V = parts.take(pa.array(even)).cast(pa.int64()).to_numpy()
    value_V = parts.take(pa.array(even + 1)).cast(pa.float32()).to_numpy()
    if not np.isfinite(label_N).all() or not np.isfinite(value_V).all() or index_V.min(initial=0) < 0:
        raise pa.ArrowInvalid("not a finite number")
    return Rows(label_N, np.diff(first) - 1, index_V, value_V, place)


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(NUMBER, text)) and abs(float(text)) <= float(np.finfo(np.float32).max)
