"""Times of events as numbers that can be compared: integers, floats, dates, or any of them as text.

Shapes: N events.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.prepare.sessions.spool import Spool
from dist_rec.prepare.table.chunks import Chunk

DAY_SECONDS = 24 * 60 * 60
UNITS = ((1e11, 1), (1e14, 10**3), (1e17, 10**6), (np.inf, 10**9))
"""Seconds, milliseconds, microseconds, nanoseconds since 1970: which of them a number is, is known by its size."""
Times = NDArray[Any]
"""int64 or float64: as in the files, or nanoseconds since 1970 of dates."""


def day_of(time_S: Times) -> float:
    """How much a day is: 86,400 if all are below 10^11 (seconds), 1,000 times that below 10^14, and so on."""
    largest = float(np.abs(time_S).max(initial=0))
    return DAY_SECONDS * next(per_second for bound, per_second in UNITS if largest < bound)


class TimeColumn:
    """Grows chunk by chunk, on disk.

    Args:
        folder: on the disk to use.
    """

    def __init__(self, folder: Path) -> None:
        self._integers = Spool(folder, np.int64)
        """The bits of floats where a chunk has them."""
        self._sizes: list[tuple[int, bool]] = []
        self._first: tuple[str, bool] | None = None

    def add(self, chunk: Chunk, column: str) -> None:
        """Appends a column.

        Raises:
            UserError: naming the row of what is missing or no time, or files of which some have dates, others numbers.
        """
        values = chunk.columns[column]
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            values = pc.utf8_trim_whitespace(values)
        try:
            parsed = _parse(values)
        except pa.ArrowInvalid:
            raise _fault(chunk, values) from None
        if parsed is None:
            raise UserError(f"{chunk.path}: column {column!r} holds {values.type}, which is no time")
        time_N, dates = parsed
        path, of_first = self._first = self._first or (chunk.path, dates)
        if of_first != dates:
            raise UserError(f"{chunk.where(0)} has a {_kind(dates)} for its time, but {path} has {_kind(of_first)}s")
        is_float = time_N.dtype == np.float64
        self._integers.append(time_N.view(np.int64))
        self._sizes.append((time_N.size, is_float))

    def take(self) -> Times:
        """All of them, (N,)."""
        integer_N = self._integers.take()
        if not any(is_float for _, is_float in self._sizes):
            return integer_N
        float_N, start = integer_N.view(np.float64), 0
        for size, is_float in self._sizes:
            if not is_float:
                float_N[start : start + size] = integer_N[start : start + size]
            start += size
        return float_N


def _kind(dates: bool) -> str:
    return "date" if dates else "number"


def _parse(values: pa.Array) -> tuple[Times, bool] | None:
    """The times, and whether they are dates; None for a type that holds none.

    Raises:
        pa.ArrowInvalid: if one is missing or unreadable.
    """
    of = values.type
    if values.null_count:
        raise pa.ArrowInvalid("missing")
    if pa.types.is_timestamp(of) or pa.types.is_date(of):
        return _nanoseconds(values), True
    if pa.types.is_integer(of):
        return values.cast(pa.int64()).to_numpy(), False
    if pa.types.is_floating(of) or pa.types.is_decimal(of):
        return _finite(values), False
    return _parse_text(values) if pa.types.is_string(of) or pa.types.is_large_string(of) else None


def _parse_text(values: pa.Array) -> tuple[Times, bool]:
    readers: list[tuple[Callable[[pa.Array], Times], bool]] = [
        (lambda text: text.cast(pa.int64()).to_numpy(), False),
        (_finite, False),
        (lambda text: _nanoseconds(text.cast(pa.timestamp("ns"))), True),
        (lambda text: _nanoseconds(text.cast(pa.timestamp("ns", "UTC"))), True),
    ]
    for read, dates in readers[:-1]:
        try:
            return read(values), dates
        except pa.ArrowInvalid:
            continue
    return readers[-1][0](values), True


def _finite(values: pa.Array) -> NDArray[np.float64]:
    number_N = values.cast(pa.float64()).to_numpy()
    if not np.isfinite(number_N).all():
        raise pa.ArrowInvalid("not finite")
    return number_N


def _nanoseconds(values: pa.Array) -> NDArray[np.int64]:
    zone = getattr(values.type, "tz", None)
    return values.cast(pa.timestamp("ns", zone)).cast(pa.int64()).to_numpy()


def _fault(chunk: Chunk, values: pa.Array) -> UserError:
    """Names the first value that cannot be read, or is of another form than those before it."""
    for row in range(len(values)):
        try:
            _parse(values[: row + 1] if row < 2 else pa.concat_arrays([values[:1], values[row : row + 1]]))
        except pa.ArrowInvalid:
            shown = "missing" if not values[row].is_valid else f"{str(values[row])[:40]!r}, which is no time"
            hint = "give numbers, or dates such as 2014-04-07T10:51:09, of one form"
            return UserError(f"{chunk.where(row)}: the time is {shown}; {hint}")
    return UserError(f"{chunk.path}: its times are of several forms; give numbers, or dates, of one form")
