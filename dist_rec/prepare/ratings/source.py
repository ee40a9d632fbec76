"""Prepares ratings (`user item rating [timestamp]`): filters, splits, renumbers and lays them out.

    lines ── read ──▶ columns ── filter ──▶ split ──▶ vocabularies ──▶ rows of the layout ── write ──▶ shards
                                              └──▶ seen pairs, candidates

Ids are renumbered by descending count in the training split, ties by first appearance; row 0 stands for users and items
that training never saw. The result is a function of the files, the options and the seed.

Shapes: N ratings.
"""

from collections.abc import Callable, Sequence
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
from dist_rec.prepare.lines import find_files
from dist_rec.prepare.ratings.candidates import find_candidates
from dist_rec.prepare.ratings.filter import choose
from dist_rec.prepare.ratings.ids import Encoded, save_vocabulary
from dist_rec.prepare.ratings.layout import Layout, bags, columns, interactions
from dist_rec.prepare.ratings.lines import Ratings, read_ratings
from dist_rec.prepare.ratings.split import (
    NOWHERE,
    SPLITS,
    TEST,
    TRAIN,
    VALID,
    LeaveOneOut,
    Mask,
    Parts,
    Splitter,
    check_filled,
)

SHARD_ROWS = 1 << 20


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
    """Files of the test ratings, for leave-one-out only."""
    separator: str | None = None
    """Separator of fields; None detects it in each file's first line."""
    bounds: tuple[float, float] | None = None
    """The smallest and the largest valid rating."""

    def __post_init__(self) -> None:
        _check(self.splitter, self.options, self.test_patterns, self.bounds)
        self._files, self._test_files = find_files(self.patterns, "FILES"), find_files(self.test_patterns, "--test")
        if both := sorted(set(self._files) & set(self._test_files)):
            raise UserError(f"{both[0]} is in both FILES and --test; remove it from one of them")
        self._left_out: dict[str, int] = {}

    def fit(self, folder: Path, pool: Workers) -> Encoded:
        """Reads, filters and splits the ratings, and numbers their users and items."""
        options, splitter, warn = self.options, self.splitter, self.warnings.append
        ratings, sizes = read_ratings([*self._files, *self._test_files], self.separator, self.bounds)
        test_N = np.arange(len(ratings)) >= sum(sizes[: len(self._files)])
        _check_times(ratings, splitter, test_N, warn)
        kept_N, self._left_out = choose(ratings, test_N, options.min_rating, options.min_interactions, warn)
        ratings, test_N = ratings.where(kept_N), test_N[kept_N]
        if self._test_files and not test_N.any():
            raise UserError("no rating of --test is left; lower --min-rating or --min-interactions")
        parts = splitter.parts(ratings, test_N) if isinstance(splitter, LeaveOneOut) else splitter.parts(ratings)
        encoded = Encoded.of(ratings, parts, options.implicit)
        check_filled(splitter, parts)
        self._left_out["of_items_that_training_never_saw"] = int((parts.split_N == NOWHERE).sum())
        return encoded

    def write(self, fit: Encoded, folder: Path, pool: Workers) -> Manifest:
        """Writes shards, vocabularies and seen pairs."""
        options, splitter, warn = self.options, self.splitter, self.warnings.append
        candidates = find_candidates(fit, splitter, warn) if isinstance(splitter, LeaveOneOut) else {}
        label_N = fit.label_N[fit.parts.targets(TRAIN)]
        mean = float(label_N.mean(dtype=np.float64))
        labels = Labels(min=float(label_N.min()), max=float(label_N.max()), mean=mean)
        levels = tuple(np.unique(label_N).tolist()) if options.levels else None
        of_columns = columns(options.layout, bool(candidates), options.levels)
        splits = {}
        for part, name in enumerate(SPLITS):
            if options.layout == "interactions":
                table = interactions(fit, part, candidates.get(part))
            else:
                table = bags(fit, part, options.layout, levels)
            if table.num_rows:
                splits[name] = _write_split(folder, name, table, arrow_schema(of_columns))
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
            seen=save_seen(folder, fit.pairs(fit.parts.targets(TRAIN))),
        )
        tables = {"user": Table(rows=fit.users), "item": Table(rows=fit.items)}
        if levels is not None:
            member = "item" if options.layout == "users" else "user"
            tables[f"{member}_level"] = Table(rows=tables[member].rows * len(levels))
        _warn(fit, splitter, options, labels, warn)
        return Manifest(
            columns=of_columns,
            tables=tables,
            splits=splits,
            transform=transform.model_dump(exclude_none=True),
        )


def _check(
    splitter: Splitter, options: Options, test_patterns: Sequence[str], bounds: tuple[float, float] | None
) -> None:
    if bounds is not None and not bounds[0] <= bounds[1]:
        raise UserError(f"--range {bounds[0]:g} {bounds[1]:g} is empty; give the lowest rating first")
    if splitter.name == "held-out-users" and options.layout != "users":
        raise UserError("--split held-out-users needs --layout users, since only their history represents such users")
    if options.levels and options.layout == "interactions":
        raise UserError("--levels needs --layout users or items, since an interaction's rating is its label")
    if isinstance(splitter, LeaveOneOut):
        if splitter.negatives and splitter.draw:
            raise UserError("--negatives gives the candidates and --draw draws them; choose one")
        if options.layout != "interactions" and (splitter.negatives or splitter.draw):
            raise UserError("candidates (--negatives, --draw) need --layout interactions")
    elif test_patterns:
        raise UserError(f"--test needs --split leave-one-out; {splitter.name} takes the test split from FILES")


def _check_times(ratings: Ratings, splitter: Splitter, test_N: Mask, warn: Callable[[str], None]) -> None:
    """Raises UserError if a split needs timestamps; warns if the order of the files takes their place."""
    if ratings.timed:
        return
    if splitter.name == "chronological":
        raise UserError("--split chronological needs timestamps, but the files have none; choose another --split")
    if isinstance(splitter, LeaveOneOut) and (splitter.validation or not test_N.any()):
        warn("the files have no timestamps: their order decides which of a user's ratings are the last")


def _write_split(folder: Path, name: str, table: pa.Table, schema: pa.Schema) -> Split:
    shards = []
    for number, start in enumerate(range(0, table.num_rows, SHARD_ROWS)):
        with ShardWriter(folder, f"{name}/{number:05}.arrows", schema) as writer:
            writer.write(table.slice(start, SHARD_ROWS))
            shards.append(writer.close())
    return Split(rows=table.num_rows, shards=tuple(shards))


def _warn(encoded: Encoded, splitter: Splitter, options: Options, labels: Labels, warn: Callable[[str], None]) -> None:
    """Warns of properties of the data that a user may not expect."""
    ratings, parts = encoded.ratings, encoded.parts
    if labels.min == labels.max and not options.implicit:
        warn(f"all ratings are {labels.min:g}: there is nothing to predict; --implicit takes them as choices")
    if splitter.name == "leave-one-out":
        untested_N = ~np.isin(ratings.user_N, ratings.user_N[parts.targets(TEST)])
        if users := np.unique(ratings.user_N[untested_N]).size:
            why = "they have too few ratings, or none in --test"
            warn(f"{users} users have no test rating, first user {ratings.first_user(untested_N)}: {why}")
    if splitter.name == "held-out-users":
        _warn_of_held_out(ratings, parts, warn)
    by_items = options.layout == "items"
    owner_N = ratings.item_N if by_items else ratings.user_N
    for part in (VALID, TEST):
        target_N = parts.targets(part)
        new_N = target_N & (encoded.user_N == 0)
        if options.layout == "interactions" and (users := np.unique(ratings.user_N[new_N]).size):
            first = f"first user {ratings.first_user(new_N)}"
            warn(f"{users} {SPLITS[part]} users were never seen in training, {first}: row 0 of the table")
        unknown_N = target_N & (encoded.item_N == 0)
        if unknown := int(unknown_N.sum()):
            first = f"first item {ratings.first_item(unknown_N)}"
            warn(f"{unknown} {SPLITS[part]} ratings are of items that training never saw, {first}: row 0 of the table")
        empty_N = target_N & ~np.isin(owner_N, owner_N[parts.given_N])
        if options.layout != "interactions" and (empty := np.unique(owner_N[empty_N]).size):
            first = f"item {ratings.first_item(empty_N)}" if by_items else f"user {ratings.first_user(empty_N)}"
            warn(f"{empty} {SPLITS[part]} rows have an empty history, first {first}")


def _warn_of_held_out(ratings: Ratings, parts: Parts, warn: Callable[[str], None]) -> None:
    nowhere_N = parts.split_N == NOWHERE
    if nowhere_N.any():
        first = f"first item {ratings.first_item(nowhere_N)}"
        warn(f"{int(nowhere_N.sum())} ratings of held-out users are left out, {first}: training never saw these items")
    target_N = parts.targets(TRAIN) | parts.targets(VALID) | parts.targets(TEST)
    without_N = ~np.isin(ratings.user_N, ratings.user_N[target_N])
    if users := np.unique(ratings.user_N[without_N]).size:
        first = f"first user {ratings.first_user(without_N)}"
        warn(f"{users} held-out users are not evaluated, {first}: they have too few ratings to hold one out")
