"""Sources whose files come as training, validation and test splits, to be fitted now or by an earlier fit.

A `SplitSource` learns a `Transform` and gives the tasks that write shards by it.
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
"""Bytes of input for which one more process pays off."""


def find_splits(patterns: Mapping[str, Sequence[str] | None]) -> dict[str, list[str]]:
    """The files of each split that has files; raises UserError if none has, or a file is missing or in two splits."""
    splits: dict[str, list[str]] = {}
    owner: dict[Path, str] = {}
    for split, of_split in patterns.items():
        files = find_files(of_split or (), f"--{split}")
        for file in files:
            first = owner.setdefault(Path(file).resolve(), split)
            if first != split:
                raise UserError(f"{file} is in both --{first} and --{split}; remove it from one of them")
        if files:
            splits[split] = files
    if not splits:
        raise UserError("no input files; name them with --train, --valid or --test")
    return splits


class Transform(Config):
    """How files became rows, as `transform` of the manifest; its field `vocabulary` has a checksum for each table."""

    ending: ClassVar[str] = ".npy"
    """File name ending of vocabularies."""

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """Columns of the shards."""

    @abstractmethod
    def table_rows(self, folder: Path) -> dict[str, int]:
        """Rows of every table; the folder has the vocabularies."""

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The transform of a prepared folder; raises UserError if the folder comes from another kind of source."""
        source, values = cls.model_fields["source"].default, Dataset(folder).manifest.transform
        if values.get("source") != source:
            raise UserError(f"--fitted-from {folder} was not prepared by `dist-rec prepare {source}`; choose another")
        return cls.parse(values, f"{folder}/manifest.json: transform.")

    @classmethod
    def vocabulary_file(cls, table: str) -> str:
        """Path of a table's vocabulary within a prepared folder."""
        return f"vocabulary/{table}{cls.ending}"

    def content(self) -> dict[str, Any]:
        """The manifest's entry."""
        return self.model_dump(exclude_none=True)


T = TypeVar("T", bound=Transform)


@dataclass(frozen=True)
class Written:
    """A shard of a split."""

    split: str
    shard: Shard
    positives: int | None
    """Rows with label 1; None if the labels are not all 0 or 1."""


class SplitWriter(ShardWriter):
    """Writes a shard of a split, whose first column is the label; counts the clicks if `clicks` are possible."""

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
    """Files of splits, prepared by a new fit or an earlier one.

    Raises:
        UserError: for missing files, contradicting options, or no training files to fit on.
    """

    patterns: Mapping[str, Sequence[str] | None]
    """Files or glob patterns of each split: train, valid, test."""
    fitted_from: Path | None = None
    """A prepared folder whose fit is applied instead of a new one."""
    earlier: T | None = field(default=None, init=False)
    """The fit of `fitted_from`."""

    kind: ClassVar[type[Transform]]
    of_fit: ClassVar[tuple[str, ...]] = ()
    """Fields that are settings of a new fit, not to be combined with `fitted_from`."""

    def __post_init__(self) -> None:
        self.files = find_splits(self.patterns)
        self.bytes = bytes_of(self.paths)
        """Bytes that the tasks read."""
        self.processes = min(available_cpus(), len(self.paths), 1 + self.bytes // BYTES_A_WORKER)
        if self.fitted_from is not None:
            for name in self.of_fit:
                if getattr(self, name) is not None:
                    option = "--" + name.replace("_", "-")
                    raise UserError(f"{option} cannot be combined with --fitted-from; leave it out")
            self.earlier = cast(T, self.kind.of(self.fitted_from))
        elif "train" not in self.files:
            raise UserError("nothing to fit on; give --train, or --fitted-from with a prepared folder")

    @property
    def paths(self) -> list[str]:
        """The files of all splits."""
        return [file for of_split in self.files.values() for file in of_split]

    @abstractmethod
    def learn(self, folder: Path, pool: Workers) -> T:
        """Returns a new fit; writes its vocabularies into the folder."""

    @abstractmethod
    def tasks(self, transform: T, folder: Path) -> Sequence[Task[Sequence[Written]]]:
        """The tasks that write the shards of each split, in the order of the shards."""

    def remarks(self, manifest: Manifest, written: Sequence[Written]) -> Iterable[str]:
        """Warnings about the data that were written."""
        return ()

    def fit(self, folder: Path, pool: Workers) -> T:
        """The earlier fit, whose vocabularies are copied, or a new one."""
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
        """Runs the tasks and collects their shards."""
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
    """Total size on disk."""
    return sum(Path(file).stat().st_size for file in files)


def _split(written: Sequence[Written]) -> Split:
    positives = [of.positives for of in written if of.positives is not None]
    return Split(
        rows=sum(of.shard.rows for of in written),
        positives=sum(positives) if len(positives) == len(written) else None,
        shards=tuple(of.shard for of in written),
    )
