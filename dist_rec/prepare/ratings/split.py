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
from dist_rec.core.splitmix import shuffle_keys, shuffled
from dist_rec.prepare.choice import choose
from dist_rec.prepare.ratings.codes import Mask, count, gather, group_spans
from dist_rec.prepare.ratings.lines import Ratings

SPLITS = ("train", "valid", "test")
FILES_OF = ("FILES", "--valid", "--test")
"""What names the files of each split on the command line."""
TRAIN, VALID, TEST, NOWHERE = 0, 1, 2, -1
SplitIds = NDArray[np.int8]
"""A split of each rating: TRAIN, VALID, TEST or NOWHERE."""


@dataclass(frozen=True)
class Parts:
    """Assignment of each rating to a split."""

    split_N: SplitIds
    given_N: Mask
    """Ratings that a model is given of a user: the training ratings and, of held-out users, the fold-in."""

    @classmethod
    def of(cls, split_N: SplitIds) -> "Parts":
        """The training ratings are what a model is given."""
        return cls(split_N, split_N == TRAIN)

    @classmethod
    def of_masks(cls, test_N: Mask, valid_N: Mask) -> "Parts":
        """These ratings for test and validation, the others for training."""
        split_N = np.full(test_N.size, TRAIN, np.int8)
        split_N[valid_N] = VALID
        split_N[test_N] = TEST
        return cls.of(split_N)

    def targets(self, split: int) -> Mask:
        """The ratings that a model is trained or evaluated on in a split."""
        return (self.split_N == split) & (self.given_N == (split == TRAIN))

    def before(self, split: int) -> Mask:
        """The ratings of earlier splits."""
        return (self.split_N >= TRAIN) & (self.split_N < split)


class _Ranked(Config):
    """A split whose test items are each ranked among others, its candidates."""

    name: str
    negatives: str | None = None
    """File of the test candidates: `(user,item)`, then the items that the item is ranked among."""
    draw: int | None = Field(None, gt=0)
    """Number of candidates to draw for each test rating instead."""
    by: Literal["uniform", "popularity"] = "uniform"
    """Distribution of drawn candidates: uniform, or by the number of ratings in training."""

    @field_serializer("negatives")
    def _file_name(self, path: str | None) -> str | None:
        """The manifest must not depend on the folder of the file."""
        return None if path is None else Path(path).name


class Given(_Ranked):
    """As the files are given: FILES for training, those of --valid and --test for validation and test."""

    name: Literal["given"] = "given"
    seed: int = Field(0, ge=0)
    """Seed of drawn candidates."""

    def parts(self, ratings: Ratings, files_N: SplitIds) -> Parts:
        """Splits the ratings; `files_N` is the split whose files each rating is from."""
        return Parts.of(files_N)


class LeaveOneOut(_Ranked):
    """The last rating of each user for the test, the one before it for validation (He et al. 2017, section 4.1).

    At least one rating stays for training: the last of two is for the test, a single one for training.
    """

    name: Literal["leave-one-out"] = "leave-one-out"
    validation: bool = True
    """Whether the last rating but one is for validation; for a final training it may be for training."""
    seed: int = Field(0, ge=0)
    """Seed of drawn candidates."""

    def parts(self, ratings: Ratings, files_N: SplitIds) -> Parts:
        """Splits; if any ratings are from files of the test already, only the last of the rest is for validation."""
        test_N = files_N == TEST
        rank_N, count_U = _ranks(ratings, ratings.time_N, ~test_N)
        count_N = gather(count_U, ratings.user_N)
        newest_N, kept = count_N - 1 - rank_N, self.validation
        if test_N.any():
            return Parts.of_masks(test_N, ~test_N & (newest_N == 0) & (count_N > 1) & kept)
        return Parts.of_masks((newest_N == 0) & (count_N > 1), (newest_N == 1) & (count_N > 2) & kept)


class Random(Config):
    """Each rating is assigned at random."""

    name: Literal["random"] = "random"
    test_share: float = Field(0.1, gt=0, lt=1)
    """Share of the ratings for the test."""
    valid_share: float = Field(0.1, ge=0, lt=1)
    """Share of the remaining ratings for validation."""
    seed: int = Field(0, ge=0)
    """Seed of the assignment."""

    def parts(self, ratings: Ratings, files_N: SplitIds) -> Parts:
        """Splits the ratings, whatever the file."""
        num_test = int(np.rint(self.test_share * len(ratings)))
        num_valid = int(np.rint(self.valid_share * (len(ratings) - num_test)))
        order_N, split_N = shuffled(len(ratings), self.seed), np.full(len(ratings), TRAIN, np.int8)
        split_N[order_N[:num_test]] = TEST
        split_N[order_N[num_test : num_test + num_valid]] = VALID
        return Parts.of(split_N)


class Chronological(Config):
    """The newest ratings of each user for the test, those before them for validation; at least one for training."""

    name: Literal["chronological"] = "chronological"
    test_share: float = Field(0.2, gt=0, lt=1)
    """Share of a user's ratings for the test."""
    valid_share: float = Field(0.1, ge=0, lt=1)
    """Share of a user's remaining ratings for validation."""

    def parts(self, ratings: Ratings, files_N: SplitIds) -> Parts:
        """Splits the ratings, whatever the file."""
        rank_N, count_U = _ranks(ratings, ratings.time_N, np.ones(len(ratings), np.bool_))
        first_test_U = np.maximum(count_U - np.rint(self.test_share * count_U), 1)
        first_valid_U = np.maximum(first_test_U - np.rint(self.valid_share * first_test_U), 1)
        first_test_N, first_valid_N = (
            gather(first_U.astype(np.int32), ratings.user_N) for first_U in (first_test_U, first_valid_U)
        )
        return Parts.of_masks(rank_N >= first_test_N, (rank_N >= first_valid_N) & (rank_N < first_test_N))


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

    def parts(self, ratings: Ratings, files_N: SplitIds) -> Parts:
        """Splits the ratings, whatever the file."""
        everywhere_N = np.ones(len(ratings), np.bool_)
        users = np.flatnonzero(count(ratings.user_N, everywhere_N, len(ratings.users)))
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
        split_N = gather(split_U, ratings.user_N)
        known_I = count(ratings.item_N, split_N == TRAIN, len(ratings.items)) > 0
        split_N[~gather(known_I, ratings.item_N)] = NOWHERE
        rank_N, count_U = _ranks(ratings, shuffle_keys(len(ratings), self.seed, 1), split_N != NOWHERE)
        # Rounded before floor, so that a fifth of 5 ratings is 1 despite floating-point error.
        num_target_U = np.floor(np.round((1 - self.fold_in) * count_U, 6)).astype(np.int32)
        shown_N = rank_N >= gather(num_target_U, ratings.user_N)
        return Parts(split_N, (split_N != NOWHERE) & ((split_N == TRAIN) | shown_N))


WithCandidates = LeaveOneOut | Given
Splitter = LeaveOneOut | Random | Chronological | HeldOutUsers | Given
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
        case LeaveOneOut(validation=False) | Random(valid_share=0) | Chronological(valid_share=0) | Given():
            requested = [TEST]
        case _:
            requested = [VALID, TEST]
    for part in requested:
        if not parts.targets(part).any():
            option = NO_VALIDATION.get(splitter.name) if part == VALID else None
            remedy = f"give more, or {option}" if option else "give more"
            raise UserError(f"--split {splitter.name}: no rating is left for {SPLITS[part]}; {remedy}")


def _ranks(ratings: Ratings, key_N: NDArray[Any], among_N: Mask) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The rank of each rating among those of its user, by ascending key, ties by order; and each user's number of them.

    Only the ratings `among_N` count; the rank of the others is -1. Shapes: [N], [U].
    """
    users, rank_N = len(ratings.users), np.full(len(ratings), -1, np.int32)
    for place_M in group_spans(ratings.user_N, among_N, users):
        user_M = ratings.user_N[place_M]
        order_M = np.lexsort((key_N[place_M], user_M))
        rank_N[place_M[order_M]] = np.arange(user_M.size) - np.searchsorted(user_M, user_M)
    return rank_N, count(ratings.user_N, among_N, users).astype(np.int32)
