"""Which event lies in which lane and step: a pure function of (seed, epoch, lengths), never of the processes.

Units (sessions, or users with all of theirs) are dealt to lanes once, so that all lanes have nearly equally many
events; a lane reads its units one after the other, in another order each epoch, an event a step. So an epoch has the
same number of steps each time, each event once, and all lanes go on until just before its end. Hidasi et al. 2016,
"Session-based Recommendations with Recurrent Neural Networks", section 3.1.1, give the next unit to the lane that ends
first instead, which makes the number of steps depend on the order.

Shapes: U units, L lanes, E events of some lanes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dist_rec.core.splitmix import stream, words
from dist_rec.data.order import Int64, streams_of


@dataclass(frozen=True)
class LaneOrder:
    """The lanes of a split.

    Args:
        lengths: events of each unit, int64 [U].
        lanes: their number, L; some are empty if there are fewer units.
        seed: the run's.
        shuffle: False reads the units of a lane in the order of the files.
    """

    lengths: Int64
    lanes: int
    seed: int
    shuffle: bool = True

    @cached_property
    def lane_of(self) -> Int64:
        """The lane of each unit, [U]: the longest first, each to the lane with the fewest events."""
        order_U = np.lexsort((self._keys(0, np.arange(len(self.lengths))), -self.lengths))
        lane_of, events_L = np.empty(len(order_U), np.int64), np.zeros(self.lanes, np.int64)
        for start in range(0, len(order_U), self.lanes):
            units = order_U[start : start + self.lanes]
            emptiest = np.argsort(events_L, kind="stable")[: len(units)]
            lane_of[units] = emptiest
            events_L[emptiest] += self.lengths[units]
        return lane_of

    @cached_property
    def lane_lengths(self) -> Int64:
        """Events of each lane, [L]."""
        return np.bincount(self.lane_of, self.lengths, self.lanes).astype(np.int64)

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return int(self.lane_lengths.max())

    def rows(self, step: int, lanes: range | None = None) -> int:
        """How many of some lanes, or of all, have an event at a step of an epoch."""
        lanes = range(self.lanes) if lanes is None else lanes
        return int((self.lane_lengths[lanes.start : lanes.stop] > step).sum())

    def rows_until(self, step: int) -> int:
        """Events of the steps of an epoch before this one."""
        return int(self.lane_lengths.clip(max=step).sum())

    def most_rows(self, step: int, world: int) -> int:
        """Events of the process that has most at a step."""
        return max(self.rows(step, streams_of(rank, world, self.lanes)) for rank in range(world))

    def units(self, epoch: int, lanes: range) -> Int64:
        """The units of some lanes in the order in which an epoch reads them, one lane's after the other's."""
        mine = np.flatnonzero((self.lane_of >= lanes.start) & (self.lane_of < lanes.stop) & (self.lengths > 0))
        keys = self._keys(epoch + 1, mine) if self.shuffle else mine
        return mine[np.lexsort((keys, self.lane_of[mine]))]

    def _keys(self, number: int, units: Int64) -> NDArray[np.uint64]:
        return words(stream(self.seed, number), units)
