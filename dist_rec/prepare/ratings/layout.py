"""Layouts of the shards: a row is an interaction, or all ratings of a user (or an item) in a split.

Shapes: N ratings, R rows.
"""

from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.schema import Column
from dist_rec.data.shards import lists
from dist_rec.prepare.ratings.ids import Encoded, Ids
from dist_rec.prepare.ratings.split import Mask

Layout = Literal["interactions", "users", "items"]


def columns(layout: Layout, candidates: bool, levels: bool = False) -> tuple[Column, ...]:
    """The columns of a layout, with `candidates` of interactions, or bags of `levels`: (member, rating) pairs."""
    label = Column(name="label", kind="label")
    if layout == "interactions":
        ids = tuple(Column(name=name, kind="categorical", table=name) for name in ("user", "item"))
        ranked = (Column(name="candidates", kind="sequence", table="item"),) if candidates else ()
        return (label, *ids, *ranked)
    owner, member = ("user", "item") if layout == "users" else ("item", "user")
    bags = [column for name in ("history", "target") for column in _of_bag(name, member, levels)]
    return (label, Column(name=owner, kind="categorical", table=owner), *bags)


def _of_bag(name: str, member: str, levels: bool) -> list[Column]:
    weights = f"{name}_weight"
    found = [Column(name=name, kind="bag", table=member, weights=weights), Column(name=weights, kind="weight")]
    if levels:
        weighted = weights if name == "target" else None
        found.append(Column(name=f"{name}_level", kind="bag", table=f"{member}_level", weights=weighted))
    return found


def interactions(encoded: Encoded, part: int, candidates: pa.ListArray | None) -> pa.Table:
    """A row for each target of a part, in the order of the files, with a list of candidates if they are given."""
    target_N = encoded.parts.targets(part)
    table = {
        "label": encoded.label_N[target_N],
        "user": encoded.user_N[target_N],
        "item": encoded.item_N[target_N],
    }
    return pa.table(table if candidates is None else {**table, "candidates": candidates})


def bags(encoded: Encoded, part: int, layout: Layout, levels: tuple[float, ...] | None = None) -> pa.Table:
    """A row for each user (or item) that has a target in a part, by first appearance.

    The history holds the given ratings of that user (or item), the target those to predict; in training they are the
    same. Users (or items) that training never saw have rows of their own, but share row 0 of the table. With levels, K
    ascending ratings, there are also bags of ids K * member + index of its rating among the levels.
    """
    ratings = encoded.ratings
    owner_N, row_K, member_N = ratings.user_N, encoded.user_K, encoded.item_N
    if layout == "items":
        owner_N, row_K, member_N = ratings.item_N, encoded.item_K, encoded.user_N
    target_N = encoded.parts.targets(part)
    owners_R = np.unique(owner_N[target_N])
    table = {"label": np.zeros(owners_R.size, np.float32), "user" if layout == "users" else "item": row_K[owners_R]}
    for name, of_bag_N in (("history", encoded.parts.given_N), ("target", target_N)):
        lengths_R, index = _group(owner_N, of_bag_N, owners_R, row_K.size)
        table[name] = lists(member_N[index], lengths_R)
        table[f"{name}_weight"] = lists(encoded.label_N[index], lengths_R)
        if levels is not None:
            place = np.searchsorted(levels, encoded.label_N[index]).clip(max=len(levels) - 1)
            table[f"{name}_level"] = lists((member_N[index] * len(levels) + place).astype(np.int32), lengths_R)
    return pa.table(table)


def _group(owner_N: Ids, among_N: Mask, owners_R: Ids, owners: int) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """The ratings `among_N` of some owners: their number for each owner, and their indices, owner by owner."""
    wanted_K = np.zeros(owners, np.bool_)
    wanted_K[owners_R] = True
    index = np.flatnonzero(among_N & wanted_K[owner_N])
    lengths_R = np.bincount(owner_N[index], minlength=owners)[owners_R]
    return lengths_R, index[np.argsort(owner_N[index], kind="stable")]
