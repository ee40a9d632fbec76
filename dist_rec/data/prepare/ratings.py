"""Ratings (`user item rating [timestamp]`) to a prepared folder: filtered, split, renumbered, laid out.

    lines ── read ──▶ columns ── filter ──▶ split ──▶ vocabularies ──▶ rows of the layout ── write ──▶ shards
                                              └──▶ seen pairs, candidates

Ids are renumbered by descending count in the training split, ties by first appearance; row 0 stands for users and items
that training never saw. Everything is a function of the files, the options and the seed.

Shapes: N ratings.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest, Split, Table
from dist_rec.data.negatives import SEEN
from dist_rec.data.prepare.lines import find_files
from dist_rec.data.prepare.prepared import Prepared
from dist_rec.data.prepare.ratings_candidates import find_candidates
from dist_rec.data.prepare.ratings_filter import choose
from dist_rec.data.prepare.ratings_ids import Encoded, save_vocabulary
from dist_rec.data.prepare.ratings_layout import Layout, bags, columns, interactions
from dist_rec.data.prepare.ratings_lines import read_ratings
from dist_rec.data.prepare.ratings_split import NOWHERE, SPLITS, TEST, TRAIN, VALID, LeaveOneOut, Splitter
from dist_rec.data.prepare.vocabulary import checksum
from dist_rec.data.shards import ShardWriter, arrow_schema, new_folder

SHARD_ROWS = 1 << 20


class Options(Config):
    """Which ratings count, and what becomes of them."""

    layout: Layout = "interactions"
    implicit: bool = False
    """Every rating is a 1."""
    min_rating: float | None = None
    """Ratings below are left out."""
    min_interactions: int = Field(1, ge=1)
    """Users with fewer of the ratings that are left are left out."""
    levels: bool = False
    """Bags of pairs of a member and its rating as well, with a table that has a row for each pair."""


class Labels(Config):
    """The labels of the training split."""

    min: float
    max: float
    mean: float


class Seen(Config):
    """The file of seen pairs (`dist_rec.data.negatives`)."""

    pairs: int
    checksum: str


class Transform(Config):
    """How lines became rows: `transform` of the manifest."""

    source: Literal["ratings"] = "ratings"
    options: Options
    split: dict[str, Any]
    """Name and settings of the split, see `dist_rec.data.prepare.ratings_split`."""
    ratings: dict[str, int]
    """Ratings that each split is trained or tested on."""
    labels: Labels
    levels: tuple[float, ...] | None
    """The different ratings of the training split, ascending, where there are bags of them."""
    left_out: dict[str, int]
    """Ratings that are in no split, by reason."""
    vocabulary: dict[str, str]
    """Checksum of every `vocabulary/<table>.txt`: on line k the id that became row k."""
    seen: Seen


def prepare(
    patterns: Sequence[str],
    out: Path,
    splitter: Splitter,
    options: Options,
    test_patterns: Sequence[str] = (),
    separator: str | None = None,
    bounds: tuple[float, float] | None = None,
) -> Prepared:
    """Turns rating files into a prepared folder; nothing of it is left if that fails.

    Args:
        patterns: files or glob patterns.
        out: the folder to make.
        splitter: the split and its settings.
        options: which ratings count, and the layout.
        test_patterns: files of the test ratings, for leave-one-out alone.
        separator: between fields; None finds it in each file's first line.
        bounds: the smallest and the largest rating that may occur.

    Raises:
        UserError: for options that contradict each other, and for every fault of the input.
    """
    began = time.perf_counter()
    _check(splitter, options, test_patterns)
    files, test_files = find_files(patterns, "FILES"), find_files(test_patterns, "--test")
    if both := sorted(set(files) & set(test_files)):
        raise UserError(f"{both[0]} is in both FILES and --test")
    with new_folder(out) as folder:
        ratings, sizes = read_ratings([*files, *test_files], separator, bounds)
        test_N = np.arange(len(ratings)) >= sum(sizes[: len(files)])
        kept_N, left_out = choose(ratings, test_N, options.min_rating, options.min_interactions)
        ratings, test_N = ratings.where(kept_N), test_N[kept_N]
        parts = splitter.parts(ratings, test_N) if isinstance(splitter, LeaveOneOut) else splitter.parts(ratings)
        encoded = Encoded.of(ratings, parts, options.implicit)
        left_out["of_items_that_training_never_saw"] = int((parts.split_N == NOWHERE).sum())
        warnings: list[str] = []
        manifest = _write(folder, encoded, splitter, options, left_out, warnings.append)
        _warn(encoded, splitter, options.layout, left_out, warnings.append)
    return Prepared(manifest, time.perf_counter() - began, tuple(warnings))


def _check(splitter: Splitter, options: Options, test_patterns: Sequence[str]) -> None:
    if splitter.name == "held-out-users" and options.layout != "users":
        raise UserError("--split held-out-users needs --layout users: a held-out user is known by the history alone")
    if options.levels and options.layout == "interactions":
        raise UserError("--levels is for --layout users or items: an interaction has its rating as label")
    if isinstance(splitter, LeaveOneOut):
        if splitter.negatives and splitter.draw:
            raise UserError("--negatives gives the candidates and --draw draws them; choose one")
        if options.layout != "interactions" and (splitter.negatives or splitter.draw):
            raise UserError("candidates (--negatives, --draw) are for --layout interactions")
    elif test_patterns:
        raise UserError(f"--test is for --split leave-one-out; {splitter.name} makes a test split of FILES")


def _write(
    folder: Path,
    encoded: Encoded,
    splitter: Splitter,
    options: Options,
    left_out: dict[str, int],
    warn: Callable[[str], None],
) -> Manifest:
    """Everything that a prepared folder holds."""
    candidates = find_candidates(encoded, splitter, warn) if isinstance(splitter, LeaveOneOut) else {}
    of_columns, levels = columns(options.layout, bool(candidates), options.levels), _levels(encoded, options)
    splits = {}
    for part, name in enumerate(SPLITS):
        if options.layout == "interactions":
            table = interactions(encoded, part, candidates.get(part))
        else:
            table = bags(encoded, part, options.layout, levels)
        if table.num_rows:
            splits[name] = _write_split(folder, name, table, arrow_schema(of_columns))
    transform = Transform(
        options=options,
        split=splitter.model_dump(exclude_none=True),
        ratings={name: int(encoded.parts.targets(part).sum()) for part, name in enumerate(SPLITS)},
        labels=_labels(encoded),
        levels=levels,
        left_out=left_out,
        vocabulary={
            "user": save_vocabulary(folder / "vocabulary" / "user.txt", encoded.user_K, encoded.ratings.users),
            "item": save_vocabulary(folder / "vocabulary" / "item.txt", encoded.item_K, encoded.ratings.items),
        },
        seen=_save_seen(folder, encoded),
    )
    tables = {"user": Table(rows=encoded.users), "item": Table(rows=encoded.items)}
    if levels is not None:
        member = "item" if options.layout == "users" else "user"
        tables[f"{member}_level"] = Table(rows=tables[member].rows * len(levels))
    manifest = Manifest(
        columns=of_columns,
        tables=tables,
        splits=splits,
        transform=transform.model_dump(exclude_none=True),
    )
    manifest.save(folder)
    return manifest


def _write_split(folder: Path, name: str, table: pa.Table, schema: pa.Schema) -> Split:
    shards = []
    for number, start in enumerate(range(0, table.num_rows, SHARD_ROWS)):
        with ShardWriter(folder, f"{name}/{number:05}.arrows", schema) as writer:
            writer.write(table.slice(start, SHARD_ROWS))
            shards.append(writer.close())
    return Split(rows=table.num_rows, shards=tuple(shards))


def _labels(encoded: Encoded) -> Labels:
    label_N = encoded.label_N[encoded.parts.targets(TRAIN)]
    return Labels(min=float(label_N.min()), max=float(label_N.max()), mean=float(label_N.mean(dtype=np.float64)))


def _levels(encoded: Encoded, options: Options) -> tuple[float, ...] | None:
    if not options.levels:
        return None
    return tuple(np.unique(encoded.label_N[encoded.parts.targets(TRAIN)]).tolist())


def _save_seen(folder: Path, encoded: Encoded) -> Seen:
    pair_S = encoded.pairs(encoded.parts.targets(TRAIN))
    np.save(folder / SEEN, pair_S)
    return Seen(pairs=pair_S.size, checksum=checksum(folder / SEEN))


def _warn(
    encoded: Encoded, splitter: Splitter, layout: Layout, left_out: dict[str, int], warn: Callable[[str], None]
) -> None:
    """Tells what a user may not expect of the data."""
    ratings, parts = encoded.ratings, encoded.parts
    if left_out["repeated"]:
        warn(f"{left_out['repeated']} ratings are left out: the user rated the item again later")
    if splitter.name == "leave-one-out":
        untested = np.setdiff1d(ratings.user_N, ratings.user_N[parts.targets(TEST)]).size
        if untested:
            warn(f"{untested} users have no test rating: they rated too little, or --test has none of them")
    owner_N = ratings.item_N if layout == "items" else ratings.user_N
    for part in (VALID, TEST):
        target_N = parts.targets(part)
        if unknown := int((encoded.item_N[target_N] == 0).sum()):
            warn(f"{unknown} {SPLITS[part]} ratings are of items that training never saw: row 0 of the table")
        if layout != "interactions" and (empty := np.setdiff1d(owner_N[target_N], owner_N[parts.given_N]).size):
            warn(f"{empty} {SPLITS[part]} rows have an empty history")
