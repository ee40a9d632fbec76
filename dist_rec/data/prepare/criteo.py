"""Criteo's click logs (Kaggle and Terabyte): label, 13 integers and 26 categories a line, to a prepared folder.

    train lines ── parse ──▶ spool + runs ── merge ──▶ 26 vocabularies ── encode ──▶ shards
    valid, test lines ──────────────── parse ───────────────────────────── encode ──▶ shards

Text is parsed once. Work is cut by the input alone, so the bytes written do not depend on the number of processes.

Shapes: N rows of a segment, 13 integers and 26 categories a row.
"""

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Column, Manifest, Shard, Split, Table
from dist_rec.data.prepare.lines import Piece, cut, find_files, read_lines
from dist_rec.data.prepare.tsv import MARGIN, Fields, NotNumbers
from dist_rec.data.prepare.vocabulary import Run, Vocabulary, bucket, checksum, factorize, fit, pack
from dist_rec.data.shards import Dataset, ShardWriter, arrow_schema, new_folder
from dist_rec.data.workers import Report, Workers, available_cpus

INTS, CATS = 13, 26
DENSE = tuple(f"int_{index}" for index in range(INTS))
CATEGORICAL = tuple(f"cat_{index}" for index in range(CATS))
NAMES = ("label", *DENSE, *CATEGORICAL)
COLUMNS = (
    Column(name="label", kind="label"),
    *(Column(name=name, kind="dense") for name in DENSE),
    *(Column(name=name, kind="categorical", table=name) for name in CATEGORICAL),
)
SEGMENT_ROWS = 1 << 18
"""Rows that are factorized, spooled and written as one shard."""


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
class Rows:
    """Parsed lines."""

    label_N: NDArray[np.float32]
    dense_IN: NDArray[np.float32]
    value_CN: NDArray[np.uint32]
    missing_CN: NDArray[np.bool_]

    @classmethod
    def empty(cls, rows: int) -> "Rows":
        """Room for that many rows."""
        return cls(
            np.empty(rows, np.float32),
            np.empty((INTS, rows), np.float32),
            np.empty((CATS, rows), np.uint32),
            np.empty((CATS, rows), np.bool_),
        )

    def __getitem__(self, rows: slice) -> "Rows":
        return Rows(self.label_N[rows], self.dense_IN[:, rows], self.value_CN[:, rows], self.missing_CN[:, rows])

    def fill(self, fields: Fields) -> None:
        """Parses lines into these rows, of which there must be as many."""
        self.label_N[:] = fields.bit(0)
        for index, dense_N in enumerate(self.dense_IN, start=1):
            np.log1p(np.maximum(fields.integer(index), 0, dtype=np.float32), out=dense_N)
        for index, value_N in enumerate(self.value_CN, start=1 + INTS):
            value_N[:] = fields.hexadecimal(index)
        np.equal(fields.length_FN[1 + INTS :], 0, out=self.missing_CN)


def read_rows(piece: Piece, report: Report) -> Iterator[Rows]:
    """Segments of at most `SEGMENT_ROWS` rows; each may be used only until the next is asked for.

    Raises:
        UserError: naming the file, line and field that is wrong.
    """
    room, rows, lines_before = Rows.empty(SEGMENT_ROWS), 0, 0
    for lines, size in read_lines(piece, MARGIN):
        try:
            fields = Fields.find(lines, len(NAMES))
            if rows + fields.rows > SEGMENT_ROWS:
                yield room[:rows]
                rows = 0
            room[rows : rows + fields.rows].fill(fields)
        except NotNumbers:
            raise _first_error(piece, lines[len(MARGIN) :], lines_before) from None
        rows += fields.rows
        lines_before += fields.rows
        report(size, fields.rows)
    if lines_before == 0 and piece.start == 0:
        raise UserError(f"{piece.path} holds no rows")
    if rows:
        yield room[:rows]


def _first_error(piece: Piece, lines: bytes, lines_before: int) -> UserError:
    for index, line in enumerate(lines.split(b"\n")[:-1]):
        fields = line.split(b"\t")
        where = f"{piece.path}, line {piece.line_number(lines_before + index)}"
        if len(fields) != len(NAMES):
            return UserError(f"{where} has {len(fields)} tab-separated fields, not {len(NAMES)}")
        for place, (name, text) in enumerate(zip(NAMES, fields, strict=True), start=1):
            pattern, meaning = _form(name)
            if not re.fullmatch(pattern, text):
                shown = text[:40].decode(errors="replace")
                return UserError(f"{where}, field {place} ({name}): {shown!r} is not {meaning}")
    raise AssertionError("the fast parser refused lines that are right")


def _form(name: str) -> tuple[bytes, str]:
    if name == "label":
        return rb"[01]", "0 or 1"
    if name in DENSE:
        return rb"(-?[0-9]{1,16})?", "an integer of at most 16 digits"
    return rb"[0-9a-fA-F]{0,8}", "a hexadecimal number of at most 8 digits"


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
        runs, offsets = path.with_suffix(".runs"), [0]
        code_CN = np.empty_like(rows.value_CN)
        with runs.open("wb") as file:
            for code_N, value_N, missing_N in zip(code_CN, rows.value_CN, rows.missing_CN, strict=True):
                factors = factorize(value_N, missing_N)
                code_N[:] = factors.code_N
                pack(factors).tofile(file)
                offsets.append(offsets[-1] + factors.values_K.size)
        with path.open("wb") as file:
            for array in (rows.label_N, rows.dense_IN, code_CN):
                np.save(file, array)
        return Spooled(path, runs, tuple(offsets))


@dataclass(frozen=True)
class FitColumn:
    """Merges the runs of a column into its vocabulary."""

    runs: list[Run]
    min_count: int
    path: Path

    def run(self, report: Report) -> str:
        """The checksum of the vocabulary."""
        fit(self.runs, self.min_count, self.path)
        entries = sum(run.stop - run.start for run in self.runs)
        report(entries, entries)
        return checksum(self.path)


Encoded = tuple[Shard, int]
"""A shard and its clicks."""


@dataclass(frozen=True)
class EncodeSpooled:
    """Writes a spooled segment as a shard, and removes it."""

    spooled: Spooled
    folder: Path
    shard: str

    def run(self, report: Report) -> list[Encoded]:
        """The shard, as a list of one."""
        size = self.spooled.path.stat().st_size
        with self.spooled.path.open("rb") as file:
            label_N, dense_IN, code_CN = (np.load(file) for _ in range(3))
        self.spooled.path.unlink()
        ids = []
        for column, name in enumerate(CATEGORICAL):
            vocabulary = Vocabulary(vocabulary_path(self.folder, name))
            ids.append(vocabulary.rows_of(self.spooled.run_of(column).values())[code_CN[column]])
        report(size, label_N.size)
        return [_write(self.folder, self.shard, label_N, dense_IN, ids)]


@dataclass(frozen=True)
class EncodeLines:
    """Writes lines as shards, in one pass."""

    piece: Piece
    folder: Path
    prefix: str
    buckets: int | None

    def run(self, report: Report) -> list[Encoded]:
        """The shards."""
        return [
            _write(self.folder, f"{self.prefix}-{number:03}.arrows", rows.label_N, rows.dense_IN, self._ids(rows))
            for number, rows in enumerate(read_rows(self.piece, report))
        ]

    def _ids(self, rows: Rows) -> list[NDArray[np.int32]]:
        columns = zip(CATEGORICAL, rows.value_CN, rows.missing_CN, strict=True)
        if self.buckets:
            return [bucket(value_N, missing_N, self.buckets) for _, value_N, missing_N in columns]
        ids = []
        for name, value_N, missing_N in columns:
            factors = factorize(value_N, missing_N)
            ids.append(Vocabulary(vocabulary_path(self.folder, name)).rows_of(factors.values_K)[factors.code_N])
        return ids


def _write(
    folder: Path, shard: str, label_N: NDArray[np.float32], dense_IN: NDArray[np.float32], ids: list[NDArray[np.int32]]
) -> Encoded:
    schema = arrow_schema(COLUMNS)
    with ShardWriter(folder, shard, schema) as writer:
        writer.write(pa.Table.from_arrays([pa.array(column) for column in (label_N, *dense_IN, *ids)], schema=schema))
        return writer.close(), int(label_N.sum(dtype=np.float64))


def vocabulary_path(folder: Path, table: str) -> Path:
    """Where a prepared folder keeps the vocabulary of a table: values in ascending order, and the row of each."""
    return folder / "vocabulary" / f"{table}.npy"


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did."""

    manifest: Manifest
    seconds: float

    def summary(self) -> dict[str, Any]:
        """For people and for `--json`."""
        splits = {
            name: {"rows": split.rows, "click_rate": round((split.positives or 0) / split.rows, 6)}
            for name, split in self.manifest.splits.items()
        }
        rows = sum(split.rows for split in self.manifest.splits.values())
        return {
            "splits": splits,
            "rows": rows,
            "table_rows": sum(table.rows for table in self.manifest.tables.values()),
            "seconds": round(self.seconds, 3),
            "rows_per_s": round(rows / self.seconds),
        }


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
        workers: processes; as many as there are processors if None.

    Raises:
        UserError: for options that contradict each other, and for every fault of the input.
    """
    began = time.perf_counter()
    pieces = _find_pieces(patterns)
    transform = _transform(min_count, buckets, fitted_from, "train" in pieces)
    most = sum(len(of_split) for of_split in pieces.values())
    with new_folder(out) as folder, Workers(min(workers or available_cpus(), most)) as pool:
        if fitted_from is not None:
            transform = _copy_fit(fitted_from, transform, folder)
        spooled: list[Spooled] = []
        if transform.min_count is not None and fitted_from is None:
            spooled = _spool(pieces.pop("train"), folder, pool)
            transform = _fit(spooled, transform, folder, pool)
        splits = _encode(pieces, spooled, transform, folder, pool)
        tables = {name: Table(rows=_table_rows(folder, name, transform)) for name in CATEGORICAL}
        manifest = Manifest(
            columns=COLUMNS,
            tables=tables,
            splits={name: splits[name] for name in patterns if name in splits},
            transform=transform.model_dump(exclude_none=True),
        )
        manifest.save(folder)
    return Prepared(manifest, time.perf_counter() - began)


def _find_pieces(patterns: Mapping[str, Sequence[str]]) -> dict[str, list[Piece]]:
    pieces: dict[str, list[Piece]] = {}
    owner: dict[Path, str] = {}
    for split, of_split in patterns.items():
        files = find_files(of_split, f"--{split}")
        for file in files:
            first = owner.setdefault(Path(file).resolve(), split)
            if first != split:
                raise UserError(f"{file} is in both --{first} and --{split}")
        if files:
            pieces[split] = [piece for file in files for piece in cut(file)]
    if not pieces:
        raise UserError("no input; name files with --train, --valid or --test")
    return pieces


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


def _copy_fit(fitted_from: Path, transform: Transform, folder: Path) -> Transform:
    for name, expected in transform.vocabulary.items():
        source, copy = vocabulary_path(fitted_from, name), vocabulary_path(folder, name)
        if not source.exists() or checksum(source) != expected:
            raise UserError(f"{source} is missing or damaged; prepare {fitted_from} again")
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, copy)
    return transform


def _spool(pieces: list[Piece], folder: Path, pool: Workers) -> list[Spooled]:
    (folder / "spool").mkdir()
    tasks = [Spool(piece, folder / "spool" / f"{index:05}") for index, piece in enumerate(pieces)]
    return [spooled for of_piece in pool.run(tasks, "read train", _bytes(pieces)) for spooled in of_piece]


def _fit(spooled: list[Spooled], transform: Transform, folder: Path, pool: Workers) -> Transform:
    (folder / "vocabulary").mkdir()
    assert transform.min_count is not None
    tasks = [
        FitColumn([segment.run_of(column) for segment in spooled], transform.min_count, vocabulary_path(folder, name))
        for column, name in enumerate(CATEGORICAL)
    ]
    checksums = pool.run(tasks, "fit vocabularies", sum(segment.offsets[-1] for segment in spooled), "values")
    return transform.model_copy(update={"vocabulary": dict(zip(CATEGORICAL, checksums, strict=True))})


def _encode(
    pieces: dict[str, list[Piece]], spooled: list[Spooled], transform: Transform, folder: Path, pool: Workers
) -> dict[str, Split]:
    tasks: dict[str, list[EncodeSpooled | EncodeLines]] = {
        split: [EncodeLines(piece, folder, f"{split}/{index:05}", transform.buckets) for index, piece in enumerate(of)]
        for split, of in pieces.items()
    }
    if spooled:
        tasks["train"] = [EncodeSpooled(of, folder, f"train/{of.path.stem}.arrows") for of in spooled]
    total = sum(map(_bytes, pieces.values())) + sum(segment.path.stat().st_size for segment in spooled)
    done = iter(pool.run([task for of_split in tasks.values() for task in of_split], "write shards", total))
    splits = {}
    for split, of_split in tasks.items():
        encoded = [shard for _ in of_split for shard in next(done)]
        rows = sum(shard.rows for shard, _ in encoded)
        clicks = sum(clicks for _, clicks in encoded)
        splits[split] = Split(rows=rows, positives=clicks, shards=tuple(shard for shard, _ in encoded))
    if spooled:
        shutil.rmtree(folder / "spool")
    return splits


def _table_rows(folder: Path, table: str, transform: Transform) -> int:
    return transform.buckets + 1 if transform.buckets else Vocabulary(vocabulary_path(folder, table)).rows


def _bytes(pieces: list[Piece]) -> int:
    return sum(piece.bytes for piece in pieces)
