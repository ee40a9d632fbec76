"""Layouts of the shards: a row is an interaction, or all ratings of a user (or an item) in a split.

Shapes: N ratings, M of them, R rows, K codes.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.schema import Column
from dist_rec.core.spans import spans
from dist_rec.data.shards import lists
from dist_rec.prepare.ratings.codes import Mask, count, gather, group
from dist_rec.prepare.ratings.ids import Encoded, Ids
from dist_rec.prepare.ratings.split import TRAIN

Layout = Literal["interactions", "users", "items"]
Levels = Sequence[float] | None
SHARD_ROWS = 1 << 20


def columns(layout: Layout, candidates: bool, levels: bool = False) -> tuple[Column, ...]:
    """The columns of a layout, with `candidates` of interactions, or bags of `levels`: (member, rating) pairs."""
    label = Column(name="label", kind="label")
    if layout == "interactions":
        ids = tuple(Column(name=name, kind="categorical", table=name) for name in ("user", "item"))
        ranked = (Column(name="candidates", kind="sequence", table="item"),) if candidates else ()
        return (label, *ids, *ranked)
    owner, member = ("user", "item") if layout == "users" else ("item", "user")
    bags = [column for name in ("history", "target") for column in _of_bag(name, member, levels)]
    seen = (Column(name="seen", kind="bag", table=member),) if layout == "users" else ()
    return (label, Column(name=owner, kind="categorical", table=owner), *bags, *seen)


def _of_bag(name: str, member: str, levels: bool) -> list[Column]:
    weights = f"{name}_weight"
    found = [Column(name=name, kind="bag", table=member, weights=weights), Column(name=weights, kind="weight")]
    if levels:
        weighted = weights if name == "target" else None
        found.append(Column(name=f"{name}_level", kind="bag", table=f"{member}_level", weights=weighted))
    return found


def interactions(encoded: Encoded, part: int, candidates: pa.ListArray | None) -> Iterator[pa.Table]:
    """Shards with a row for each target of a part, in the order of the files, with candidates if they are given."""
    ratings, index = encoded.ratings, np.flatnonzero(encoded.parts.targets(part))
    for start in range(0, index.size, SHARD_ROWS):
        place_R = index[start : start + SHARD_ROWS]
        table = {
            "label": encoded.label_N[place_R],
            "user": encoded.user_K[ratings.user_N[place_R]],
            "item": encoded.item_K[ratings.item_N[place_R]],
        }
        if candidates is not None:
            table["candidates"] = candidates.slice(start, SHARD_ROWS)
        yield pa.table(table)


def bags(encoded: Encoded, part: int, layout: Layout, levels: Levels = None) -> Iterator[pa.Table]:
    """Shards with a row for each user (or item) that has a target in a part, by first appearance.

    The history holds the given ratings of that user (or item), the target those to predict; in training they are the
    same. Seen is what a user has in the history or in earlier splits; nothing in training. Users (or items) that
    training never saw have rows of their own, but share row 0 of the table. With levels, K ascending ratings, there are
    also bags of ids K * member + index of its rating among the levels.
    """
    owner_N, row_K = encoded.ratings.user_N, encoded.user_K
    if layout == "items":
        owner_N, row_K = encoded.ratings.item_N, encoded.item_K
    target_N = encoded.parts.targets(part)
    wanted_K = count(owner_N, target_N, row_K.size) > 0
    owners_R = np.flatnonzero(wanted_K)
    target = _bags(encoded, layout, target_N, owners_R, levels)
    history, seen_N = target, np.zeros(len(encoded.ratings), np.bool_)
    if part != TRAIN:
        known_N = gather(wanted_K, owner_N)
        history = _bags(encoded, layout, encoded.parts.given_N & known_N, owners_R, levels)
        seen_N = (encoded.parts.given_N | encoded.parts.before(part)) & known_N
    seen = {"seen": _bags(encoded, layout, seen_N, owners_R, None)[""]} if layout == "users" else {}
    table = pa.table(
        {"label": np.zeros(owners_R.size, np.float32), "user" if layout == "users" else "item": row_K[owners_R]}
        | {f"history{ending}": column for ending, column in history.items()}
        | {f"target{ending}": column for ending, column in target.items()}
        | seen
    )
    for start in range(0, table.num_rows, SHARD_ROWS):
        yield table.slice(start, SHARD_ROWS)


def _bags(
    encoded: Encoded, layout: Layout, among_N: Mask, owners_R: NDArray[np.integer], levels: Levels
) -> dict[str, pa.ListArray]:
    """The ratings `among_N`, all of some owners, owner by owner: members, weights and levels, by the name's ending."""
    ratings = encoded.ratings
    owner_N, owner_K, other_N, member_K = ratings.user_N, encoded.user_K, ratings.item_N, encoded.item_K
    if layout == "items":
        owner_N, owner_K, other_N, member_K = other_N, member_K, owner_N, owner_K
    lengths_R = count(owner_N, among_N, owner_K.size)[owners_R]
    place_M = group(owner_N, among_N)
    member_M, label_M = gather(member_K, gather(other_N, place_M)), gather(encoded.label_N, place_M)
    found = {"": lists(member_M, lengths_R), "_weight": lists(label_M, lengths_R)}
    if levels is not None:
        found["_level"] = lists(_levels(member_M, label_M, levels), lengths_R)
    return found


def _levels(member_M: Ids, label_M: NDArray[np.float32], levels: Sequence[float]) -> Ids:
    level_M = np.empty(member_M.size, np.int32)
    for span in spans(member_M.size):
        place = np.searchsorted(levels, label_M[span]).clip(max=len(levels) - 1)
        level_M[span] = member_M[span] * len(levels) + place
    return level_M
