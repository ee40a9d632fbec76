"""What a user may not expect of a split, one line each.

Shapes: N ratings, K codes.
"""

from collections.abc import Callable

import numpy as np

from dist_rec.prepare.ratings.codes import Codes, Mask, count, gather
from dist_rec.prepare.ratings.ids import Encoded
from dist_rec.prepare.ratings.layout import Layout
from dist_rec.prepare.ratings.lines import Ratings
from dist_rec.prepare.ratings.split import NOWHERE, SPLITS, TEST, TRAIN, VALID, Parts, Splitter

Warn = Callable[[str], None]


def remark(encoded: Encoded, splitter: Splitter, layout: Layout, warn: Warn) -> None:
    """Warns of properties of the data that a user may not expect."""
    if splitter.name == "leave-one-out":
        _of_untested(encoded.ratings, encoded.parts, warn)
    if layout == "interactions":
        _of_full_users(encoded, warn)
    if splitter.name == "held-out-users":
        _of_held_out(encoded.ratings, encoded.parts, warn)
    for part in (VALID, TEST):
        if layout == "interactions":
            _of_new_users(encoded, part, warn)
        _of_new_items(encoded, part, warn)
        if layout != "interactions":
            _of_empty_histories(encoded, part, layout, warn)


def _of_untested(ratings: Ratings, parts: Parts, warn: Warn) -> None:
    untested_N = ~_shared(ratings.user_N, parts.targets(TEST), len(ratings.users))
    if users := _different(ratings.user_N, untested_N, len(ratings.users)):
        why = "they have too few ratings, or none in --test"
        warn(f"{users} users have no test rating, first user {ratings.first_user(untested_N)}: {why}")


def _of_full_users(encoded: Encoded, warn: Warn) -> None:
    ratings, train_N = encoded.ratings, encoded.parts.targets(TRAIN)
    full_K = count(ratings.user_N, train_N, len(ratings.users)) >= encoded.items - 1
    full_N = train_N & gather(full_K, ratings.user_N)
    if full := int(full_K.sum()):
        first = f"first user {ratings.first_user(full_N)}"
        warn(f"{full} users have every item in training, {first}: negatives cannot be drawn for them; leave them out")


def _of_held_out(ratings: Ratings, parts: Parts, warn: Warn) -> None:
    nowhere_N = parts.split_N == NOWHERE
    if nowhere_N.any():
        first = f"first item {ratings.first_item(nowhere_N)}"
        warn(f"{int(nowhere_N.sum())} ratings of held-out users are left out, {first}: training never saw these items")
    target_N = parts.targets(TRAIN) | parts.targets(VALID) | parts.targets(TEST)
    without_N = ~_shared(ratings.user_N, target_N, len(ratings.users))
    if users := _different(ratings.user_N, without_N, len(ratings.users)):
        first = f"first user {ratings.first_user(without_N)}"
        warn(f"{users} held-out users are not evaluated, {first}: they have too few ratings to hold one out")


def _of_new_users(encoded: Encoded, part: int, warn: Warn) -> None:
    ratings = encoded.ratings
    new_N = encoded.parts.targets(part) & gather(encoded.user_K == 0, ratings.user_N)
    if users := _different(ratings.user_N, new_N, len(ratings.users)):
        first = f"first user {ratings.first_user(new_N)}"
        warn(f"{users} {SPLITS[part]} users were never seen in training, {first}: row 0 of the table")


def _of_new_items(encoded: Encoded, part: int, warn: Warn) -> None:
    ratings = encoded.ratings
    new_N = encoded.parts.targets(part) & gather(encoded.item_K == 0, ratings.item_N)
    if unknown := int(new_N.sum()):
        first = f"first item {ratings.first_item(new_N)}"
        warn(f"{unknown} {SPLITS[part]} ratings are of items that training never saw, {first}: row 0 of the table")


def _of_empty_histories(encoded: Encoded, part: int, layout: Layout, warn: Warn) -> None:
    ratings, by_items = encoded.ratings, layout == "items"
    owner_N, owners = (ratings.item_N, len(ratings.items)) if by_items else (ratings.user_N, len(ratings.users))
    empty_N = encoded.parts.targets(part) & ~_shared(owner_N, encoded.parts.given_N, owners)
    if empty := _different(owner_N, empty_N, owners):
        first = f"item {ratings.first_item(empty_N)}" if by_items else f"user {ratings.first_user(empty_N)}"
        warn(f"{empty} {SPLITS[part]} rows have an empty history, first {first}")


def _shared(code_N: Codes, among_N: Mask, codes: int) -> Mask:
    """Which ratings have a code that one of the ratings `among_N` has."""
    return gather(count(code_N, among_N, codes) > 0, code_N)


def _different(code_N: Codes, among_N: Mask, codes: int) -> int:
    """How many codes the ratings `among_N` have."""
    return int(np.count_nonzero(count(code_N, among_N, codes)))
