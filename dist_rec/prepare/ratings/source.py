"""Prepares ratings (`user item rating [timestamp]`): filters, splits, renumbers and lays them out.

    lines ── read ──▶ columns ── filter ──▶ split ──▶ vocabularies ──▶ rows of the layout ── write ──▶ shards
                                              └──▶ seen pairs, candidates

Ids are renumbered by descending count in the training split, ties by first appearance; row 0 stands for users and items
that training never saw. The result is a function of the files, the options and the seed.

Shapes: N ratings.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest, Split, Table
from dist_rec.data.seen import Seen, save_seen
from dist_rec.data.shards import ShardWriter, arrow_schema
from dist_rec.data.workers import Workers
from dist_rec.prepare.engine import Source
from dist_rec.prepare.ratings.candidates import find_candidates
from dist_rec.prepare.ratings.files import SplitFiles
from dist_rec.prepare.ratings.filter import choose
from dist_rec.prepare.ratings.ids import Encoded, save_vocabulary
from dist_rec.prepare.ratings.layout import Layout, bags, columns, interactions
from dist_rec.prepare.ratings.lines import Ratings, read_ratings
from dist_rec.prepare.ratings.remarks import remark
from dist_rec.prepare.ratings.split import (
    NOWHERE,
    SPLITS,
    TRAIN,
    Given,
    LeaveOneOut,
    SplitIds,
    Splitter,
    WithCandidates,
    check_filled,
)


class Options(Config):
    """Selection and form of the ratings."""

    layout: Layout = "interactions"
    """A row is a rating (interactions), or all ratings of a user (users) or an item (items)."""
    implicit: bool = False
    """Whether every rating counts as 1."""
    min_rating: float | None = None
    """Ratings below this are left out."""
    min_interactions: int = Field(1, ge=1)
    """Users with fewer remaining ratings are left out."""
    levels: bool = False
    """For layouts users and items: adds bags of (member, rating) pairs, which have rows of a table, for head rbm."""


class Labels(Config):
    """Statistics of the labels of the training split."""

    min: float
    max: float
    mean: float


class Transform(Config):
    """How lines became rows, as `transform` of the manifest."""

    source: Literal["ratings"] = "ratings"
    options: Options
    split: dict[str, Any]
    """Name and settings of the split, see `dist_rec.prepare.ratings.split`."""
    ratings: dict[str, int]
    """Number of ratings that a model is trained or evaluated on in each split."""
    labels: Labels
    levels: tuple[float, ...] | None
    """The distinct ratings of the training split, ascending, if there are bags of levels."""
    left_out: dict[str, int]
    """Number of ratings in no split, by reason."""
    vocabulary: dict[str, str]
    """Checksum of every `vocabulary/<table>.txt`: line k, from 1, has the id of row k."""
    seen: Seen


@dataclass
class RatingFiles(Source[Encoded]):
    """Rating files, which are held in memory.

    Raises:
        UserError: for contradicting options and missing files.
    """

    patterns: Sequence[str]
    """Files or glob patterns."""
    splitter: Splitter
    options: Options
    test_patterns: Sequence[str] = ()
    """Files of the test ratings, for given and leave-one-out only."""
    separator: str | None = None
    """Separator of fields; None detects it in each file's first line."""
    bounds: tuple[float, float] | None = None
    """The smallest and the largest valid rating."""
    valid_patterns: Sequence[str] = ()
    """Files of the validation ratings, for given only."""

    def __post_init__(self) -> None:
        _check(self.splitter, self.options, self.bounds)
        _check_files(self.splitter, bool(self.valid_patterns), bool(self.test_patterns))
        self._files = SplitFiles.find(self.patterns, self.valid_patterns, self.test_patterns)
        self._left_out: dict[str, int] = {}

    def fit(self, folder: Path, pool: Workers) -> Encoded:
        """Reads, filters and splits the ratings, and numbers their users and items."""
        options, splitter, warn = self.options, self.splitter, self.warnings.append
        ratings, sizes = read_ratings(self._files.paths, self.separator, self.bounds)
        files_N = np.repeat(self._files.splits, sizes)
        _check_times(ratings, splitter, files_N, warn)
        kept_N, self._left_out = choose(ratings, files_N, options.min_rating, options.min_interactions, warn)
        ratings, files_N = ratings.where(kept_N), files_N[kept_N]
        parts = splitter.parts(ratings, files_N)
        encoded = Encoded.of(ratings, parts, options.implicit)
        check_filled(splitter, parts)
        self._left_out["of_items_that_training_never_saw"] = int((parts.split_N == NOWHERE).sum())
        return encoded

    def write(self, fit: Encoded, folder: Path, pool: Workers) -> Manifest:
        """Writes shards, vocabularies and seen pairs."""
        options, splitter, warn = self.options, self.splitter, self.warnings.append
        candidates = find_candidates(fit, splitter, warn) if isinstance(splitter, WithCandidates) else {}
        label_N = fit.label_N[fit.parts.targets(TRAIN)]
        mean = float(label_N.mean(dtype=np.float64))
        labels = Labels(min=float(label_N.min()), max=float(label_N.max()), mean=mean)
        levels = tuple(np.unique(label_N).tolist()) if options.levels else None
        del label_N
        of_columns = columns(options.layout, bool(candidates), options.levels)
        splits = {}
        for part, name in enumerate(SPLITS):
            if options.layout == "interactions":
                shards = interactions(fit, part, candidates.get(part))
            else:
                shards = bags(fit, part, options.layout, levels)
            if split := _write_split(folder, name, shards, arrow_schema(of_columns)):
                splits[name] = split
        transform = Transform(
            options=options,
            split=splitter.model_dump(exclude_none=True),
            ratings={name: int(fit.parts.targets(part).sum()) for part, name in enumerate(SPLITS)},
            labels=labels,
            levels=levels,
            left_out=self._left_out,
            vocabulary={
                "user": save_vocabulary(folder / "vocabulary" / "user.txt", fit.user_K, fit.ratings.users),
                "item": save_vocabulary(folder / "vocabulary" / "item.txt", fit.item_K, fit.ratings.items),
            },
            seen=save_seen(folder, fit.pairs(fit.parts.targets(TRAIN), fit.user_K)),
        )
        tables = {"user": Table(rows=fit.users), "item": Table(rows=fit.items)}
        if levels is not None:
            member = "item" if options.layout == "users" else "user"
            tables[f"{member}_level"] = Table(rows=tables[member].rows * len(levels))
        if labels.min == labels.max and not options.implicit:
            warn(f"all ratings are {labels.min:g}: there is nothing to predict; --implicit takes them as choices")
        remark(fit, splitter, options.layout, warn)
        return Manifest(
            columns=of_columns,
            tables=tables,
            splits=splits,
            transform=transform.model_dump(exclude_none=True),
        )


def _check(splitter: Splitter, options: Options, bounds: tuple[float, float] | None) -> None:
    if bounds is not None and not bounds[0] <= bounds[1]:
        raise UserError(f"--range {bounds[0]:g} {bounds[1]:g} is empty; give the lowest rating first")
    if splitter.name == "held-out-users" and options.layout != "users":
        raise UserError("--split held-out-users needs --layout users, since only their history represents such users")
    if options.levels and options.layout == "interactions":
        raise UserError("--levels needs --layout users or items, since an interaction's rating is its label")
    if isinstance(splitter, WithCandidates):
        if splitter.negatives and splitter.draw:
            raise UserError("--negatives gives the candidates and --draw draws them; choose one")
        if options.layout != "interactions" and (splitter.negatives or splitter.draw):
            raise UserError("candidates (--negatives, --draw) need --layout interactions")


def _check_files(splitter: Splitter, valid: bool, test: bool) -> None:
    """Raises UserError for files that are of no use to the split, or missing."""
    if test and not isinstance(splitter, WithCandidates):
        raise UserError(f"--test needs --split given or leave-one-out; {splitter.name} takes the test split from FILES")
    if valid and not isinstance(splitter, Given):
        raise UserError(f"--valid needs --split given; {splitter.name} takes the validation split from FILES")
    if isinstance(splitter, Given) and not test:
        raise UserError("--split given needs --test, the files of the test ratings")


def _check_times(ratings: Ratings, splitter: Splitter, files_N: SplitIds, warn: Callable[[str], None]) -> None:
    """Raises UserError if a split needs timestamps; warns if the order of the files takes their place."""
    if ratings.timed:
        return
    if splitter.name == "chronological":
        raise UserError("--split chronological needs timestamps, but the files have none; choose another --split")
    if isinstance(splitter, LeaveOneOut) and (splitter.validation or not files_N.any()):
        warn("the files have no timestamps: their order decides which of a user's ratings are the last")


def _write_split(folder: Path, name: str, tables: Iterable[pa.Table], schema: pa.Schema) -> Split | None:
    """A shard of each table; None if there are none."""
    shards = []
    for number, table in enumerate(tables):
        with ShardWriter(folder, f"{name}/{number:05}.arrows", schema) as writer:
            writer.write(table)
            shards.append(writer.close())
    return Split(rows=sum(shard.rows for shard in shards), shards=tuple(shards)) if shards else None
