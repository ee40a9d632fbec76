"""What a row of the shards is: an interaction, or all that a user (or an item) has in a split.

Shapes: N ratings, R rows.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.core.schema import Column
from dist_rec.data.prepare.ratings_split import Mask

Layout = Literal["interactions", "users", "items"]
Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Encoded:
    """N ratings by the rows of the tables."""

    user_N: Ids
    item_N: Ids
    label_N: NDArray[np.float32]
    """The rating, or 1 for implicit feedback."""

    def pairs(self, among_N: Mask, items: int) -> NDArray[np.int64]:
        """The sorted pairs `user * items + item` of some ratings; row 0, unknown items, has no part in them."""
        known_N = among_N & (self.item_N > 0)
        return np.sort(self.user_N[known_N].astype(np.int64) * items + self.item_N[known_N])


def columns(layout: Layout, candidates: bool) -> tuple[Column, ...]:
    """The columns of a layout; `candidates` are items to rank an interaction's item among."""
    label = Column(name="label", kind="label")
    if layout == "interactions":
        ids = tuple(Column(name=name, kind="categorical", table=name) for name in ("user", "item"))
        ranked = (Column(name="candidates", kind="sequence", table="item"),) if candidates else ()
        return (label, *ids, *ranked)
    owner, member = ("user", "item") if layout == "users" else ("item", "user")
    bags = tuple(
        column
        for name in ("history", "target")
        for column in (
            Column(name=name, kind="bag", table=member, weights=f"{name}_weight"),
            Column(name=f"{name}_weight", kind="weight"),
        )
    )
    return (label, Column(name=owner, kind="categorical", table=owner), *bags)


def interactions(encoded: Encoded, target_N: Mask, candidates: pa.ListArray | None) -> pa.Table:
    """A row for each target, in the order of the files, with a list of candidates if there are any."""
    table = {
        "label": encoded.label_N[target_N],
        "user": encoded.user_N[target_N],
        "item": encoded.item_N[target_N],
    }
    return pa.table(table if candidates is None else {**table, "candidates": candidates})


def lists(values: NDArray[Any], lengths_R: NDArray[np.integer]) -> pa.ListArray:
    """A list for each row, from the values of all lists end to end."""
    return pa.ListArray.from_arrays(np.concatenate(([0], lengths_R.cumsum())).astype(np.int32), values)


def bags(encoded: Encoded, layout: Layout, owner_N: Ids, given_N: Mask, target_N: Mask) -> pa.Table:
    """A row for each owner of a target, by ascending code.

    Args:
        encoded: the ratings.
        layout: users or items.
        owner_N: code of each rating's user (or item); owners that training never saw share a row of the table.
        given_N: ratings of the histories.
        target_N: ratings of the targets.
    """
    owners_R = np.unique(owner_N[target_N])
    id_N, member_N = encoded.user_N, encoded.item_N
    if layout == "items":
        id_N, member_N = member_N, id_N
    id_of = np.zeros(owner_N.max(initial=0) + 1, np.int32)
    id_of[owner_N] = id_N
    table = {"label": np.zeros(owners_R.size, np.float32), {"users": "user", "items": "item"}[layout]: id_of[owners_R]}
    for name, of_bag_N in (("history", given_N), ("target", target_N)):
        lengths_R, index = _group(owner_N, of_bag_N, owners_R)
        table[name] = lists(member_N[index], lengths_R)
        table[f"{name}_weight"] = lists(encoded.label_N[index], lengths_R)
    return pa.table(table)


def _group(owner_N: Ids, among_N: Mask, owners_R: Ids) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """The ratings `among_N` of each owner: how many they are, and the ratings owner by owner."""
    wanted = np.zeros(owner_N.max(initial=0) + 1, np.bool_)
    wanted[owners_R] = True
    index = np.flatnonzero(among_N & wanted[owner_N])
    lengths_R = np.bincount(owner_N[index], minlength=wanted.size)[owners_R]
    return lengths_R, index[np.argsort(owner_N[index], kind="stable")]
