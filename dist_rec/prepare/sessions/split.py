"""Ways to split sessions, or the events of each, into training, validation and test: pure functions.

Shapes: S sessions, Q sequences: sessions, or users with all their events.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.prepare.choice import choose
from dist_rec.prepare.sessions.order import Sessions
from dist_rec.prepare.sessions.times import day_of

TRAIN, VALID, TEST = 0, 1, 2
Parts = NDArray[np.int8]
Ints = NDArray[np.int64]


class Given(Config):
    """Files say what is for the test, and may say what is for validation."""

    name: Literal["given"] = "given"
    valid_share: float = Field(0.0, ge=0, lt=1)
    """Of the training sessions, the newest, for validation; for files without times, the last of them."""

    def parts(self, sessions: Sessions) -> Parts:
        """Where each session belongs, (S,)."""
        part_S = sessions.part_S.copy()
        train = np.flatnonzero(part_S == TRAIN)
        keys = [sessions.first_S[train]] + ([] if sessions.time_S is None else [sessions.time_S[train]])
        newest = train[np.lexsort(keys)][train.size - round(self.valid_share * train.size) :]
        part_S[newest] = VALID
        return part_S


class LastSession(Config):
    """The last session of each user for the test (Quadrana et al. 2017, section 4.1), where it is not the only one."""

    name: Literal["last-session"] = "last-session"
    validation: bool = False
    """Whether the one before is for validation, where it is not the first."""

    def parts(self, sessions: Sessions) -> Parts:
        """Where each session belongs, (S,)."""
        if sessions.user_S is None:
            raise UserError("--split last-session needs users; name their column with --user")
        count_U = np.bincount(sessions.user_S)
        place_S = np.arange(len(sessions)) - (count_U.cumsum() - count_U)[sessions.user_S]
        newest_S = count_U[sessions.user_S] - 1 - place_S
        valid_S = (newest_S == 1) & (place_S > 0) & self.validation
        return np.select([(newest_S == 0) & (place_S > 0), valid_S], [TEST, VALID], TRAIN).astype(np.int8)


class ByTime(Config):
    """The sessions whose last event lies in the last days for the test (Hidasi et al. 2016, section 4)."""

    name: Literal["time"] = "time"
    test_days: float = Field(gt=0)
    """Days of 24 hours, up to the last event of all."""
    valid_days: float = Field(0.0, ge=0)
    """Days before them, for validation."""

    def parts(self, sessions: Sessions) -> Parts:
        """Where each session belongs, (S,)."""
        if sessions.time_S is None:
            raise UserError("--split time needs times; name their column with --time")
        day, end = day_of(sessions.time_S), sessions.time_S.max()
        # In the type of the times: nanoseconds have more digits than a float.
        test, valid = (
            end - sessions.time_S.dtype.type(round(days * day))
            for days in (self.test_days, self.test_days + self.valid_days)
        )
        return np.select([sessions.time_S >= test, sessions.time_S >= valid], [TEST, VALID], TRAIN).astype(np.int8)


class LeaveOneOut(Config):
    """The last event of each session, or user, for the test, the one before it for validation; one stays at least."""

    name: Literal["leave-one-out"] = "leave-one-out"
    validation: bool = True
    """Whether the last event, or session, but one is for validation; so for leave-one-out if nothing is said."""

    def cuts(self, length_Q: Ints) -> tuple[Ints, Ints]:
        """How many events of each sequence are for training, and for training or validation, (Q,)."""
        before_test_Q = np.maximum(length_Q - 1, 1)
        return np.maximum(before_test_Q - self.validation, 1), before_test_Q


class Fraction(Config):
    """The last events of each session, or user, for the test, those before them for validation; one stays at least."""

    name: Literal["fraction"] = "fraction"
    test_share: float = Field(0.2, gt=0, lt=1)
    """Of the events, for the test."""
    valid_share: float = Field(0.1, ge=0, lt=1)
    """Of what the test leaves, for validation."""

    def cuts(self, length_Q: Ints) -> tuple[Ints, Ints]:
        """How many events of each sequence are for training, and for training or validation, (Q,)."""
        before_test_Q = np.maximum(length_Q - np.rint(self.test_share * length_Q), 1)
        train_Q = np.maximum(before_test_Q - np.rint(self.valid_share * before_test_Q), 1)
        return train_Q.astype(np.int64), before_test_Q.astype(np.int64)


BySession = Given | LastSession | ByTime
ByEvent = LeaveOneOut | Fraction
Splitter = BySession | ByEvent
SPLITTERS: dict[str, type[Splitter]] = {kind.model_fields["name"].default: kind for kind in get_args(Splitter)}


def splitter(name: str, settings: dict[str, Any]) -> Splitter:
    """The split of that name; settings that are None keep their default.

    Raises:
        UserError: naming the command's option, for a setting that the split has not, or of a wrong value.
    """
    return choose("--split", name, SPLITTERS, settings)


def check_files(splitter: Splitter, valid: Sequence[str], test: Sequence[str]) -> None:
    """Raises UserError if files of splits are there that the split does not know, or are missing."""
    if isinstance(splitter, Given):
        if not test:
            raise UserError("--split given needs --test with the files of the test")
        if valid and splitter.valid_share:
            raise UserError("--valid gives the validation files and --valid-share makes some of training; choose one")
    elif test or valid:
        option = "--test" if test else "--valid"
        raise UserError(f"{option} is for --split given; {splitter.name} makes its splits of FILES")


def must_be_filled(splitter: Splitter, part: int, has_files: bool) -> bool:
    """Whether a split must not be empty."""
    match splitter:
        case Given(valid_share=0) | LastSession(validation=False) | ByTime(valid_days=0):
            return part != VALID or has_files
        case LeaveOneOut(validation=False) | Fraction(valid_share=0):
            return part != VALID
    return True
