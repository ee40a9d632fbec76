"""Reads CSV or Parquet files as chunks of columns, and keeps the place of every row for messages.

Shapes: N rows of a chunk.
"""

import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.data.workers import Report
from dist_rec.prepare.ids import id_text, is_number, is_text
from dist_rec.prepare.lines import Piece, read_lines
from dist_rec.prepare.table.schema import Source

PARQUET_ROWS = 1 << 15
ODD_QUOTES = rb'(?m)^[^"\n]*"([^"\n]*"[^"\n]*")*[^"\n]*$'


def is_list(of: pa.DataType) -> bool:
    """Whether a column holds several values a row."""
    return pa.types.is_list(of) or pa.types.is_large_list(of) or pa.types.is_fixed_size_list(of)


@dataclass(frozen=True)
class Chunk:
    """Columns of N rows of a file."""

    path: str
    columns: Mapping[str, pa.Array]
    """Columns in the types of the file; text for CSV."""
    missing: pa.Array
    """Texts that stand for a missing value."""
    where: Callable[[int], str]
    """(row, from 0 in this chunk) → its file and line or row."""

    @property
    def rows(self) -> int:
        """N."""
        return len(next(iter(self.columns.values())))

    def filter(self, kept_N: NDArray[np.bool_]) -> "Chunk":
        """The rows in `kept_N`."""
        mask, rows = pa.array(kept_N), np.flatnonzero(kept_N)
        columns = {name: column.filter(mask) for name, column in self.columns.items()}
        return Chunk(self.path, columns, self.missing, lambda row: self.where(int(rows[row])))

    def numbers(self, column: str) -> NDArray[np.float64]:
        """A column of numbers, NaN if missing, (N,).

        Raises:
            UserError: naming the row of a value that is not a finite number, or the type of a column without numbers.
        """
        values = self._plain(column)
        if is_text(values.type):
            values = _without(pc.utf8_trim_whitespace(values.cast(pa.string())), self.missing)
        elif not is_number(values.type):
            raise UserError(f"{self.path}: column {column!r} holds {values.type}, not numbers")
        try:
            number_N = values.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            raise self._no_number(column, values, next(filter(_is_no_number, values.unique()))) from None
        if np.isinf(number_N).any():
            raise self._no_number(column, values, values[int(np.isinf(number_N).argmax())])
        return number_N

    def _no_number(self, column: str, values: pa.Array, value: pa.Scalar) -> UserError:
        where = self.where(values.index(value).as_py())
        return UserError(f"{where}: {column} is {str(value)[:40]!r}, not a finite number")

    def text(self, column: str) -> pa.StringArray:
        """A column of values as text, null if missing, (N,).

        Raises:
            UserError: naming the type of a column whose values cannot be ids.
        """
        values = self._plain(column)
        if is_list(values.type):
            raise UserError(f"{self.path}: column {column!r} holds {values.type}; read it as a bag or a sequence")
        return self._text(values, column)

    def lists(self, column: str, separator: str) -> tuple[pa.StringArray, NDArray[np.int64]]:
        """The values of all rows end to end, and their number in each row, (N,); missing and empty ones are left out.

        A column of text is split at `separator`, which is empty for a column of lists; between commas or spaces, text
        in brackets is a list in JSON.

        Raises:
            UserError: if a separator is given for lists, or none for text; naming a row of brackets without JSON.
        """
        values = self._plain(column)
        if is_list(values.type) == bool(separator):
            remedy = "remove its separator" if separator else "give it a separator"
            raise UserError(f"{self.path}: column {column!r} holds {values.type}; {remedy}")
        if separator:
            values = self._split(self._text(values, column), separator, column)
        length_N = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        text = self._text(values.flatten(), column)
        present = pc.and_(text.is_valid(), pc.fill_null(pc.not_equal(text, ""), False))
        row = np.repeat(np.arange(len(values)), length_N)[present.to_numpy(zero_copy_only=False)]
        return text.filter(present), np.bincount(row, minlength=len(values))

    def _split(self, text: pa.StringArray, separator: str, column: str) -> pa.ListArray:
        values = pc.split_pattern(text, separator)
        brackets = pc.and_(pc.starts_with(text, "["), pc.ends_with(text, "]")).fill_null(False)
        if separator.strip() not in ("", ",") or not pc.any(brackets).as_py():
            return values
        rows = values.to_pylist()
        for row in pc.indices_nonzero(brackets).to_pylist():
            rows[row] = self._json(text[row].as_py(), column, row)
        return pa.array(rows, pa.list_(pa.string()))

    def _json(self, text: str, column: str, row: int) -> list[str | None]:
        """The values of a list in JSON."""
        try:
            values = json.loads(text)
            if not isinstance(values, list):
                raise ValueError
            return [_id_in_json(value) for value in values]
        except (ValueError, TypeError, OverflowError, RecursionError):
            what = f"{text[:40]!r}, brackets without a list of numbers or text in JSON"
            raise UserError(f"{self.where(row)}: {column} is {what}; write [1, 2], or 1, 2") from None

    def _plain(self, column: str) -> pa.Array:
        values = self.columns[column]
        if pa.types.is_null(values.type):
            return values.cast(pa.string())
        return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values

    def _text(self, values: pa.Array, column: str) -> pa.StringArray:
        text = id_text(values)
        if text is None:
            raise UserError(f"{self.path}: column {column!r} holds {values.type}, which cannot be ids; convert it")
        return _without(text, id_text(self.missing))


def _without(text: pa.StringArray, missing: pa.Array) -> pa.StringArray:
    return pc.if_else(pc.is_in(text, missing), None, text)


def _id_in_json(value: Any) -> str | None:
    """The text of a value; raises TypeError or OverflowError for what no column of ids could hold."""
    match value:
        case None | str():
            return value
        case int() if -(1 << 63) <= value < 1 << 64:
            return str(int(value))
        case int():
            raise OverflowError
        case float():
            text = id_text(pa.array([value], pa.float64()))
            assert text is not None
            return text[0].as_py()
        case _:
            raise TypeError


def _is_no_number(text: pa.Scalar) -> bool:
    try:
        text.cast(pa.float64())
    except pa.ArrowInvalid:
        return True
    return False


def read_chunks(path: str, source: Source, columns: Mapping[str, str], report: Report) -> Iterator[Chunk]:
    """The rows of a file; `columns` maps each column to the section of the schema that reads it.

    Raises:
        UserError: naming the file, and the invalid line or column.
    """
    rows = 0
    read = _read_csv if source.format == "csv" else _read_parquet
    for chunk, size in read(path, source, columns):
        yield chunk
        rows += chunk.rows
        report(size, chunk.rows)
    if not rows:
        raise UserError(f"{path} holds no rows; leave it out")


def _require(path: str, columns: Mapping[str, str], present: Collection[str]) -> None:
    for column, section in columns.items():
        if column not in present:
            raise UserError(f"{path} has no column {column!r}, which [{section}] reads; it has {', '.join(present)}")
        if [*present].count(column) > 1:
            raise UserError(f"{path} has the column {column!r} twice; rename one")


def _read_parquet(path: str, source: Source, columns: Mapping[str, str]) -> Iterator[tuple[Chunk, int]]:
    missing, rows, size = pa.array(source.missing, pa.string()), 0, Path(path).stat().st_size
    try:
        with pq.ParquetFile(path) as file:
            _require(path, columns, file.schema_arrow.names)
            for batch in file.iter_batches(PARQUET_ROWS, columns=list(columns)):
                arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
                done = size * batch.num_rows // file.metadata.num_rows
                yield Chunk(path, arrays, missing, partial(_row, path, rows)), done
                rows += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None


def _row(path: str, rows_before: int, row: int) -> str:
    return f"{path}, row {rows_before + row + 1}"


def _read_csv(path: str, source: Source, columns: Mapping[str, str]) -> Iterator[tuple[Chunk, int]]:
    missing, names = pa.array(source.missing, pa.string()), list(source.names)
    lines_before = 0
    if names:
        _require(path, columns, names)
    for data, size in read_lines(Piece(path, 0, Path(path).stat().st_size), b""):
        block = _Block(path, data, lines_before, source)
        lines_before += data.count(b"\n")
        if block.lines and not names:
            names = block.take_header()
            _require(path, columns, names)
        if block.lines:
            table = block.parse(names, list(columns))
            arrays = {name: table[name].combine_chunks() for name in columns}
            yield Chunk(path, arrays, missing, block.where), size


class _Block:
    """Whole lines of a CSV file."""

    def __init__(self, path: str, data: bytes, lines_before: int, source: Source) -> None:
        self._path, self._data, self._lines_before, self._source = path, data, lines_before, source
        if b"\r" in data:
            raise self._wrong(rb"\r", "has a carriage return, but lines end with \\n or \\r\\n; convert the file")
        self._skip = max(source.skip_lines - lines_before, 0)
        self._headers = 0
        self.lines = self._rows_of(data)

    def _rows_of(self, data: bytes) -> bytes:
        """The lines of rows and of the header."""
        for _ in range(self._skip):
            data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
        if self._source.comment:
            data = re.sub(rb"(?m)^" + re.escape(self._source.comment.encode()) + rb".*\n", b"", data)
        return data.lstrip(b"\n")

    def take_header(self) -> list[str]:
        """Removes the first line, and returns its names."""
        header, _, rows = self.lines.partition(b"\n")
        self.lines = rows.lstrip(b"\n")
        self._headers = 1
        # Arrow names the columns f0, f1, …
        types = {f"f{column}": pa.string() for column in range(len(header))}
        options = csv.ConvertOptions(column_types=types)
        names = self._read(header + b"\n", csv.ReadOptions(autogenerate_column_names=True), options)
        found = [column[0].as_py().strip() for column in names.columns]
        for name in found:
            if found.count(name) > 1:
                raise UserError(f"{self._path}: the header has the column {name!r} twice; rename one")
        return found

    def parse(self, names: list[str], columns: list[str]) -> pa.Table:
        """Some of the columns, as text."""
        types = {name: pa.string() for name in columns}
        options = csv.ConvertOptions(column_types=types, include_columns=columns, strings_can_be_null=False)
        table = self._read(self.lines, csv.ReadOptions(column_names=names), options)
        # Arrow takes line breaks after a quote as part of the value.
        if table.num_rows < self.lines.count(b"\n") and table.num_rows < len(re.findall(rb"(?m)^[^\n]", self.lines)):
            raise self._unclosed()
        return table

    def _read(self, lines: bytes, read: csv.ReadOptions, convert: csv.ConvertOptions) -> pa.Table:
        wrong: list[csv.InvalidRow] = []

        def refuse(row: csv.InvalidRow) -> str:
            wrong.append(row)
            return "skip"

        read.use_threads, read.block_size = False, len(lines) + 1
        parse = csv.ParseOptions(delimiter=self._source.delimiter, invalid_row_handler=refuse)
        try:
            table = csv.read_csv(io.BytesIO(lines), read, parse, convert)
        except pa.ArrowInvalid as error:
            raise self._unreadable(error) from None
        if wrong:
            row = wrong[0]
            if "\n" in row.text:
                raise self._unclosed()
            number = self._data.split(b"\n").index(row.text.splitlines()[0].encode()) + self._lines_before + 1
            expected, found = row.expected_columns, row.actual_columns
            raise UserError(
                f"{self._path}, line {number} has {found} fields between {self._source.separator!r}, not {expected}"
            )
        return table

    def _unclosed(self) -> UserError:
        return self._wrong(ODD_QUOTES, "has a quote that is not closed in the same line")

    def _wrong(self, pattern: bytes, what: str) -> UserError:
        """The error for the first line that matches a pattern."""
        found = re.search(pattern, self._data)
        line = self._lines_before + self._data.count(b"\n", 0, found.start() if found else 0) + 1
        return UserError(f"{self._path}, line {line} {what}")

    def _unreadable(self, error: pa.ArrowInvalid) -> UserError:
        first = last = self._lines_before
        for line in self._data.splitlines():
            last += 1
            try:
                line.decode()
            except UnicodeDecodeError:
                return UserError(f"{self._path}, line {last} is not UTF-8; convert the file")
        return UserError(f"{self._path}, lines {first + 1} to {last}: {str(error).splitlines()[0]}")

    def where(self, row: int) -> str:
        """File and line of a row."""
        comment = self._source.comment.encode()
        lines = enumerate(self._data.split(b"\n"))
        kept = [at for at, line in lines if at >= self._skip and line and not (comment and line.startswith(comment))]
        return f"{self._path}, line {self._lines_before + kept[self._headers + row] + 1}"
