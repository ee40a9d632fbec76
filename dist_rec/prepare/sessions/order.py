"""Events to sessions, end to end: by user, split and time; within a session by time, ties as in the files.

Everything is sorted by numpy in a few arrays of a number for each event, the largest of 8 bytes.

Shapes: N events, K codes of sessions, S sessions.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_rec.prepare.sessions.events import Events, Ints
from dist_rec.prepare.sessions.times import Times

BLOCK = 1 << 20
"""Events of which intermediate results are held at once."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sessions:
    """S sessions. Those of a user follow each other, and have their splits and times in ascending order."""

    item_N: Ints
    """Codes of the items of all sessions, end to end."""
    length_S: NDArray[np.int64]
    user_S: Ints | None
    """Code of the user, ascending."""
    time_S: Times | None
    """When the last event was, of those in the files."""
    part_S: NDArray[np.int8]
    """In which split's files it is: 0 training, 1 validation, 2 test."""
    first_S: NDArray[np.int64]
    """Place of its first event in the files."""

    def __len__(self) -> int:
        return self.length_S.size

    def without_events(self, kept_N: Mask) -> "Sessions":
        """Some of the events; sessions may become empty."""
        kept = np.concatenate(([0], np.cumsum(kept_N)))
        ends = self.length_S.cumsum()
        length_S = kept[ends] - kept[ends - self.length_S]
        return replace(self, item_N=self.item_N[kept_N], length_S=length_S)

    def where(self, kept_S: Mask) -> "Sessions":
        """Some of the sessions."""
        if kept_S.all():
            return self
        return Sessions(
            self.item_N[np.repeat(kept_S, self.length_S)],
            self.length_S[kept_S],
            None if self.user_S is None else self.user_S[kept_S],
            None if self.time_S is None else self.time_S[kept_S],
            self.part_S[kept_S],
            self.first_S[kept_S],
        )


def arrange(events: Events) -> tuple[Sessions, int]:
    """Sorts events, which are emptied to save memory.

    Sessions of a user, or all of them if there are none, are in the order of their last event's time; without times,
    in that of the numbers that are their ids, with users, and else of first appearance, which also decides ties.

    Returns:
        The sessions, and in how many of them events are not in the order of time in the files.
    """
    session_N, user_K, number_K = _sessions(events)
    size_K = np.bincount(session_N)
    first_K, last_K = _first(session_N, size_K.size), _last(session_N, events.time_N, size_K.size)
    part_K = np.searchsorted(np.cumsum(events.sizes)[:-1], first_K, side="right").astype(np.int8)
    order_S = np.flatnonzero(size_K)
    keys: list[NDArray[Any] | None] = [first_K, number_K if last_K is None else last_K, part_K, user_K]
    order_S = order_S[np.lexsort([key[order_S] for key in keys if key is not None])]
    rank_K = np.empty(size_K.size, np.int32)
    rank_K[order_S] = np.arange(order_S.size, dtype=np.int32)
    _take_in_place(rank_K, session_N)
    item_N, disordered = _sort(events, session_N, size_K[order_S])
    return Sessions(
        item_N,
        size_K[order_S],
        None if user_K is None else user_K[order_S],
        None if last_K is None else last_K[order_S],
        part_K[order_S],
        first_K[order_S],
    ), disordered


def _sessions(events: Events) -> tuple[Ints, Ints | None, NDArray[np.float64] | None]:
    """A code of each event's session, and the user and the number of each code."""
    session_N, user_N, number_K = events.session_N, events.user_N, events.number_K
    events.session_N, events.user_N = np.empty(0, np.int32), None
    if user_N is None:
        return session_N, None, None
    codes = int(session_N.max()) + 1
    user_K = user_N[_first(session_N, codes).clip(max=user_N.size - 1)]
    if all((user_K[session_N[at]] == user_N[at]).all() for at in _blocks(user_N.size)):
        return session_N, user_K, number_K
    order_N = np.lexsort((session_N, user_N))
    begins_N = np.ones(order_N.size, np.bool_)
    begins_N[1:] = np.diff(user_N[order_N]) != 0
    begins_N[1:] |= np.diff(session_N[order_N]) != 0
    of_first = order_N[begins_N]
    user_K, code_K = user_N[of_first], session_N[of_first]
    session_N[order_N] = np.cumsum(begins_N, dtype=np.int32) - np.int32(1)
    return session_N, user_K, None if number_K is None else number_K[code_K]


def _first(session_N: Ints, codes: int) -> NDArray[np.int64]:
    """The place of the first event of each code, N for those that have none."""
    first_K = np.full(codes, session_N.size)
    for at in reversed(_blocks(session_N.size)):
        # Of several assignments to one place numpy's last counts.
        first_K[session_N[at][::-1]] = np.arange(at.start, min(at.stop, session_N.size))[::-1]
    return first_K


def _last(session_N: Ints, time_N: Times | None, codes: int) -> Times | None:
    """The largest time of each code."""
    if time_N is None:
        return None
    last_K = np.full(codes, time_N.min(), time_N.dtype)
    np.maximum.at(last_K, session_N, time_N)
    return last_K


def _take_in_place(value_K: Ints, code_N: Ints) -> None:
    for at in _blocks(code_N.size):
        code_N[at] = value_K[code_N[at]]


def _sort(events: Events, session_N: Ints, length_S: NDArray[np.int64]) -> tuple[Ints, int]:
    """The items by session and time, and how many sessions had their events in another order."""
    item_N, time_N = events.item_N, events.time_N
    events.item_N, events.time_N = np.empty(0, np.int32), None
    if time_N is None:
        return item_N[np.argsort(session_N, kind="stable")], 0
    order_N = np.lexsort((time_N, session_N))
    item_N = item_N[order_N]
    del time_N
    back_N = order_N[1:] < order_N[:-1]
    back_N[length_S.cumsum()[:-1] - 1] = False
    session = session_N[order_N[1:][back_N]]
    return item_N, np.unique(session).size


def _blocks(size: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, size, BLOCK)]
