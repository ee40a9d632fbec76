"""Files that come as training, validation and test: found, fitted (now or earlier), and written shard by shard.

A `SplitSource` says what is learnt, as a `Transform`, and which tasks write shards by it.
"""

import shutil
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

import pyarrow as pa

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Column, Manifest, Shard, Split, Table
from dist_rec.data.shards import Dataset, ShardWriter, arrow_schema, checksum
from dist_rec.data.workers import Task, Workers, available_cpus
from dist_rec.prepare.engine import Source
from dist_rec.prepare.lines import find_files

SPLITS = ("train", "valid", "test")
BYTES_A_WORKER = 8 << 20
"""Of input; with less, the start of another process costs more than it gains."""


def find_splits(patterns: Mapping[str, Sequence[str] | None]) -> dict[str, list[str]]:
    """The files of every split that has some; raises UserError if none has, or one is missing or belongs to two."""
    splits: dict[str, list[str]] = {}
    owner: dict[Path, str] = {}
    for split, of_split in patterns.items():
        files = find_files(of_split or (), f"--{split}")
        for file in files:
            first = owner.setdefault(Path(file).resolve(), split)
            if first != split:
                raise UserError(f"{file} is in both --{first} and --{split}")
        if files:
            splits[split] = files
    if not splits:
        raise UserError("no input; name files with --train, --valid or --test")
    return splits


class Transform(Config):
    """How files became rows: `transform` of the manifest. Its field `vocabulary` has the checksum of each table's."""

    ending: ClassVar[str] = ".npy"
    """Of the files of vocabularies."""

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """Of the shards."""

    @abstractmethod
    def table_rows(self, folder: Path) -> dict[str, int]:
        """Rows of every table, of which the folder has the vocabulary."""

    @classmethod
    def of(cls, folder: Path) -> Self:
        """That of a folder prepared before; raises UserError if that was made of another kind of files."""
        source, values = cls.model_fields["source"].default, Dataset(folder).manifest.transform
        if values.get("source") != source:
            raise UserError(f"--fitted-from {folder} was not prepared by `dist-rec prepare {source}`")
        return cls.parse(values, f"{folder}/manifest.json: transform.")

    @classmethod
    def vocabulary_file(cls, table: str) -> str:
        """Where a prepared folder keeps the vocabulary of a table."""
        return f"vocabulary/{table}{cls.ending}"

    def content(self) -> dict[str, Any]:
        """For the manifest."""
        return self.model_dump(exclude_none=True)


T = TypeVar("T", bound=Transform)


@dataclass(frozen=True)
class Written:
    """A shard of a split."""

    split: str
    shard: Shard
    positives: int | None
    """Rows with label 1, or None if the labels are no clicks."""


class SplitWriter(ShardWriter):
    """Writes a shard of a split, whose first column is the label, and counts its clicks if labels may be clicks."""

    def __init__(self, folder: Path, split: str, name: str, columns: tuple[Column, ...], clicks: bool = True) -> None:
        super().__init__(folder, f"{split}/{name}.arrows", arrow_schema(columns))
        self._split, self._positives = split, 0 if clicks else None

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        super().write(table)
        if self._positives is not None:
            label_N = table.column(0).to_numpy()
            is_click = bool(((label_N == 0) | (label_N == 1)).all())
            self._positives = self._positives + int(label_N.sum()) if is_click else None

    def written(self) -> Written:
        """Closes the shard."""
        return Written(self._split, self.close(), self._positives)


@dataclass
class SplitSource(Source[T]):
    """Files of splits, that a new fit is learnt from or an earlier one applied to.

    Raises:
        UserError: for files that are missing, options that contradict each other, or nothing to learn from.
    """

    patterns: Mapping[str, Sequence[str] | None]
    """Files or glob patterns of each split: train, valid, test."""
    fitted_from: Path | None = None
    """A folder prepared before, whose fit is applied instead of a new one."""
    earlier: T | None = field(default=None, init=False)
    """That fit."""

    kind: ClassVar[type[Transform]]
    of_fit: ClassVar[tuple[str, ...]] = ()
    """Fields that say what a new fit is like; an earlier one brings its own."""

    def __post_init__(self) -> None:
        self.files = find_splits(self.patterns)
        self.bytes = bytes_of(self.paths)
        """That the tasks read."""
        self.processes = min(available_cpus(), len(self.paths), 1 + self.bytes // BYTES_A_WORKER)
        if self.fitted_from is not None:
            for name in self.of_fit:
                if getattr(self, name) is not None:
                    option = "--" + name.replace("_", "-")
                    raise UserError(f"{option} cannot be combined with --fitted-from, which brings its own")
            self.earlier = cast(T, self.kind.of(self.fitted_from))
        elif "train" not in self.files:
            raise UserError("nothing to fit on; give --train, or --fitted-from with a folder prepared before")

    @property
    def paths(self) -> list[str]:
        """The files of all splits."""
        return [file for of_split in self.files.values() for file in of_split]

    @abstractmethod
    def learn(self, folder: Path, pool: Workers) -> T:
        """A new fit, its vocabularies written into the folder."""

    @abstractmethod
    def tasks(self, transform: T, folder: Path) -> Sequence[Task[Sequence[Written]]]:
        """What writes the shards of each split, in their order."""

    def remarks(self, manifest: Manifest, written: Sequence[Written]) -> Iterable[str]:
        """What the user should know of the data that were written."""
        return ()

    def fit(self, folder: Path, pool: Workers) -> T:
        """The earlier fit, with its vocabularies, or a new one."""
        if self.earlier is None or self.fitted_from is None:
            return self.learn(folder, pool)
        for table, expected in self.earlier.model_dump()["vocabulary"].items():
            path = self.fitted_from / self.earlier.vocabulary_file(table)
            if not path.exists() or checksum(path) != expected:
                raise UserError(f"{path} is missing or damaged; prepare {self.fitted_from} again")
            (folder / "vocabulary").mkdir(exist_ok=True)
            shutil.copyfile(path, folder / "vocabulary" / path.name)
        return self.earlier

    def write(self, fit: T, folder: Path, pool: Workers) -> Manifest:
        """Runs the tasks."""
        done = pool.run(self.tasks(fit, folder), "write shards", self.bytes)
        written = [shard for of_task in done for shard in of_task]
        by_split = {split: [of for of in written if of.split == split] for split in SPLITS}
        manifest = Manifest(
            columns=fit.columns,
            tables={name: Table(rows=rows) for name, rows in fit.table_rows(folder).items()},
            splits={split: _split(of_split) for split, of_split in by_split.items() if of_split},
            transform=fit.content(),
        )
        self.warnings += self.remarks(manifest, written)
        return manifest


def bytes_of(files: Iterable[str | Path]) -> int:
    """Their size on disk."""
    return sum(Path(file).stat().st_size for file in files)


def _split(written: Sequence[Written]) -> Split:
    positives = [of.positives for of in written if of.positives is not None]
    return Split(
        rows=sum(of.shard.rows for of in written),
        positives=sum(positives) if len(positives) == len(written) else None,
        shards=tuple(of.shard for of in written),
    )
