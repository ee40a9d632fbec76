"""Events out of files, chunk by chunk, as columns of codes: 12 to 20 bytes an event, and no Python object for any.

Shapes: N events, K codes of sessions.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.prepare.sessions.codes import Codes
from dist_rec.prepare.sessions.form import Columns, Form, detect
from dist_rec.prepare.sessions.spool import Spool
from dist_rec.prepare.sessions.times import TimeColumn, Times
from dist_rec.prepare.splits import SPLITS
from dist_rec.prepare.table.chunks import Chunk, is_list, read_chunks

Ints = NDArray[np.int32]


@dataclass
class Events:
    """N events in the order of the files: those for training, then validation, then test, where files say so."""

    item_N: Ints
    """Code of the item."""
    session_N: Ints
    """Code of the session; one id in files of two splits has two. With users, (user, code) is a session."""
    user_N: Ints | None
    """Code of the user."""
    time_N: Times | None
    sizes: tuple[int, ...]
    """Events of each split's files."""
    number_K: NDArray[np.float64] | None
    """The number that is the id of each session's code: where users have no times, and all ids are numbers."""
    items: pa.Array
    """The id in the files, by code."""
    users: pa.Array | None

    def __len__(self) -> int:
        return self.item_N.size


def read_events(files: Mapping[str, Sequence[str]], columns: Columns, separator: str | None, folder: Path) -> Events:
    """Reads the files of every split.

    Args:
        files: paths by split.
        columns: which column holds what.
        separator: of CSV; None finds it in each file's first line.
        folder: on the disk where columns wait until all is read.

    Raises:
        UserError: naming file, row and column of what cannot be read, or a file that has other columns than the first.
    """
    forms = {split: [detect(path, columns, separator) for path in of_split] for split, of_split in files.items()}
    first = next(form for of_split in forms.values() for form in of_split)
    for form in (form for of_split in forms.values() for form in of_split):
        for one, other in ((first, form), (form, first)):
            if lacking := sorted(one.columns.keys() - other.columns.keys()):
                raise UserError(f"{other.path} has no column for --{lacking[0]}, but {one.path} has one")
    reader = _Lists(first, folder) if "items" in first.columns else _Singles(first, folder)
    for split in SPLITS:
        for form in forms.get(split, []):
            for chunk in read_chunks(form.path, form.source, form.wanted(), lambda size, rows: None):
                reader.add(chunk, form.columns)
        reader.end_split()
    events = reader.events()
    if not len(events):
        raise UserError(f"{first.path} holds no events: all of its lists are empty")
    pa.default_memory_pool().release_unused()
    return events


class _Reader(ABC):
    """Columns that grow."""

    def __init__(self, form: Form, folder: Path) -> None:
        self.items, self.folder = Codes("item", folder), folder
        self.users = Codes("user", folder) if "user" in form.columns else None
        self.times = TimeColumn(folder) if "time" in form.columns else None
        self.rows = 0
        self.sizes: list[int] = []

    def add(self, chunk: Chunk, columns: Mapping[str, str]) -> None:
        """Appends rows."""
        if self.users is not None:
            self.users.add(chunk, columns["user"])
        if self.times is not None:
            self.times.add(chunk, columns["time"])
        self.rows += chunk.rows

    @abstractmethod
    def end_split(self) -> None:
        """No more rows of this split come."""

    @abstractmethod
    def events(self) -> Events:
        """All that was read."""


class _Singles(_Reader):
    """A row is an event."""

    def __init__(self, form: Form, folder: Path) -> None:
        super().__init__(form, folder)
        self._named = "session" in form.columns
        self._sessions = Codes("session", folder)
        self._of_splits = Spool(folder, np.int32)
        self._known = 0
        self._numbered = self._named and self.users is not None and self.times is None
        self._values: list[pa.Array] = []

    def add(self, chunk: Chunk, columns: Mapping[str, str]) -> None:
        """Appends rows."""
        if is_list(chunk.columns[columns["item"]].type):
            raise UserError(f"{chunk.path}: column {columns['item']!r} holds lists; say --items {columns['item']}")
        super().add(chunk, columns)
        self.items.add(chunk, columns["item"])
        if self._named:
            self._sessions.add(chunk, columns["session"])

    def end_split(self) -> None:
        """Another session begins even if its id is the same."""
        self.sizes.append(self.rows - sum(self.sizes))
        if self._named:
            self._of_splits.append(self._sessions.take() + np.int32(self._known))
            self._known += len(self._sessions.values)
            if self._numbered:
                self._values.append(self._sessions.values)
            self._sessions = Codes("session", self.folder)

    def events(self) -> Events:
        """All that was read."""
        number_K = _numbers(self._values) if self._numbered else None
        self._values = []
        user_N = None if self.users is None else self.users.take()
        if self._named:
            session_N = self._of_splits.take()
        else:
            assert user_N is not None and self.users is not None
            split_N = np.repeat(np.arange(len(self.sizes), dtype=np.int32), self.sizes)
            session_N = user_N + split_N * np.int32(len(self.users.values))
        return Events(
            self.items.take(),
            session_N,
            user_N,
            None if self.times is None else self.times.take(),
            tuple(self.sizes),
            number_K,
            self.items.values,
            None if self.users is None else self.users.values,
        )


class _Lists(_Reader):
    """A row is a session."""

    def __init__(self, form: Form, folder: Path) -> None:
        super().__init__(form, folder)
        self._lengths: list[Ints] = []

    def add(self, chunk: Chunk, columns: Mapping[str, str]) -> None:
        """Appends sessions."""
        super().add(chunk, columns)
        column = columns["items"]
        items, length_R = _flat(chunk, column)
        row_N = np.repeat(np.arange(chunk.rows), length_R)
        self._lengths.append(length_R)
        self.items.add(
            Chunk(chunk.path, {column: items}, chunk.missing, lambda at: chunk.where(int(row_N[at]))), column
        )

    def end_split(self) -> None:
        """Rows are counted in events."""
        events = sum(int(length_R.sum()) for length_R in self._lengths)
        self.sizes.append(events - sum(self.sizes))

    def events(self) -> Events:
        """All that was read."""
        length_S = np.concatenate(self._lengths)
        user_S = None if self.users is None else self.users.take()
        time_S = None if self.times is None else self.times.take()
        return Events(
            self.items.take(),
            np.repeat(np.arange(length_S.size, dtype=np.int32), length_S),
            None if user_S is None else np.repeat(user_S, length_S),
            None if time_S is None else np.repeat(time_S, length_S),
            tuple(self.sizes),
            None,
            self.items.values,
            None if self.users is None else self.users.values,
        )


def _flat(chunk: Chunk, column: str) -> tuple[pa.Array, Ints]:
    """The items of lists end to end, and how many each row has; raises UserError naming a row without a list."""
    lists = chunk.columns[column]
    if not is_list(lists.type):
        raise UserError(
            f"{chunk.path}: column {column!r} holds {lists.type}, not lists; with an event a row, say --item {column} "
            "and --session"
        )
    if lists.null_count:
        row = int(lists.is_null().to_numpy(zero_copy_only=False).argmax())
        raise UserError(f"{chunk.where(row)}: {column} is missing; leave the row out, or give it an empty list")
    return lists.flatten(), np.diff(lists.value_lengths().to_numpy().cumsum(), prepend=0).astype(np.int32)


def _numbers(values: Sequence[pa.Array]) -> NDArray[np.float64] | None:
    """Ids as numbers, if all are."""
    try:
        number_K = np.concatenate([of_split.cast(pa.float64()).to_numpy() for of_split in values])
    except pa.ArrowInvalid:
        return None
    return number_K if np.isfinite(number_K).all() else None
