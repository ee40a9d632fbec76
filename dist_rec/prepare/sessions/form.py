"""Which columns of a file hold sessions, items, times and users: by name, by their usual names, or by number."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.prepare.lines import cut, read_lines
from dist_rec.prepare.table.schema import Source

PARQUET_MAGIC = b"PAR1"
SEPARATORS = ("\t", ",", ";", "|", " ")
"""In the order in which they are tried."""
USUAL = {
    "items": ("items",),
    "item": ("item", "item_id", "itemid"),
    "user": ("user", "user_id", "userid", "visitorid", "uid"),
    "session": ("session", "session_id", "sessionid", "basket", "basket_id"),
    "time": ("time", "timestamp", "ts"),
}
"""Names, in small letters, by which columns are found where none is given."""


class Columns(Config):
    """Which column holds what; None finds it by its usual names. In text without a header, numbers from 1."""

    session: str | None = None
    """The session or basket of an event; without it all events of a user are one."""
    item: str | None = None
    """The item of an event."""
    time: str | None = None
    """When the event, or the session of a list, was."""
    user: str | None = None
    """Whose it was."""
    items: str | None = None
    """Lists of items, each a whole session."""

    def named(self) -> dict[str, str]:
        """Those that are given."""
        return {role: name for role, name in self.model_dump().items() if name is not None}


@dataclass(frozen=True)
class Form:
    """How a file is to be read."""

    path: str
    source: Source
    columns: Mapping[str, str]
    """The column of each role that the file has: items, or item with session or user; maybe time."""

    def wanted(self) -> dict[str, str]:
        """The columns to read, and the option that chooses each."""
        return {column: f"--{role}" for role, column in self.columns.items()}


def detect(path: str, columns: Columns, separator: str | None) -> Form:
    """Looks at the beginning of a file.

    Args:
        path: CSV, plain or gzipped, or Parquet; known by its first bytes.
        columns: what is known of them.
        separator: of CSV; None tries tab, comma, semicolon, bar and space.

    Raises:
        UserError: if the file is missing, empty or damaged, or a column is not found.
    """
    cut(path)  # says so of a file that is missing or empty
    with Path(path).open("rb") as file:
        is_parquet = file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    if is_parquet:
        return Form(path, Source(format="parquet"), _match(path, _parquet_names(path), columns))
    line = _first_line(path)
    if (named := columns.named()) and all(column.isdecimal() for column in named.values()):
        return _without_header(path, line, named, separator)
    fields = max((_split(line, of) for of in _separators(separator)), key=lambda fields: _likeness(fields, columns))
    chosen = next(of for of in _separators(separator) if _split(line, of) == fields)
    return Form(path, Source(separator=chosen), _match(path, fields, columns))


def _parquet_names(path: str) -> list[str]:
    try:
        return pq.read_schema(path).names
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is no readable Parquet file: {str(error).splitlines()[0]}") from None


def _first_line(path: str) -> str:
    for piece in cut(path):
        for lines, _ in read_lines(piece, b""):
            line, _, _ = lines.lstrip(b"\n").partition(b"\n")
            try:
                return line.decode()
            except UnicodeDecodeError:
                raise UserError(f"{path}, line 1 is not UTF-8 text") from None
    raise UserError(f"{path} is empty")


def _separators(given: str | None) -> Sequence[str]:
    if given is not None and len(given) != 1:
        raise UserError(f"--separator {given!r} must be one character")
    return [given] if given else SEPARATORS


def _split(line: str, separator: str) -> list[str]:
    return [field.strip() for field in next(csv.reader([line], delimiter=separator), [""])]


def _likeness(fields: Sequence[str], columns: Columns) -> tuple[int, int]:
    """How many roles the fields of a header have, and how many fields they are."""
    wanted = {*columns.named().values()} | {name for names in USUAL.values() for name in names}
    return sum(field in wanted or field.lower() in wanted for field in fields), len(fields)


def _without_header(path: str, line: str, named: Mapping[str, str], separator: str | None) -> Form:
    """Columns by number, from 1; the separator is the first that gives as many fields."""
    most = max(map(int, named.values()))
    for candidate in _separators(separator):
        fields = _split(line, candidate)
        if len(fields) >= most:
            if _likeness(fields, Columns())[0]:
                raise UserError(f"{path} begins with a header, {', '.join(fields)}; name columns, not numbers")
            names = tuple(str(number) for number in range(1, len(fields) + 1))
            return Form(path, Source(separator=candidate, header=False, names=names), _match(path, names, named))
    raise UserError(f"{path}, line 1 has no column {most} by tab, comma, ';', '|' or space; see --separator")


def _match(path: str, names: Sequence[str], columns: Columns | Mapping[str, str]) -> dict[str, str]:
    """The column of every role that is found."""
    named = columns.named() if isinstance(columns, Columns) else columns
    has = f"{path} has the columns {', '.join(names)}"
    for role, name in named.items():
        if name not in names:
            raise UserError(f"{path} has no column {name!r} for --{role}; it has {', '.join(names)}")
    found = {**named} if isinstance(columns, Mapping) else {**_usual(names, named), **named}
    if "items" in found:
        if both := {"item", "session"} & named.keys():
            raise UserError(f"--items is a whole session a row; --{min(both)} is not for it")
        return {role: name for role, name in found.items() if role not in ("item", "session")}
    if "item" not in found:
        raise UserError(f"{has}, and none is usual for items; say --item NAME, or numbers if that is no header")
    if "session" not in found and "user" not in found:
        raise UserError(f"{has}, and none is usual for sessions or users; say --session NAME or --user NAME")
    return found


def _usual(names: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """Columns with usual names, for roles that are not given; lists only where nothing is said of single items."""
    found: dict[str, str] = {}
    for role, usual in USUAL.items():
        matches = [name for name in names if name.lower() in usual and name not in named.values()]
        if matches and not (role == "items" and {"item", "session"} & named.keys()):
            found[role] = matches[0]
    if "items" in named:
        found.pop("item", None)
    return found
