"""Prepares Criteo's click logs (Kaggle and Terabyte): lines of a label, 13 integers and 26 categories.

    train lines ── parse ──▶ spool + runs ── merge ──▶ 26 vocabularies ── encode ──▶ shards
    valid, test lines ──────────────── parse ───────────────────────────── encode ──▶ shards

Text is parsed once. Tasks are cut by the input alone, so the bytes written do not depend on the number of processes.

Shapes: 13 integers (I) a row.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest
from dist_rec.data.workers import Workers, available_cpus
from dist_rec.prepare.criteo.encode import (
    CriteoTransform,
    Encoded,
    EncodeLines,
    EncodeSpooled,
    Spool,
    Spooled,
    encode_spooled,
)
from dist_rec.prepare.criteo.rows import CATEGORICAL, DENSE
from dist_rec.prepare.criteo.vocabulary import FitColumn
from dist_rec.prepare.lines import cut
from dist_rec.prepare.splits import SplitSource, Written, bytes_of

BYTES_A_WORKER = 1 << 20
"""Bytes of input for which one more process pays off."""


@dataclass
class Criteo(SplitSource[CriteoTransform]):
    """Files of Criteo's click logs."""

    min_count: int | None = None
    """Vocabularies contain the values that occur at least this often in the training files; None takes 2."""
    buckets: int | None = None
    """If set, values are hashed to this many rows instead."""

    kind = CriteoTransform
    of_fit = ("min_count", "buckets")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.processes = min(available_cpus(), 1 + self.bytes // BYTES_A_WORKER)
        if self.min_count is not None and self.buckets is not None:
            raise UserError("--min-count is for vocabularies and --buckets for hashing; choose one")
        if self.buckets is not None and not 1 <= self.buckets < 2**31 - 1:
            raise UserError(f"--buckets {self.buckets} must be from 1 to {2**31 - 2}")
        if self.min_count is not None and self.min_count < 1:
            raise UserError(f"--min-count {self.min_count} must be at least 1")
        self._pieces = {split: [piece for file in files for piece in cut(file)] for split, files in self.files.items()}
        self._spooled: list[list[Spooled]] = []

    def learn(self, folder: Path, pool: Workers) -> CriteoTransform:
        """Spools the training lines and fits their vocabularies, unless values are hashed."""
        if self.buckets is not None:
            return CriteoTransform(buckets=self.buckets)
        transform = CriteoTransform(min_count=self.min_count or 2)
        (folder / "spool").mkdir()
        pieces = self._pieces.pop("train")
        spool = [Spool(piece, folder / "spool" / f"{index:05}") for index, piece in enumerate(pieces)]
        bytes_of_train = sum(piece.bytes for piece in pieces)
        self._spooled = pool.run(spool, "read train", bytes_of_train)
        segments = [segment for of_piece in self._spooled for segment in of_piece]
        self.bytes += bytes_of(segment.path for segment in segments) - bytes_of_train
        (folder / "vocabulary").mkdir()
        fit = [
            FitColumn([segment.run_of(column) for segment in segments], self.min_count or 2, folder / path)
            for column, path in enumerate(map(transform.vocabulary_file, CATEGORICAL))
        ]
        checksums = pool.run(fit, "fit vocabularies", sum(segment.offsets[-1] for segment in segments), "values")
        return transform.model_copy(update={"vocabulary": dict(zip(CATEGORICAL, checksums, strict=True))})

    def tasks(self, transform: CriteoTransform, folder: Path) -> list[EncodeLines | EncodeSpooled]:
        """A task for every piece of a file, or for every shard of spooled segments."""
        lines = [
            EncodeLines(piece, split, index, transform, folder)
            for split, pieces in self._pieces.items()
            for index, piece in enumerate(pieces)
        ]
        return [*lines, *encode_spooled(self._spooled, transform, folder)]

    def write(self, fit: CriteoTransform, folder: Path, pool: Workers) -> Manifest:
        """Runs the tasks, and removes the spool."""
        manifest = super().write(fit, folder, pool)
        shutil.rmtree(folder / "spool", ignore_errors=True)
        return manifest

    def remarks(self, manifest: Manifest, written: Sequence[Written]) -> Iterator[str]:
        """Warnings about tables, labels and integers without information."""
        yield from manifest.warnings()
        of_train = [of.positive_I for of in written if isinstance(of, Encoded) and of.split == "train"]
        if of_train:
            void_I = ~np.any(of_train, axis=0)
            yield from (
                f"{DENSE[place]} is missing or not above 0 in every training row" for place in np.flatnonzero(void_I)
            )
