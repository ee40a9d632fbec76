"""Sessions of events to a prepared folder: read, sorted, filtered, split, numbered, laid out.

    files ── read ──▶ columns of codes ── sort ──▶ sessions ── filter, split ──▶ sequences ── number ──▶ rows ──▶ shards

Everything is a function of the files and the options. What is held in memory are a few numbers for each event.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest, Split, Table
from dist_rec.data.counts import Counts, save_counts
from dist_rec.data.seen import Seen, save_seen
from dist_rec.data.workers import Workers
from dist_rec.prepare.engine import Source
from dist_rec.prepare.lines import find_files
from dist_rec.prepare.ratings.ids import save_vocabulary
from dist_rec.prepare.sessions.events import read_events
from dist_rec.prepare.sessions.filter import choose
from dist_rec.prepare.sessions.form import Columns
from dist_rec.prepare.sessions.ids import Encoded, encode
from dist_rec.prepare.sessions.layout import Layout, columns
from dist_rec.prepare.sessions.options import Options
from dist_rec.prepare.sessions.order import Sessions, arrange
from dist_rec.prepare.sessions.sequences import Sequences
from dist_rec.prepare.sessions.split import (
    TRAIN,
    BySession,
    Fraction,
    Given,
    LastSession,
    LeaveOneOut,
    Splitter,
    check_files,
    must_be_filled,
)
from dist_rec.prepare.sessions.write import Tally, write_split
from dist_rec.prepare.splits import SPLITS


class Transform(Config):
    """How files became rows: `transform` of the manifest."""

    source: Literal["sessions"] = "sessions"
    options: Options
    split: dict[str, Any]
    """Name and settings of the split, see `dist_rec.prepare.sessions.split`."""
    predictions: dict[str, int]
    """Targets of all rows of each split."""
    left_out: dict[str, int]
    """Events that are in no split, by reason."""
    vocabulary: dict[str, str]
    """Checksum of every `vocabulary/<table>.txt`: on line k the id that became row k."""
    counts: Counts
    seen: Seen | None = None
    """What each user has in training."""


@dataclass
class SessionFiles(Source[Encoded]):
    """Files of events or of lists.

    Raises:
        UserError: for options that contradict each other, and for files that are missing.
    """

    patterns: Sequence[str]
    """Files or glob patterns; of the training sessions, if others are given."""
    splitter: Splitter
    options: Options
    columns: Columns
    valid_patterns: Sequence[str] = ()
    """For split given alone, as the next."""
    test_patterns: Sequence[str] = ()
    separator: str | None = None
    """Of CSV; None finds it in each file's first line."""

    def __post_init__(self) -> None:
        check_files(self.splitter, self.valid_patterns, self.test_patterns)
        self.options = self.options.filled()
        named = {"FILES": self.patterns, "--valid": self.valid_patterns, "--test": self.test_patterns}
        self._files = {
            split: find_files(patterns, option) for split, (option, patterns) in zip(SPLITS, named.items(), strict=True)
        }
        owner: dict[Path, str] = {}
        for (option, _), files in zip(named.items(), self._files.values(), strict=True):
            for file in files:
                if (first := owner.setdefault(Path(file).resolve(), option)) != option:
                    raise UserError(f"{file} is in both {first} and {option}")
        self._left_out: dict[str, int] = {}

    def fit(self, folder: Path, pool: Workers) -> Encoded:
        """Reads, sorts, filters and splits the events, and numbers their items and users."""
        options, warn = self.options, self.warnings.append
        events = read_events(self._files, self.columns, self.separator, folder)
        items, users, timed = events.items, events.users, events.time_N is not None
        sessions, disordered = arrange(events)
        if disordered:
            warn(f"{disordered} sessions are not in the order of time in the files; they were sorted")
        if not timed and isinstance(self.splitter, LeaveOneOut | Fraction):
            warn("the files have no times: what comes last is the last in the order of the files")
        sessions, self._left_out = choose(sessions, options, isinstance(self.splitter, Given))
        self._warn_of_single(sessions, users)
        sequences = Sequences.of(sessions, self.splitter, options.merged)
        del sessions
        return encode(sequences, items, users, options.unknown, warn)

    def _warn_of_single(self, sessions: Sessions, users: Any) -> None:
        if isinstance(self.splitter, LastSession) and sessions.user_S is not None:
            single = np.flatnonzero(np.bincount(sessions.user_S) == 1)
            if single.size:
                first = f"first user {users[int(single[0])]}"
                self.warnings.append(f"{single.size} users have one session, {first}: it is for training alone")

    def write(self, fit: Encoded, folder: Path, pool: Workers) -> Manifest:
        """Writes shards, vocabularies and counts."""
        of_columns = columns(self.options, fit.user_K is not None)
        context = fit.user_K is not None and not self.options.merged and isinstance(self.splitter, BySession)
        splits: dict[str, Split] = {}
        tallies: dict[str, Tally] = {}
        for part, name in enumerate(SPLITS):
            layout = Layout(fit.sequences, fit.user_K, fit.counts_I.size, self.options, part, context)
            chosen_C, lost = layout.choose()
            tallies[name] = tally = Tally()
            split = write_split(folder, name, tally.count(layout.tables(chosen_C)), of_columns)
            if split is not None:
                splits[name] = split
            elif must_be_filled(self.splitter, part, bool(self._files[name])):
                raise UserError(self._empty(name))
            self._warn(fit, part, tally, lost)
        vocabulary = {"item": save_vocabulary(folder / "vocabulary" / "item.txt", fit.item_K, fit.items)}
        tables = {"item": Table(rows=fit.counts_I.size)}
        seen = None
        if fit.user_K is not None:
            vocabulary["user"] = save_vocabulary(folder / "vocabulary" / "user.txt", fit.user_K, fit.users)
            tables["user"] = Table(rows=int(fit.user_K.max()) + 1)
            seen = save_seen(folder, fit.sequences.training_pairs(fit.user_K, fit.counts_I.size))
        transform = Transform(
            options=self.options,
            split=self.splitter.model_dump(exclude_none=True),
            predictions={name: tally.targets for name, tally in tallies.items()},
            left_out=self._left_out,
            vocabulary=vocabulary,
            counts=save_counts(folder, fit.counts_I),
            seen=seen,
        )
        return Manifest(
            columns=of_columns, tables=tables, splits=splits, transform=transform.model_dump(exclude_none=True)
        )

    def _empty(self, split: str) -> str:
        what = "user" if self.options.merged else "session"
        hint = "give more, or choose another split or lower filters"
        if self.options.unknown == "drop" and split != SPLITS[TRAIN]:
            hint = "give more, or keep items that training never saw with --unknown miss"
        return f"--split {self.splitter.name}: no {what} with something to predict is left for {split}; {hint}"

    def _warn(self, fit: Encoded, part: int, tally: Tally, lost: int) -> None:
        """Tells what a user may not expect of a split."""
        name, warn = SPLITS[part], self.warnings.append
        if lost := lost + fit.emptied[part]:
            what = "users" if self.options.merged and fit.user_K is not None else "sessions"
            warn(f"{lost} {name} {what} have no row: nothing of them is left to predict from what comes before it")
        if part != TRAIN and tally.unknown:
            first = f"first item {fit.first_unknown}"
            warn(f"{tally.unknown} {name} targets are items that training never saw, {first}: row 0 of the table")
