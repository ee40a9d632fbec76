"""Parses lines `user item rating [timestamp]` of rating files to columns of numbers.

Ratings are held in memory, 20 bytes each. Ids are any text, and get codes in the order of first appearance.

Shapes: N ratings.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.prepare.lines import Piece, cut, read_lines
from dist_rec.prepare.ratings.growing import GrowingCodes, GrowingColumn

SEPARATORS = ("::", "\t", ",", ";", " ")
"""Field separators, in the order in which they are tried."""
TYPES = {
    "user": pa.dictionary(pa.int32(), pa.string()),
    "item": pa.dictionary(pa.int32(), pa.string()),
    "rating": pa.float32(),
    "time": pa.int64(),
}
NUMBER = rb"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*"
NO_NUMBER = rb"(?i)[^a-z\x80-\xff]*|n/?an?|null|none|[-+]?inf(inity)?"
"""Form of an invalid or missing rating, by which a line of data differs from a header."""
INTEGER = rb"\s*[-+]?[0-9]+\s*"
MOST_RATINGS = (1 << 31) - 1
"""Places of ratings are held in 4 bytes."""
UNIT = b"\x1f"
"""Replaces a separator of several bytes, which Arrow cannot read."""


@dataclass(frozen=True)
class Ratings:
    """N ratings in the order of the files."""

    user_N: NDArray[np.int32]
    """Code of the user."""
    item_N: NDArray[np.int32]
    rating_N: NDArray[np.float32]
    time_N: NDArray[np.int64]
    """The timestamp; 0 if the files have none, so that their order counts."""
    users: pa.StringArray
    """The user's id in the files, by code."""
    items: pa.StringArray

    def __len__(self) -> int:
        return self.user_N.size

    @property
    def timed(self) -> bool:
        """Whether the files have timestamps."""
        return bool(self.time_N.any())

    def first_user(self, among_N: NDArray[np.bool_]) -> str:
        """The id in the files of the user of the first rating in `among_N`."""
        return self.users[int(self.user_N[np.argmax(among_N)])].as_py()

    def first_item(self, among_N: NDArray[np.bool_]) -> str:
        """The id in the files of the item of the first rating in `among_N`."""
        return self.items[int(self.item_N[np.argmax(among_N)])].as_py()

    def where(self, kept_N: NDArray[np.bool_]) -> "Ratings":
        """The ratings in `kept_N`; codes stay the same."""
        if kept_N.all():
            return self
        return Ratings(
            self.user_N[kept_N], self.item_N[kept_N], self.rating_N[kept_N], self.time_N[kept_N], self.users, self.items
        )


@dataclass(frozen=True)
class Form:
    """Format of the lines of a file."""

    separator: str
    fields: int
    """3, or 4 with a timestamp."""
    header: bool

    @classmethod
    def detect(cls, path: str, first: bytes, separator: str | None) -> "Form":
        """The form of a first line: its separator gives three or four fields, a header has a word as rating."""
        for candidate in [separator] if separator else SEPARATORS:
            fields = first.split(candidate.encode())
            if len(fields) in (3, 4):
                numeric = any(re.fullmatch(NUMBER, text) for text in fields[2:])
                return cls(candidate, len(fields), not numeric and not re.fullmatch(NO_NUMBER, fields[2].strip()))
        tried = f"--separator {separator!r}" if separator else "tab, comma, '::', ';' or space"
        raise UserError(f"{path}, line 1: not `user item rating [timestamp]` by {tried}; choose another --separator")

    def parse(self, lines: bytes, skip: int) -> pa.Table:
        """Parses lines to a table of `TYPES`; raises pa.ArrowInvalid for lines of another form."""
        separator = self.separator.encode()
        if len(separator) > 1:
            lines, separator = lines.replace(separator, UNIT), UNIT
        names = list(TYPES)[: self.fields]
        return pacsv.read_csv(
            pa.BufferReader(lines),
            pacsv.ReadOptions(use_threads=False, block_size=len(lines) + 1, column_names=names, skip_rows=skip),
            pacsv.ParseOptions(delimiter=separator.decode(), quote_char=False, ignore_empty_lines=False),
            pacsv.ConvertOptions(column_types={name: TYPES[name] for name in names}, null_values=[]),
        )

    def fault(self, line: bytes) -> str | None:
        """Describes the fault of a line; None if it is valid."""
        fields = line.split(self.separator.encode())
        if len(fields) != self.fields:
            return f"has {len(fields)} fields by separator {self.separator!r}, not {self.fields}"
        for name, text, form in zip(TYPES, fields, (rb"(?s).+", rb"(?s).+", NUMBER, INTEGER), strict=False):
            shown = text[:40].decode(errors="replace")
            if not re.fullmatch(form, text):
                return f"has {shown!r} for its {name}"
            if shown.encode() != text[:40]:
                return f"has {shown!r} for its {name}, which is not UTF-8"
        return None


def read_ratings(
    files: Sequence[str], separator: str | None = None, bounds: tuple[float, float] | None = None
) -> tuple[Ratings, list[int]]:
    """Reads plain or gzipped files, each with or without a header, whose lines all have a timestamp or all have none.

    Args:
        files: paths.
        separator: between fields; None detects it in each file's first line.
        bounds: the smallest and the largest valid rating.

    Returns:
        The ratings, and the number of ratings in each file.

    Raises:
        UserError: naming file and line, for invalid lines and ratings out of bounds; for too many ratings.
    """
    columns, sizes = _Columns(), []
    for file in files:
        sizes.append(0)
        for block in _read_blocks(file, separator, bounds):
            columns.append(block, file, files[0])
            sizes[-1] += block.num_rows
            if sum(sizes) > MOST_RATINGS:
                raise UserError(f"the files hold more than {MOST_RATINGS:,} ratings; prepare fewer")
        if not sizes[-1]:
            raise UserError(f"{file} holds no ratings; leave it out")
    return columns.finish(), sizes


class _Columns:
    """What has been read."""

    def __init__(self) -> None:
        self._user, self._item = GrowingCodes(), GrowingCodes()
        self._rating, self._time = GrowingColumn(np.float32), GrowingColumn(np.int64)
        self._fields = 0

    def append(self, block: pa.Table, file: str, first: str) -> None:
        """Adds a block of a file; raises UserError if it has not the fields of the first."""
        self._fields = self._fields or block.num_columns
        if block.num_columns != self._fields:
            raise UserError(
                f"{file} has {block.num_columns} fields a line, but {first} has {self._fields}; "
                "all files must have timestamps, or none"
            )
        self._user.append(block["user"].chunk(0))
        self._item.append(block["item"].chunk(0))
        self._rating.append(block["rating"].to_numpy())
        if "time" in block.column_names:
            self._time.append(block["time"].to_numpy())

    def finish(self) -> Ratings:
        (user_N, users), (item_N, items) = self._user.finish(), self._item.finish()
        time_N = self._time.finish()
        if not time_N.size:
            time_N = np.zeros(user_N.size, np.int64)
        return Ratings(user_N, item_N, self._rating.finish(), time_N, users, items)


def _read_blocks(path: str, separator: str | None, bounds: tuple[float, float] | None) -> Iterator[pa.Table]:
    form: Form | None = None
    for piece in cut(path):
        before = 0
        for lines, _ in read_lines(piece, b""):
            skip = 0
            if form is None:
                form = Form.detect(path, lines[: lines.index(b"\n")], separator)
                skip = int(form.header)
            count = lines.count(b"\n") - skip
            if count:
                yield _parse(form, piece, lines, skip, before, bounds)
            before += count + skip


def _parse(
    form: Form, piece: Piece, lines: bytes, skip: int, before: int, bounds: tuple[float, float] | None
) -> pa.Table:
    """The ratings of a block, `before` lines after the start of the piece."""
    try:
        table = form.parse(lines, skip)
    except pa.ArrowInvalid as error:
        raise _first_fault(form, piece, lines, skip, before, str(error)) from None
    if any(pc.any(pc.equal(table[name].chunk(0).dictionary, "")).as_py() for name in ("user", "item")):
        raise _first_fault(form, piece, lines, skip, before, "an id is empty")
    rating_N = table["rating"].to_numpy()
    low, high = bounds or (-np.inf, np.inf)
    wrong = np.flatnonzero(~(np.isfinite(rating_N) & (rating_N >= low) & (rating_N <= high)))
    if wrong.size:
        where = f"{piece.path}, line {piece.line_number(before + skip + int(wrong[0]))}"
        allowed = f"from {low:g} to {high:g}, the --range" if bounds else "a finite number"
        raise UserError(f"{where}: rating {rating_N[wrong[0]]:g} is not {allowed}")
    return table


def _first_fault(form: Form, piece: Piece, lines: bytes, skip: int, before: int, otherwise: str) -> UserError:
    for index, line in enumerate(lines.split(b"\n")[skip:-1], start=skip):
        if fault := form.fault(line):
            return UserError(f"{piece.path}, line {piece.line_number(before + index)} {fault}")
    return UserError(f"{piece.path}: {otherwise}")
