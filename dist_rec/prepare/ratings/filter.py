"""Selects ratings: each (user, item) once, high enough, of users with enough of them.

Shapes: N ratings, U users.
"""

from collections.abc import Callable

import numpy as np

from dist_rec.core.errors import UserError
from dist_rec.prepare.ratings.lines import Ratings
from dist_rec.prepare.ratings.split import Mask


def choose(
    ratings: Ratings, test_N: Mask, min_rating: float | None, min_interactions: int, warn: Callable[[str], None]
) -> tuple[Mask, dict[str, int]]:
    """Leaves out all but the newest rating of a (user, item), then low ratings, then those of users with few.

    Args:
        ratings: the ratings of the files.
        test_N: the ratings of test files.
        min_rating: the lowest rating that stays.
        min_interactions: number of ratings that a user needs to stay.
        warn: called if a (user, item) is rated again.

    Returns:
        The ratings that stay, and the number of those left out, by reason.

    Raises:
        UserError: if a (user, item) is in both training and test files, or nothing is left.
    """
    newest_N = _newest(ratings, test_N)
    high_N = newest_N if min_rating is None else newest_N & (ratings.rating_N >= min_rating)
    count_U = np.bincount(ratings.user_N[high_N], minlength=len(ratings.users))
    kept_N = high_N & (count_U >= min_interactions)[ratings.user_N]
    if not kept_N.any():
        raise UserError("no rating is left; lower --min-rating or --min-interactions")
    if not newest_N.all():
        pair = f"user {ratings.first_user(~newest_N)}, item {ratings.first_item(~newest_N)}"
        warn(f"{int((~newest_N).sum())} ratings are left out, first {pair}: the user rated the item again later")
    newest, high, kept = (int(mask_N.sum()) for mask_N in (newest_N, high_N, kept_N))
    return kept_N, {"repeated": len(ratings) - newest, "low": newest - high, "of_users_with_few": high - kept}


def _newest(ratings: Ratings, test_N: Mask) -> Mask:
    """The last rating of each (user, item), by time, ties by order."""
    order = np.lexsort((ratings.time_N, ratings.item_N, ratings.user_N))
    user, item = ratings.user_N[order], ratings.item_N[order]
    repeated = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
    both = np.flatnonzero(repeated & (test_N[order][1:] != test_N[order][:-1]))
    if both.size:
        shown = f"user {ratings.users[user[both[0]]]}, item {ratings.items[item[both[0]]]}"
        raise UserError(f"{shown} is rated in FILES and in --test; remove it from one of them")
    newest_N = np.ones(len(ratings), np.bool_)
    newest_N[order[:-1][repeated]] = False
    return newest_N
