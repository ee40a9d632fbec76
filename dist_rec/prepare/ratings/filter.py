"""Selects ratings: each (user, item) once, high enough, of users with enough of them.

Shapes: N ratings, M of them, U users.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.prepare.ratings.codes import Mask, count, gather, group_spans
from dist_rec.prepare.ratings.lines import Ratings
from dist_rec.prepare.ratings.split import FILES_OF, SplitIds


def choose(
    ratings: Ratings,
    files_N: SplitIds,
    min_rating: float | None,
    min_interactions: int,
    warn: Callable[[str], None],
) -> tuple[Mask, dict[str, int]]:
    """Leaves out all but the newest rating of a (user, item), then low ratings, then those of users with few.

    Args:
        ratings: the ratings of all files.
        files_N: the split whose files each rating is from.
        min_rating: the lowest rating that stays.
        min_interactions: number of ratings that a user needs to stay, of all files together.
        warn: called if a (user, item) is rated again.

    Returns:
        The ratings that stay, and the number of those left out, by reason.

    Raises:
        UserError: if a (user, item) is in files of two splits, or nothing is left of the files of one.
    """
    newest_N = _newest(ratings, files_N)
    high_N = newest_N if min_rating is None else newest_N & (ratings.rating_N >= min_rating)
    count_U = count(ratings.user_N, high_N, len(ratings.users))
    kept_N = high_N & gather(count_U >= min_interactions, ratings.user_N)
    _check_left(files_N, kept_N)
    if not newest_N.all():
        pair = f"user {ratings.first_user(~newest_N)}, item {ratings.first_item(~newest_N)}"
        warn(f"{int((~newest_N).sum())} ratings are left out, first {pair}: the user rated the item again later")
    newest, high, kept = (int(mask_N.sum()) for mask_N in (newest_N, high_N, kept_N))
    return kept_N, {"repeated": len(ratings) - newest, "low": newest - high, "of_users_with_few": high - kept}


def _newest(ratings: Ratings, files_N: SplitIds) -> Mask:
    """The last rating of each (user, item), by time, ties by order."""
    every_N, newest_N = np.ones((2, len(ratings)), np.bool_)
    for place_M in group_spans(ratings.user_N, every_N, len(ratings.users)):
        user_M, item_M = ratings.user_N[place_M], ratings.item_N[place_M]
        order_M = np.lexsort((ratings.time_N[place_M], item_M, user_M))
        place_M, user_M, item_M = place_M[order_M], user_M[order_M], item_M[order_M]
        repeated = np.flatnonzero((user_M[1:] == user_M[:-1]) & (item_M[1:] == item_M[:-1]))
        older, newer = place_M[repeated], place_M[repeated + 1]
        _check_apart(ratings, files_N, older, newer)
        newest_N[older] = False
    return newest_N


def _check_apart(ratings: Ratings, files_N: SplitIds, older: NDArray[np.int32], newer: NDArray[np.int32]) -> None:
    """Raises UserError if ratings of the same (user, item) are from files of two splits."""
    both = np.flatnonzero(files_N[older] != files_N[newer])
    if both.size:
        place = older[both[0]]
        shown = f"user {ratings.users[ratings.user_N[place]]}, item {ratings.items[ratings.item_N[place]]}"
        first, second = (FILES_OF[split] for split in sorted((files_N[place], files_N[newer[both[0]]])))
        raise UserError(f"{shown} is rated in {first} and in {second}; remove it from one of them")


def _check_left(files_N: SplitIds, kept_N: Mask) -> None:
    """Raises UserError if nothing is left, of all files or of those of a split."""
    if not kept_N.any():
        raise UserError("no rating is left; lower --min-rating or --min-interactions")
    for split, files in enumerate(FILES_OF):
        of_split_N = files_N == split
        if of_split_N.any() and not (of_split_N & kept_N).any():
            raise UserError(f"no rating of {files} is left; lower --min-rating or --min-interactions")
