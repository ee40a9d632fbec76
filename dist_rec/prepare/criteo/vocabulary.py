"""Maps 32-bit category values to rows of an embedding table: by counted vocabularies, or by hashing to buckets.

A vocabulary is fitted by an external sort. For every segment of rows, each column has one sorted *run* of (value,
count) on disk; runs are merged block by block, so memory does not grow with the data or with the distinct values.
Row 0 of a table stands for missing values and, in a vocabulary, for rare values.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.data.shards import checksum
from dist_rec.data.workers import Report
from dist_rec.prepare.criteo.tsv import hexadecimal

MERGE_ENTRIES = 1 << 18
"""Entries of all runs together that a merge holds in memory."""
FAN_IN = 256
"""Runs that are merged at once; more are first merged in groups, so that each is read in long stretches."""
SEGMENT_ROWS = 1 << 16
"""Rows that are factorized together, at most: their codes have 16 bits, and the hash table stays in the cache."""
U64 = np.uint64
MISSING = U64(1 << 32)
"""Stands for a missing value; larger than every value."""


@dataclass(frozen=True)
class Factors:
    """A column of N rows by its K distinct values."""

    values_K: NDArray[np.uint32]
    """Distinct values, ascending, without missing ones."""
    counts_K: NDArray[np.int64]
    code_N: NDArray[np.uint16]
    """Index of each row's value in the distinct values, or K if it is missing."""


def factorize(word_N: NDArray[np.uint64]) -> Factors:
    """Distinct values of a column of hexadecimal words (`Fields.word`); an empty word is a missing value.

    Most words repeat, so they are made distinct before they are parsed: to W words in order of appearance, of which
    several may be the same number.

    Raises:
        NotNumbers: if a word is not hexadecimal.
    """
    assert word_N.size <= SEGMENT_ROWS
    encoded = pa.array(word_N).dictionary_encode()
    word_W, appeared_N = encoded.dictionary.to_numpy(), encoded.indices.to_numpy()
    key_W = np.where(word_W, hexadecimal(word_W), MISSING) << U64(16)
    key_W |= np.arange(word_W.size, dtype=np.uint64)
    key_W.sort()
    value_W, appeared_W = key_W >> U64(16), key_W.astype(np.uint16)
    first_W = np.concatenate(([True], value_W[1:] != value_W[:-1]))[: value_W.size]
    rank_W = np.empty(value_W.size, np.uint16)
    rank_W[appeared_W] = first_W.cumsum() - 1
    code_N = rank_W[appeared_N]
    distinct = value_W[first_W]
    values_K = distinct[distinct != MISSING].astype(np.uint32)
    counts_K = np.bincount(code_N, minlength=values_K.size)[: values_K.size]
    return Factors(values_K, counts_K, code_N)


@dataclass(frozen=True)
class Run:
    """Entries [start, stop) of a file of 64-bit words `value << 32 | count`, ascending."""

    path: Path
    start: int
    stop: int

    def read(self, start: int, count: int) -> NDArray[np.uint64]:
        """The `count` entries from `start` on."""
        return np.fromfile(self.path, np.uint64, count, offset=start * 8)

    def values(self) -> NDArray[np.uint32]:
        """All values."""
        return (self.read(self.start, self.stop - self.start) >> U64(32)).astype(np.uint32)


def pack(values: NDArray[np.uint32], counts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The entries of a run."""
    # Counts are clipped to 32 bits, which affects only the order of ids.
    return values.astype(np.uint64) << U64(32) | np.minimum(counts, 0xFFFFFFFF).astype(np.uint64)


def merge(runs: list[Run], entries: int = MERGE_ENTRIES) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int64]]]:
    """Merges runs to blocks of distinct ascending values with their total counts; holds about `entries` in memory."""
    each = max(entries // max(len(runs), 1), 1)
    cursors = [_Cursor(run) for run in runs if run.start < run.stop]
    while cursors:
        for cursor in cursors:
            cursor.fill(each)
        # Entries up to the smallest last entry of the runs that go on are complete.
        bound = min((cursor.held[-1] | U64(0xFFFFFFFF) for cursor in cursors if cursor.unread), default=~U64(0))
        packed = np.concatenate([cursor.take(bound) for cursor in cursors])
        packed.sort()
        cursors = [cursor for cursor in cursors if cursor.unread or cursor.held.size]
        value = (packed >> U64(32)).astype(np.uint32)
        starts = np.flatnonzero(np.concatenate(([True], value[1:] != value[:-1])))
        yield value[starts], np.add.reduceat((packed & U64(0xFFFFFFFF)).astype(np.int64), starts)


class _Cursor:
    def __init__(self, run: Run) -> None:
        self.run, self.position = run, run.start
        self.held = np.empty(0, np.uint64)

    @property
    def unread(self) -> int:
        return self.run.stop - self.position

    def fill(self, entries: int) -> None:
        count = min(entries - self.held.size, self.unread)
        if count > 0:
            self.held = np.concatenate((self.held, self.run.read(self.position, count)))
            self.position += count

    def take(self, bound: np.uint64) -> NDArray[np.uint64]:
        cut = int(np.searchsorted(self.held, bound, side="right"))
        taken, self.held = self.held[:cut], self.held[cut:]
        return taken


@dataclass(frozen=True)
class FitColumn:
    """Merges the runs of a column to its vocabulary."""

    runs: list[Run]
    min_count: int
    path: Path

    def run(self, report: Report) -> str:
        """Returns the checksum of the vocabulary."""
        fit(self.runs, self.min_count, self.path)
        entries = sum(run.stop - run.start for run in self.runs)
        report(entries, entries)
        return checksum(self.path)


def fit(runs: list[Run], min_count: int, path: Path, entries: int = MERGE_ENTRIES, fan_in: int = FAN_IN) -> None:
    """Writes the vocabulary of a column: values seen at least `min_count` times, with ids by descending count, value.

    Ids are assigned by a counting sort: the values stay in ascending order on disk, and every count has its next id.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        scratch = Path(name)
        while len(runs) > fan_in:
            groups = [runs[start : start + fan_in] for start in range(0, len(runs), fan_in)]
            runs = [_merge_to_disk(group, scratch / f"{len(groups)}-{i}", entries) for i, group in enumerate(groups)]
        levels = _keep_frequent(merge(runs, entries), min_count, scratch)
        with path.open("wb") as file:
            header = {"descr": "<u4", "fortran_order": False, "shape": (2, sum(levels.values()))}
            np.lib.format.write_array_header_1_0(file, header)
            for values in _read_blocks(scratch / "values", np.dtype(np.uint32), entries):
                values.tofile(file)
            for ids in _ids_by_count(_read_blocks(scratch / "counts", np.dtype(np.int64), entries), levels):
                ids.astype(np.uint32).tofile(file)


def _merge_to_disk(runs: list[Run], path: Path, entries: int) -> Run:
    size = 0
    with path.open("wb") as file:
        for values, counts in merge(runs, entries):
            pack(values, counts).tofile(file)
            size += values.size
    return Run(path, 0, size)


def _keep_frequent(
    merged: Iterator[tuple[NDArray[np.uint32], NDArray[np.int64]]], min_count: int, folder: Path
) -> dict[int, int]:
    """Writes the frequent values, ascending, and their counts; returns the number of values of each count."""
    levels: Counter[int] = Counter()
    with (folder / "values").open("wb") as values_file, (folder / "counts").open("wb") as counts_file:
        for values, counts in merged:
            kept = counts >= min_count
            values[kept].tofile(values_file)
            counts[kept].tofile(counts_file)
            level, size = np.unique(counts[kept], return_counts=True)
            levels.update(dict(zip(level.tolist(), size.tolist(), strict=True)))
    return levels


def _read_blocks(path: Path, dtype: np.dtype, entries: int) -> Iterator[NDArray]:
    with path.open("rb") as file:
        while (block := np.fromfile(file, dtype, entries)).size:
            yield block


def _ids_by_count(blocks: Iterator[NDArray[np.int64]], levels: dict[int, int]) -> Iterator[NDArray[np.int64]]:
    """The ids of values, from blocks of their counts; `levels` has the number of values of each count."""
    level_L = np.array(sorted(levels), np.int64)
    sizes_L = np.array([levels[level] for level in level_L], np.int64)
    next_L = 1 + sizes_L[::-1].cumsum()[::-1] - sizes_L
    for counts in blocks:
        level = np.searchsorted(level_L, counts)
        order = np.argsort(level, kind="stable")
        ordered = level[order]
        ids = np.empty_like(counts)
        ids[order] = next_L[ordered] + np.arange(counts.size) - np.searchsorted(ordered, ordered)
        next_L += np.bincount(level, minlength=level_L.size)
        yield ids


class Vocabulary:
    """The ids of a fitted column, looked up on disk: a file of ascending values and the id of each.

    Raises:
        UserError: if the file is missing or is not an array of two rows.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.values, self.ids = np.load(path, mmap_mode="r")
        except (OSError, ValueError):
            raise UserError(f"{path} is missing or damaged; prepare the data again") from None

    @property
    def rows(self) -> int:
        """Rows of the embedding table."""
        return self.values.size + 1

    def rows_of(self, values_K: NDArray[np.uint32]) -> NDArray[np.int32]:
        """The row of each of K ascending values, 0 if it is unknown, then row 0 for missing values, (K + 1,)."""
        row_K1 = np.zeros(values_K.size + 1, np.int32)
        if self.values.size:
            place = np.minimum(np.searchsorted(self.values, values_K), self.values.size - 1)
            row_K1[:-1] = np.where(self.values[place] == values_K, self.ids[place], 0)
        return row_K1


def bucket(values_K: NDArray[np.uint32], buckets: int) -> NDArray[np.int32]:
    """The row of each of K values, hashed to 1 … `buckets`, then row 0 for missing values, (K + 1,).

    The hash is MurmurHash3's 32-bit finalizer, then multiply and shift (Lemire 2019).
    """
    hashed = values_K ^ (values_K >> np.uint32(16))
    hashed *= np.uint32(0x85EBCA6B)
    hashed ^= hashed >> np.uint32(13)
    hashed *= np.uint32(0xC2B2AE35)
    hashed ^= hashed >> np.uint32(16)
    row_K1 = np.zeros(values_K.size + 1, np.int32)
    row_K1[:-1] = 1 + (hashed.astype(np.uint64) * U64(buckets) >> U64(32))
    return row_K1
