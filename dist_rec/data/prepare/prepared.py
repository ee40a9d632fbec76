"""What preparations begin and end with: the files of each split, an earlier fit, the new splits and a summary."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest, Shard, Split
from dist_rec.data.prepare.lines import find_files
from dist_rec.data.prepare.vocabulary import checksum
from dist_rec.data.workers import Task, Workers, available_cpus

BYTES_A_WORKER = 8 << 20
"""Of input; with less, the start of another process costs more than it gains."""


@dataclass(frozen=True)
class Prepared:
    """What a preparation did."""

    manifest: Manifest
    seconds: float
    warnings: tuple[str, ...] = ()
    """What the user should know of the data, one line each."""

    def summary(self) -> dict[str, Any]:
        """For people and for `--json`; `click_rate` is there for click data alone."""
        splits: dict[str, dict[str, float]] = {}
        for name, split in self.manifest.splits.items():
            splits[name] = {"rows": split.rows}
            if split.positives is not None:
                splits[name]["click_rate"] = round(split.positives / split.rows, 6)
        rows = sum(split.rows for split in self.manifest.splits.values())
        return {
            "splits": splits,
            "rows": rows,
            "table_rows": sum(table.rows for table in self.manifest.tables.values()),
            "seconds": round(self.seconds, 3),
            "rows_per_s": round(rows / self.seconds),
            **({"warnings": self.warnings} if self.warnings else {}),
        }


def find_splits(patterns: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The files of every split that has some.

    Args:
        patterns: files or glob patterns of each split: train, valid, test.

    Raises:
        UserError: if there are none, or a file is missing or belongs to two splits.
    """
    splits: dict[str, list[str]] = {}
    owner: dict[Path, str] = {}
    for split, of_split in patterns.items():
        files = find_files(of_split, f"--{split}")
        for file in files:
            first = owner.setdefault(Path(file).resolve(), split)
            if first != split:
                raise UserError(f"{file} is in both --{first} and --{split}")
        if files:
            splits[split] = files
    if not splits:
        raise UserError("no input; name files with --train, --valid or --test")
    return splits


def copy_fit(fitted_from: Path, checksums: Mapping[str, str], folder: Path) -> None:
    """Copies the files of an earlier fit into a new folder.

    Args:
        fitted_from: the folder that was prepared before.
        checksums: of its files, by their paths in both folders.
        folder: the new one.

    Raises:
        UserError: naming a file that is missing or damaged.
    """
    for path, expected in checksums.items():
        source, copy = fitted_from / path, folder / path
        if not source.exists() or checksum(source) != expected:
            raise UserError(f"{source} is missing or damaged; prepare {fitted_from} again")
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, copy)


def worker_count(splits: Mapping[str, Sequence[str]]) -> int:
    """Processes that are worth their start, if each reads whole files."""
    files = [file for of_split in splits.values() for file in of_split]
    return min(available_cpus(), len(files), 1 + bytes_of(files) // BYTES_A_WORKER)


def bytes_of(files: Sequence[str]) -> int:
    """Their size on disk."""
    return sum(Path(file).stat().st_size for file in files)


@dataclass(frozen=True)
class Encoded:
    """A shard that was written."""

    shard: Shard
    positives: int | None
    """Rows with label 1, or None if the labels are no clicks."""


def write_splits(tasks: Sequence[Task[dict[str, Encoded]]], files: Sequence[str], pool: Workers) -> dict[str, Split]:
    """Runs tasks that each write shards, at most one of every split, out of `files`."""
    shards: dict[str, list[Encoded]] = {"train": [], "valid": [], "test": []}
    for encoded in pool.run(tasks, "write shards", bytes_of(files)):
        for split, shard in encoded.items():
            shards[split].append(shard)
    return {split: _split(of_split) for split, of_split in shards.items() if of_split}


def _split(encoded: list[Encoded]) -> Split:
    positives = [of.positives for of in encoded if of.positives is not None]
    return Split(
        rows=sum(of.shard.rows for of in encoded),
        positives=sum(positives) if len(positives) == len(encoded) else None,
        shards=tuple(of.shard for of in encoded),
    )
