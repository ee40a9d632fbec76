"""Splits of ratings into training, validation and test: pure functions of the ratings and a seed.

Shapes: N ratings, U users.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_serializer

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.splitmix import shuffled
from dist_rec.prepare.choice import choose
from dist_rec.prepare.ratings.lines import Ratings

SPLITS = ("train", "valid", "test")
TRAIN, VALID, TEST, NOWHERE = 0, 1, 2, -1
Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """Assignment of each rating to a split."""

    split_N: NDArray[np.int8]
    """TRAIN, VALID, TEST or NOWHERE."""
    given_N: Mask
    """Ratings that a model is given of a user: the training ratings and, of held-out users, the fold-in."""

    @classmethod
    def of(cls, test_N: Mask, valid_N: Mask) -> "Parts":
        """These ratings for test and validation, the others for training."""
        split_N = np.select([test_N, valid_N], [TEST, VALID], TRAIN).astype(np.int8)
        return cls(split_N, split_N == TRAIN)

    def targets(self, split: int) -> Mask:
        """The ratings that a model is trained or evaluated on in a split."""
        return (self.split_N == split) & (self.given_N == (split == TRAIN))


class LeaveOneOut(Config):
    """The last rating of each user for the test, the one before it for validation (He et al. 2017, section 4.1).

    At least one rating stays for training: the last of two is for the test, a single one for training.
    """

    name: Literal["leave-one-out"] = "leave-one-out"
    negatives: str | None = None
    """File of the test candidates: `(user,item)`, then the items that the item is ranked among."""
    draw: int | None = Field(None, gt=0)
    """Number of candidates to draw for each test rating instead."""
    by: Literal["uniform", "popularity"] = "uniform"
    """Distribution of drawn candidates: uniform, or by the number of ratings in training."""
    validation: bool = True
    """Whether the last rating but one is for validation; for a final training it may be for training."""
    seed: int = Field(0, ge=0)
    """Seed of drawn candidates."""

    @field_serializer("negatives")
    def _name(self, path: str | None) -> str | None:
        """The manifest must not depend on the folder of the file."""
        return None if path is None else Path(path).name

    def parts(self, ratings: Ratings, test_N: Mask) -> Parts:
        """Splits; if any ratings are for the test already, `test_N`, only the last of the rest is for validation."""
        rank_N, count_N = _ranks(ratings.user_N, ratings.time_N, ~test_N)
        newest_N, kept = count_N - 1 - rank_N, self.validation
        if test_N.any():
            return Parts.of(test_N, ~test_N & (newest_N == 0) & (count_N > 1) & kept)
        return Parts.of((newest_N == 0) & (count_N > 1), (newest_N == 1) & (count_N > 2) & kept)


class Random(Config):
    """Each rating is assigned at random."""

    name: Literal["random"] = "random"
    test_share: float = Field(0.1, gt=0, lt=1)
    """Share of the ratings for the test."""
    valid_share: float = Field(0.1, ge=0, lt=1)
    """Share of the remaining ratings for validation."""
    seed: int = Field(0, ge=0)
    """Seed of the assignment."""

    def parts(self, ratings: Ratings) -> Parts:
        """Splits the ratings."""
        rank_N = np.argsort(shuffled(len(ratings), self.seed))
        num_test = np.rint(self.test_share * len(ratings))
        num_valid = np.rint(self.valid_share * (len(ratings) - num_test))
        return Parts.of(rank_N < num_test, (rank_N >= num_test) & (rank_N < num_test + num_valid))


class Chronological(Config):
    """The newest ratings of each user for the test, those before them for validation; at least one for training."""

    name: Literal["chronological"] = "chronological"
    test_share: float = Field(0.2, gt=0, lt=1)
    """Share of a user's ratings for the test."""
    valid_share: float = Field(0.1, ge=0, lt=1)
    """Share of a user's remaining ratings for validation."""

    def parts(self, ratings: Ratings) -> Parts:
        """Splits the ratings."""
        rank_N, count_N = _ranks(ratings.user_N, ratings.time_N, np.ones(len(ratings), np.bool_))
        first_test_N = np.maximum(count_N - np.rint(self.test_share * count_N), 1)
        first_valid_N = np.maximum(first_test_N - np.rint(self.valid_share * first_test_N), 1)
        return Parts.of(rank_N >= first_test_N, (rank_N >= first_valid_N) & (rank_N < first_test_N))


class HeldOutUsers(Config):
    """Users whom training never sees; part of their ratings is given, the rest predicted (Liang et al. 2018, 4.1).

    Their ratings of items that training never saw are left out.
    """

    name: Literal["held-out-users"] = "held-out-users"
    valid_users: int = Field(gt=0)
    """Number of users for validation."""
    test_users: int = Field(gt=0)
    """Number of users for the test."""
    fold_in: float = Field(0.8, gt=0, lt=1)
    """Share of a held-out user's ratings that is given, rounded up."""
    seed: int = Field(0, ge=0)
    """Seed of the choice of users and of their given ratings."""

    def parts(self, ratings: Ratings) -> Parts:
        """Splits the ratings."""
        users = np.unique(ratings.user_N)
        held_out = self.valid_users + self.test_users
        if held_out >= users.size:
            raise UserError(
                f"--valid-users {self.valid_users} and --test-users {self.test_users} leave none of the "
                f"{users.size} users for training; hold out fewer"
            )
        split_U = np.full(len(ratings.users), TRAIN, np.int8)
        held = users[shuffled(users.size, self.seed, 0)[:held_out]]
        split_U[held[: self.test_users]] = TEST
        split_U[held[self.test_users :]] = VALID
        split_N = split_U[ratings.user_N]
        known_I = np.zeros(len(ratings.items), np.bool_)
        known_I[ratings.item_N[split_N == TRAIN]] = True
        split_N[~known_I[ratings.item_N]] = NOWHERE
        order_N = np.argsort(shuffled(len(ratings), self.seed, 1))
        rank_N, count_N = _ranks(ratings.user_N, order_N, split_N != NOWHERE)
        # Rounded before floor, so that a fifth of 5 ratings is 1 despite floating-point error.
        num_target_N = np.floor(np.round((1 - self.fold_in) * count_N, 6))
        return Parts(split_N, (split_N != NOWHERE) & ((split_N == TRAIN) | (rank_N >= num_target_N)))


Splitter = LeaveOneOut | Random | Chronological | HeldOutUsers
NO_VALIDATION = {"leave-one-out": "--no-validation", "random": "--valid-share 0", "chronological": "--valid-share 0"}
SPLITTERS: dict[str, type[Splitter]] = {kind.model_fields["name"].default: kind for kind in get_args(Splitter)}


def splitter(name: str, settings: dict[str, Any]) -> Splitter:
    """The split of that name; settings that are None keep their default.

    Raises:
        UserError: naming the command's option, if the split lacks a setting or does not have it, or a value is invalid.
    """
    return choose("--split", name, SPLITTERS, settings)


def check_filled(splitter: Splitter, parts: Parts) -> None:
    """Raises UserError if a requested split is empty."""
    match splitter:
        case LeaveOneOut(validation=False) | Random(valid_share=0) | Chronological(valid_share=0):
            requested = [TEST]
        case _:
            requested = [VALID, TEST]
    for part in requested:
        if not parts.targets(part).any():
            option = NO_VALIDATION.get(splitter.name) if part == VALID else None
            remedy = f"give more, or {option}" if option else "give more"
            raise UserError(f"--split {splitter.name}: no rating is left for {SPLITS[part]}; {remedy}")


def _ranks(user_N: NDArray[np.int32], key_N: Ints, among_N: Mask) -> tuple[Ints, Ints]:
    """The rank of each rating among those of its user, by ascending key, ties by order; and the user's number of them.

    Only the ratings `among_N` count; for the others the results are -1 and 0.
    """
    index = np.flatnonzero(among_N)
    order = index[np.lexsort((key_N[index], user_N[index]))]
    user = user_N[order]
    counts_U = np.bincount(user)
    starts_U = counts_U.cumsum() - counts_U
    rank_N, count_N = np.full(user_N.size, -1), np.zeros(user_N.size, np.int64)
    rank_N[order] = np.arange(order.size) - starts_U[user]
    count_N[order] = counts_U[user]
    return rank_N, count_N
