"""Sequences of events, each cut into training, validation and test.

A sequence is a session or, in layouts of users, all sessions of one, end to end.

Shapes: N events, S sessions, Q sequences.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dist_rec.prepare.sessions.events import Ints
from dist_rec.prepare.sessions.order import Mask, Sessions
from dist_rec.prepare.sessions.split import TEST, TRAIN, VALID, Fraction, LeaveOneOut, Splitter

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """Q sequences, end to end: training events, then those of validation, then those of the test."""

    item_N: Ints
    """Codes of items; once they are numbered, rows of the table."""
    begin_Q: Places
    """Where each begins among the events."""
    train_Q: Places
    """Where its training events end."""
    valid_Q: Places
    """Where its validation events end."""
    end_Q: Places
    user_Q: Ints | None
    """Code of the user, ascending."""

    @classmethod
    def of(cls, sessions: Sessions, splitter: Splitter, merged: bool) -> "Sequences":
        """Cuts sessions or, if they are to be merged and have users, all that a user has."""
        user_S = sessions.user_S
        begins_S = np.ones(len(sessions), np.bool_)
        if merged and user_S is not None:
            begins_S[1:] = user_S[1:] != user_S[:-1]
        first_Q = np.flatnonzero(begins_S)
        length_Q = np.add.reduceat(sessions.length_S, first_Q)
        end_Q = length_Q.cumsum()
        if isinstance(splitter, LeaveOneOut | Fraction):
            train_Q, valid_Q = splitter.cuts(length_Q)
        else:
            part_S = splitter.parts(sessions)
            train_Q = np.add.reduceat(sessions.length_S * (part_S == TRAIN), first_Q)
            valid_Q = np.add.reduceat(sessions.length_S * (part_S <= VALID), first_Q)
        begin_Q = end_Q - length_Q
        user_Q = None if user_S is None else user_S[first_Q]
        return cls(sessions.item_N, begin_Q, begin_Q + train_Q, begin_Q + valid_Q, end_Q, user_Q)

    def span(self, part: int) -> tuple[Places, Places]:
        """Where the events of training, validation or test begin and end, (Q,) each."""
        bounds = (self.begin_Q, self.train_Q, self.valid_Q, self.end_Q)
        return bounds[part], bounds[part + 1]

    def filled(self) -> tuple[int, ...]:
        """How many sequences have events of training, validation and test."""
        return tuple(int((end_Q > begin_Q).sum()) for begin_Q, end_Q in map(self.span, (TRAIN, VALID, TEST)))

    def is_training(self) -> Mask:
        """Which events are for training, (N,)."""
        lengths = np.stack([self.train_Q - self.begin_Q, self.end_Q - self.train_Q], axis=1).reshape(-1)
        return np.repeat(np.tile([True, False], self.begin_Q.size), lengths)

    def where(self, kept_N: Mask) -> "Sequences":
        """Some of the events; sequences may become empty."""
        if kept_N.all():
            return self
        before = np.concatenate(([0], np.cumsum(kept_N)))
        begin_Q, train_Q, valid_Q, end_Q = (before[of] for of in (self.begin_Q, self.train_Q, self.valid_Q, self.end_Q))
        return Sequences(self.item_N[kept_N], begin_Q, train_Q, valid_Q, end_Q, self.user_Q)

    def training_pairs(self, user_K: Ints, items: int) -> NDArray[np.int64]:
        """The distinct pairs `user * items + item` of training, ascending.

        Args:
            user_K: the row of each user's code.
            items: rows of the item table.
        """
        assert self.user_Q is not None
        pair_S = np.repeat(user_K[self.user_Q].astype(np.int64) * items, self.train_Q - self.begin_Q)
        pair_S += self.item_N[self.is_training()]
        pair_S.sort()
        return pair_S[np.diff(pair_S, prepend=-1) > 0]

    def numbered(self, item_K: Ints) -> "Sequences":
        """With rows of a table instead of the codes of items."""
        return replace(self, item_N=item_K[self.item_N])
