"""Criteo's click logs (Kaggle and Terabyte): label, 13 integers and 26 categories a line, to a prepared folder.

    train lines ── parse ──▶ spool + runs ── merge ──▶ 26 vocabularies ── encode ──▶ shards
    valid, test lines ──────────────── parse ───────────────────────────── encode ──▶ shards

Text is parsed once. Work is cut by the input alone, so the bytes written do not depend on the number of processes.

Shapes: N rows of a segment, 13 integers and 26 categories a row.
"""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Column, Manifest, Shard, Split, Table
from dist_rec.data.prepare.criteo_rows import CATEGORICAL, DENSE, Rows, read_rows
from dist_rec.data.prepare.lines import Piece, cut
from dist_rec.data.prepare.prepared import Prepared, copy_fit, find_splits
from dist_rec.data.prepare.vocabulary import Run, Vocabulary, bucket, checksum, fit, pack
from dist_rec.data.shards import Dataset, ShardWriter, arrow_schema, new_folder
from dist_rec.data.workers import Report, Workers, available_cpus

COLUMNS = (
    Column(name="label", kind="label"),
    *(Column(name=name, kind="dense") for name in DENSE),
    *(Column(name=name, kind="categorical", table=name) for name in CATEGORICAL),
)
SCHEMA = arrow_schema(COLUMNS)
SHARD_SEGMENTS = 16
"""Segments of rows in a shard: about a million rows, 170 MB."""
BYTES_A_WORKER = 1 << 20
"""Of input; with less, the start of another process costs more than it gains."""


class Transform(Config):
    """How lines became numbers and ids: `transform` of the manifest."""

    source: Literal["criteo"] = "criteo"
    dense: Literal["log1p(max(x, 0)), missing = 0"] = "log1p(max(x, 0)), missing = 0"
    min_count: int | None = None
    """With vocabularies: values seen less often in the training files are unknown, row 0. Missing is row 0 too."""
    vocabulary: dict[str, str] = {}
    """Checksum of every `vocabulary/<table>.npy`: values in ascending order, and the row of each."""
    buckets: int | None = None
    """With hashing: rows 1 to this many; missing is row 0."""


@dataclass(frozen=True)
class Spooled:
    """A segment on disk whose categories are factorized."""

    path: Path
    """label_N, dense_IN and code_CN, one after the other in the form of `numpy.save`."""
    runs: Path
    offsets: tuple[int, ...]
    """Where the run of each column begins, and where the last one ends."""

    def run_of(self, column: int) -> Run:
        """The distinct values of a column and their counts."""
        return Run(self.runs, self.offsets[column], self.offsets[column + 1])


@dataclass(frozen=True)
class Spool:
    """Parses training lines once: into segments for the encoding and runs for the counting."""

    piece: Piece
    prefix: Path

    def run(self, report: Report) -> list[Spooled]:
        """Writes the segments."""
        return [self._save(number, rows) for number, rows in enumerate(read_rows(self.piece, report))]

    def _save(self, number: int, rows: Rows) -> Spooled:
        path = self.prefix.with_name(f"{self.prefix.name}-{number:03}.npy")
        runs = path.with_suffix(".runs")
        with runs.open("wb") as file:
            for factors in rows.factors_C:
                pack(factors).tofile(file)
        with path.open("wb") as file:
            for array in (rows.label_N, rows.dense_IN, np.stack([factors.code_N for factors in rows.factors_C])):
                np.save(file, array)
        return Spooled(path, runs, (0, *accumulate(factors.values_K.size for factors in rows.factors_C)))


@dataclass(frozen=True)
class FitColumn:
    """Merges the runs of a column into its vocabulary."""

    segments: list[Spooled]
    column: int
    min_count: int
    path: Path

    def run(self, report: Report) -> str:
        """The checksum of the vocabulary."""
        runs = [segment.run_of(self.column) for segment in self.segments]
        fit(runs, self.min_count, self.path)
        entries = sum(run.stop - run.start for run in runs)
        report(entries, entries)
        return checksum(self.path)


@dataclass(frozen=True)
class Encoded:
    """A shard that was written."""

    shard: Shard
    clicks: int
    positive_I: NDArray[np.bool_]
    """Whether an integer is above 0 in any row."""


@dataclass(frozen=True)
class EncodeSpooled:
    """Writes spooled segments as one shard, and removes them."""

    segments: list[Spooled]
    folder: Path
    shard: str

    def run(self, report: Report) -> list[Encoded]:
        """The shard, in a list of its own."""
        vocabularies = _vocabularies(self.folder)
        tables = (self._table(segment, vocabularies, report) for segment in self.segments)
        return [_write(self.folder, self.shard, tables)]

    @staticmethod
    def _table(segment: Spooled, vocabularies: list[Vocabulary], report: Report) -> pa.Table:
        size = segment.path.stat().st_size
        with segment.path.open("rb") as file:
            label_N, dense_IN, code_CN = (np.load(file) for _ in range(3))
        segment.path.unlink()
        columns = enumerate(zip(vocabularies, code_CN, strict=True))
        ids = [vocabulary.rows_of(segment.run_of(column).values())[code_N] for column, (vocabulary, code_N) in columns]
        report(size, label_N.size)
        return _table(label_N, dense_IN, ids)


@dataclass(frozen=True)
class EncodeLines:
    """Writes lines as shards, in one pass."""

    piece: Piece
    folder: Path
    prefix: str
    buckets: int | None

    def run(self, report: Report) -> list[Encoded]:
        """The shards."""
        vocabularies = [] if self.buckets else _vocabularies(self.folder)
        segments = read_rows(self.piece, report)
        tables = (_table(rows.label_N, rows.dense_IN, self._ids(rows, vocabularies)) for rows in segments)
        return [
            _write(self.folder, f"{self.prefix}-{number:03}.arrows", chain([first], islice(tables, SHARD_SEGMENTS - 1)))
            for number, first in enumerate(tables)
        ]

    def _ids(self, rows: Rows, vocabularies: list[Vocabulary]) -> list[NDArray[np.int32]]:
        if self.buckets:
            return [bucket(factors.values_K, self.buckets)[factors.code_N] for factors in rows.factors_C]
        columns = zip(vocabularies, rows.factors_C, strict=True)
        return [vocabulary.rows_of(factors.values_K)[factors.code_N] for vocabulary, factors in columns]


def _table(label_N: NDArray[np.float32], dense_IN: NDArray[np.float32], ids: list[NDArray[np.int32]]) -> pa.Table:
    return pa.Table.from_arrays([pa.array(column) for column in (label_N, *dense_IN, *ids)], schema=SCHEMA)


def _write(folder: Path, shard: str, tables: Iterable[pa.Table]) -> Encoded:
    clicks, positive_I = 0, np.zeros(len(DENSE), np.bool_)
    with ShardWriter(folder, shard, SCHEMA) as writer:
        for table in tables:
            writer.write(table)
            clicks += int(table["label"].to_numpy().sum())
            positive_I |= [table[name].to_numpy().any() for name in DENSE]
        return Encoded(writer.close(), clicks, positive_I)


def vocabulary_path(folder: Path, table: str) -> Path:
    """Where a prepared folder keeps the vocabulary of a table: values in ascending order, and the row of each."""
    return folder / _vocabulary(table)


def _vocabularies(folder: Path) -> list[Vocabulary]:
    return [Vocabulary(vocabulary_path(folder, name)) for name in CATEGORICAL]


def _vocabulary(table: str) -> str:
    return f"vocabulary/{table}.npy"


def prepare(
    patterns: Mapping[str, Sequence[str]],
    out: Path,
    min_count: int | None = None,
    buckets: int | None = None,
    fitted_from: Path | None = None,
    workers: int | None = None,
) -> Prepared:
    """Turns raw files into a prepared folder; nothing of it is left if that fails.

    Args:
        patterns: files or glob patterns of each split: train, valid, test.
        out: the folder to make.
        min_count: fit vocabularies on the training files, of values seen at least so often (2 if nothing is said).
        buckets: hash to this many rows instead.
        fitted_from: a folder prepared before, whose vocabularies or hashing are applied instead.
        workers: processes; for None as many as there are processors, fewer for small files.

    Raises:
        UserError: for options that contradict each other, and for every fault of the input.
    """
    began = time.perf_counter()
    pieces = {split: [piece for file in files for piece in cut(file)] for split, files in find_splits(patterns).items()}
    transform = _transform(min_count, buckets, fitted_from, "train" in pieces)
    count = workers or min(available_cpus(), 1 + sum(map(_bytes, pieces.values())) // BYTES_A_WORKER)
    with new_folder(out) as folder, Workers(count, __name__) as pool:
        if fitted_from is not None:
            copy_fit(fitted_from, {_vocabulary(name): of for name, of in transform.vocabulary.items()}, folder)
        spooled: list[list[Spooled]] = []
        if transform.min_count is not None and fitted_from is None:
            spooled = _spool(pieces.pop("train"), folder, pool)
            transform = _fit([segment for of_piece in spooled for segment in of_piece], transform, folder, pool)
        encoded = _encode(pieces, spooled, transform, folder, pool)
        if spooled:
            shutil.rmtree(folder / "spool")
        tables = {name: Table(rows=_table_rows(folder, name, transform)) for name in CATEGORICAL}
        manifest = Manifest(
            columns=COLUMNS,
            tables=tables,
            splits={name: _split(encoded[name]) for name in patterns if name in encoded},
            transform=transform.model_dump(exclude_none=True),
        )
        manifest.save(folder)
    warnings = (*manifest.oddities(), *_void(encoded.get("train", [])))
    return Prepared(manifest, time.perf_counter() - began, warnings)


def _transform(min_count: int | None, buckets: int | None, fitted_from: Path | None, has_train: bool) -> Transform:
    chosen = [name for name, value in (("--min-count", min_count), ("--buckets", buckets)) if value is not None]
    if fitted_from is not None:
        if chosen:
            raise UserError(f"{chosen[0]} cannot be combined with --fitted-from, which brings its own")
        return _fitted_transform(fitted_from)
    if len(chosen) == 2:
        raise UserError("--min-count is for vocabularies and --buckets for hashing; choose one")
    if not has_train:
        raise UserError("nothing to fit on; give --train, or --fitted-from with a folder prepared before")
    if buckets is not None:
        if not 1 <= buckets < 2**31 - 1:
            raise UserError(f"--buckets {buckets} must be from 1 to {2**31 - 2}")
        return Transform(buckets=buckets)
    if min_count is not None and min_count < 1:
        raise UserError(f"--min-count {min_count} must be at least 1")
    return Transform(min_count=2 if min_count is None else min_count)


def _fitted_transform(fitted_from: Path) -> Transform:
    values = Dataset(fitted_from).manifest.transform
    if values.get("source") != "criteo":
        raise UserError(f"--fitted-from {fitted_from} was not prepared by `dist-rec prepare criteo`")
    return Transform.parse(values, f"{fitted_from}/manifest.json: transform.")


def _spool(pieces: list[Piece], folder: Path, pool: Workers) -> list[list[Spooled]]:
    """The segments of every piece."""
    (folder / "spool").mkdir()
    tasks = [Spool(piece, folder / "spool" / f"{index:05}") for index, piece in enumerate(pieces)]
    return pool.run(tasks, "read train", _bytes(pieces))


def _fit(segments: list[Spooled], transform: Transform, folder: Path, pool: Workers) -> Transform:
    (folder / "vocabulary").mkdir()
    assert transform.min_count is not None
    tasks = [
        FitColumn(segments, column, transform.min_count, vocabulary_path(folder, name))
        for column, name in enumerate(CATEGORICAL)
    ]
    checksums = pool.run(tasks, "fit vocabularies", sum(segment.offsets[-1] for segment in segments), "values")
    return transform.model_copy(update={"vocabulary": dict(zip(CATEGORICAL, checksums, strict=True))})


def _encode(
    pieces: dict[str, list[Piece]], spooled: list[list[Spooled]], transform: Transform, folder: Path, pool: Workers
) -> dict[str, list[Encoded]]:
    tasks: dict[str, list[EncodeSpooled | EncodeLines]] = {
        split: [EncodeLines(piece, folder, f"{split}/{index:05}", transform.buckets) for index, piece in enumerate(of)]
        for split, of in pieces.items()
    }
    if spooled:
        tasks["train"] = [
            EncodeSpooled(of_piece[start : start + SHARD_SEGMENTS], folder, f"train/{index:05}-{number:03}.arrows")
            for index, of_piece in enumerate(spooled)
            for number, start in enumerate(range(0, len(of_piece), SHARD_SEGMENTS))
        ]
    total = sum(map(_bytes, pieces.values())) + sum(of.path.stat().st_size for of_piece in spooled for of in of_piece)
    done = iter(pool.run([task for of_split in tasks.values() for task in of_split], "write shards", total))
    return {split: [shard for _ in of_split for shard in next(done)] for split, of_split in tasks.items()}


def _split(encoded: list[Encoded]) -> Split:
    shards = tuple(of.shard for of in encoded)
    return Split(rows=sum(shard.rows for shard in shards), positives=sum(of.clicks for of in encoded), shards=shards)


def _void(encoded: list[Encoded]) -> list[str]:
    """A warning for every integer that says nothing."""
    if not encoded:
        return []
    positive_I = np.any([of.positive_I for of in encoded], axis=0)
    return [
        f"{name} is missing or not above 0 in every training row"
        for name, positive in zip(DENSE, positive_I, strict=True)
        if not positive
    ]


def _table_rows(folder: Path, table: str, transform: Transform) -> int:
    return transform.buckets + 1 if transform.buckets else Vocabulary(vocabulary_path(folder, table)).rows


def _bytes(pieces: list[Piece]) -> int:
    return sum(piece.bytes for piece in pieces)
