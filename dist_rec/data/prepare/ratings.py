"""Ratings (`user item rating [timestamp]`) to a prepared folder: filtered, split, renumbered, laid out.

    lines ── read ──▶ columns ── filter ──▶ split ──▶ vocabularies ──▶ rows of the layout ── write ──▶ shards
                                              └──▶ seen pairs, candidates

Ids are renumbered by descending count in the training split, ties by first appearance; row 0 stands for users and items
that training never saw. Everything is a function of the files, the options and the seed.

Shapes: N ratings, K distinct users or items, U users, I items.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest, Split, Table
from dist_rec.data.negatives import SEEN, Negatives
from dist_rec.data.prepare.lines import find_files
from dist_rec.data.prepare.ratings_candidates import read_candidates
from dist_rec.data.prepare.ratings_filter import choose
from dist_rec.data.prepare.ratings_layout import Encoded, Ids, Layout, bags, columns, interactions, lists
from dist_rec.data.prepare.ratings_lines import Ratings, read_ratings
from dist_rec.data.prepare.ratings_split import (
    NOWHERE,
    SPLITS,
    TEST,
    TRAIN,
    VALID,
    LeaveOneOut,
    Parts,
    Splitter,
)
from dist_rec.data.prepare.vocabulary import checksum
from dist_rec.data.shards import ShardWriter, arrow_schema, new_folder

log = logging.getLogger(__name__)
SHARD_ROWS = 1 << 20


class Options(Config):
    """Which ratings count, and what becomes of them."""

    layout: Layout = "interactions"
    implicit: bool = False
    """Every rating is a 1."""
    min_rating: float | None = None
    """Ratings below are left out."""
    min_interactions: int = 1
    """Users with fewer of the ratings that are left are left out."""


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
    left_out: dict[str, int]
    """Ratings that are in no split, by reason."""
    vocabulary: dict[str, str]
    """Checksum of every `vocabulary/<table>.txt`: on line k the id that became row k."""
    seen: Seen


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did."""

    manifest: Manifest
    seconds: float

    def summary(self) -> dict[str, Any]:
        """For people and for `--json`."""
        transform = self.manifest.transform
        return {
            "splits": {
                name: {"rows": split.rows, "ratings": transform["ratings"][name]}
                for name, split in self.manifest.splits.items()
            },
            "rows": sum(split.rows for split in self.manifest.splits.values()),
            "users": self.manifest.tables["user"].rows - 1,
            "items": self.manifest.tables["item"].rows - 1,
            "left_out": transform["left_out"],
            "seconds": round(self.seconds, 3),
        }


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
        manifest = _write(folder, ratings, parts, splitter, options, left_out)
    return Prepared(manifest, time.perf_counter() - began)


def _check(splitter: Splitter, options: Options, test_patterns: Sequence[str]) -> None:
    if splitter.name == "held-out-users" and options.layout != "users":
        raise UserError("--split held-out-users needs --layout users: a held-out user is known by the history alone")
    if isinstance(splitter, LeaveOneOut):
        if splitter.negatives and splitter.draw:
            raise UserError("--negatives gives the candidates and --draw draws them; choose one")
        if options.layout != "interactions" and (splitter.negatives or splitter.draw):
            raise UserError("candidates (--negatives, --draw) are for --layout interactions")
    elif test_patterns:
        raise UserError(f"--test is for --split leave-one-out; {splitter.name} makes a test split of FILES")


def _write(
    folder: Path, ratings: Ratings, parts: Parts, splitter: Splitter, options: Options, left_out: dict[str, int]
) -> Manifest:
    """Everything that a prepared folder holds."""
    train_N = parts.targets(TRAIN)
    if not train_N.any():
        raise UserError("no rating is left for training; lower --test-share, or give more ratings")
    user_K, item_K = _number(ratings.user_N[train_N], ratings.users), _number(ratings.item_N[train_N], ratings.items)
    tables = {"user": Table(rows=int(user_K.max()) + 1), "item": Table(rows=int(item_K.max()) + 1)}
    label_N = np.ones(len(ratings), np.float32) if options.implicit else ratings.rating_N
    encoded = Encoded(user_K[ratings.user_N], item_K[ratings.item_N], label_N)
    candidates = _candidates(ratings, encoded, item_K, tables, parts, splitter)
    of_columns = columns(options.layout, bool(candidates))
    splits = {}
    for part, name in enumerate(SPLITS):
        table = _table(ratings, encoded, parts, part, options.layout, candidates)
        if table.num_rows:
            splits[name] = _write_split(folder, name, table, arrow_schema(of_columns))
    _warn(ratings, encoded, parts, options.layout)
    transform = Transform(
        options=options,
        split=splitter.model_dump(exclude_none=True),
        ratings={name: int(parts.targets(part).sum()) for part, name in enumerate(SPLITS)},
        labels=_labels(encoded.label_N[train_N]),
        left_out={**left_out, "of_items_that_training_never_saw": int((parts.split_N == NOWHERE).sum())},
        vocabulary={
            "user": _save_vocabulary(folder, "user", user_K, ratings.users),
            "item": _save_vocabulary(folder, "item", item_K, ratings.items),
        },
        seen=_save_seen(folder, encoded.pairs(train_N, tables["item"].rows)),
    )
    manifest = Manifest(columns=of_columns, tables=tables, splits=splits, transform=transform.model_dump())
    manifest.save(folder)
    return manifest


def _number(code_N: Ids, raw: pa.StringArray) -> Ids:
    """The id of each code: from 1 by descending count, ties by ascending code, and 0 for codes that do not occur."""
    count_K = np.bincount(code_N, minlength=len(raw))
    order = np.argsort(-count_K, kind="stable")
    id_K = np.empty(len(raw), np.int32)
    id_K[order] = np.arange(1, len(raw) + 1)
    id_K[count_K == 0] = 0
    return id_K


def _candidates(
    ratings: Ratings, encoded: Encoded, item_K: Ids, tables: dict[str, Table], parts: Parts, splitter: Splitter
) -> dict[int, pa.ListArray]:
    """The candidates of each split, if there are to be any; of training they are empty lists."""
    if not isinstance(splitter, LeaveOneOut) or not (splitter.negatives or splitter.draw):
        return {}
    found, num = {}, splitter.draw or 0
    if splitter.negatives:
        code_RK = read_candidates(splitter.negatives, ratings, parts.targets(TEST))
        found[TEST], num = _given(code_RK, ratings, item_K, parts), code_RK.shape[1]
    pair_S = encoded.pairs(np.ones(len(ratings), np.bool_), tables["item"].rows)
    negatives = Negatives(pair_S, tables["user"].rows, tables["item"].rows, splitter.seed, splitter.by)
    for part in {TRAIN, VALID, TEST} - found.keys():
        target_N = parts.targets(part)
        of_part = 0 if part == TRAIN else num
        drawn_RK = negatives.draw(part, encoded.user_N[target_N], encoded.item_N[target_N], of_part, distinct=True)
        found[part] = lists(drawn_RK.reshape(-1), np.full(len(drawn_RK), of_part))
    return found


def _given(code_RK: Ids, ratings: Ratings, item_K: Ids, parts: Parts) -> pa.ListArray:
    """The rows of given candidates, without the test item itself wherever it is among them."""
    other_RK = code_RK != ratings.item_N[parts.targets(TEST), None]
    item_RK = np.where(code_RK < 0, 0, item_K[code_RK])
    if own := int((~other_RK).sum()):
        log.warning("%d test items are among their own candidates; left out there", own)
    if unknown := int((item_RK == 0).sum()):
        log.warning("%d candidates of the test are items that training never saw: row 0 of the table", unknown)
    return lists(item_RK[other_RK], other_RK.sum(1))


def _table(
    ratings: Ratings, encoded: Encoded, parts: Parts, part: int, layout: Layout, candidates: dict[int, pa.ListArray]
) -> pa.Table:
    target_N = parts.targets(part)
    if layout == "interactions":
        return interactions(encoded, target_N, candidates.get(part))
    owner_N = ratings.user_N if layout == "users" else ratings.item_N
    return bags(encoded, layout, owner_N, parts.given_N, target_N)


def _write_split(folder: Path, name: str, table: pa.Table, schema: pa.Schema) -> Split:
    shards = []
    for number, start in enumerate(range(0, table.num_rows, SHARD_ROWS)):
        with ShardWriter(folder, f"{name}/{number:05}.arrows", schema) as writer:
            writer.write(table.slice(start, SHARD_ROWS))
            shards.append(writer.close())
    return Split(rows=table.num_rows, shards=tuple(shards))


def _warn(ratings: Ratings, encoded: Encoded, parts: Parts, layout: Layout) -> None:
    """Tells what validation and test hold that cannot be predicted well."""
    for part, name in ((VALID, "validation"), (TEST, "test")):
        target_N = parts.targets(part)
        if unknown := int((encoded.item_N[target_N] == 0).sum()):
            log.warning("%d %s ratings are of items that training never saw: row 0 of the table", unknown, name)
        owner_N = {"users": ratings.user_N, "items": ratings.item_N}.get(layout)
        if owner_N is not None:
            empty = np.setdiff1d(owner_N[target_N], owner_N[parts.given_N]).size
            if empty:
                log.warning("%d %s rows have an empty history", empty, name)


def _labels(label_N: NDArray[np.float32]) -> Labels:
    return Labels(min=float(label_N.min()), max=float(label_N.max()), mean=float(label_N.mean(dtype=np.float64)))


def _save_vocabulary(folder: Path, name: str, id_K: Ids, raw: pa.StringArray) -> str:
    path = folder / "vocabulary" / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    order = np.argsort(id_K, kind="stable")[int((id_K == 0).sum()) :]
    path.write_text("".join(f"{text}\n" for text in raw.take(pa.array(order)).to_pylist()), encoding="utf-8")
    return checksum(path)


def _save_seen(folder: Path, pair_S: NDArray[np.int64]) -> Seen:
    np.save(folder / SEEN, pair_S)
    return Seen(pairs=pair_S.size, checksum=checksum(folder / SEEN))
