"""The order of rows: a pure function of (seed, epoch), independent of the number of processes.

    blocks ──shuffle──▶ one long sequence ──cut──▶ streams ──shuffle in windows──▶ global batches

The blocks of a split are shuffled and laid end to end. That sequence of `rows` positions is cut into `streams` equal
parts, each shuffled row by row within windows. Sample i of an epoch is the (i div streams)-th row of stream
(i mod streams), and global batch g is samples [g * batch, (g + 1) * batch). A process reads only its own streams, so
the whole state of the data is one number, the global step, at any number of processes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


def streams_of(rank: int, world: int, streams: int) -> range:
    """The streams that a process reads: contiguous, and balanced to within one between processes."""
    return range(streams * rank // world, streams * (rank + 1) // world)


def rows_of(samples: range, mine: range, streams: int) -> int:
    """Number of consecutive samples that belong to a process with the streams `mine`."""

    def before(sample: int) -> int:
        rounds, rest = divmod(sample, streams)
        return rounds * len(mine) + min(max(rest - mine.start, 0), len(mine))

    return before(samples.stop) - before(samples.start)


def end_to_end(starts: Int64, lengths: Int64) -> Int64:
    """The places [start, start + length) of every run, run after run."""
    ends = lengths.cumsum()
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


def most_rows(samples: range, world: int, streams: int) -> int:
    """Largest number of consecutive samples that any process gets."""
    if streams % world == 0 and len(samples) % streams == 0:
        return len(samples) // world
    return max(rows_of(samples, streams_of(rank, world, streams), streams) for rank in range(world))


def steps_in_epoch(rows: int, batch: int) -> int:
    """Global batches of an epoch; the last one may be short."""
    return -(-rows // batch)


@dataclass(frozen=True)
class Order:
    """The order of one epoch, counted from 0."""

    block_rows: Int64
    """Rows of every block in the order of the files, int64 [blocks]."""
    seed: int
    epoch: int
    streams: int
    """Number of streams."""
    window: int
    """Rows of a stream that are shuffled together."""
    shuffle: bool = True
    """False keeps the order of the files within each stream."""

    @cached_property
    def rows(self) -> int:
        """Rows of the epoch."""
        return int(self.block_rows.sum())

    @cached_property
    def block_order(self) -> Int64:
        """Index of the block at each place of the sequence of blocks, int64 [blocks]."""
        blocks = len(self.block_rows)
        return self._random().permutation(blocks) if self.shuffle else np.arange(blocks)

    @cached_property
    def block_starts(self) -> Int64:
        """Position in the sequence of the first row of each block in `block_order`, and the end, int64 [blocks + 1]."""
        return np.concatenate([[0], np.cumsum(self.block_rows[self.block_order])])

    def taken(self, stream: int, sample: int) -> int:
        """Number of the stream's rows among the first `sample` samples of the epoch."""
        return max(0, (sample - stream + self.streams - 1) // self.streams)

    def stream_start(self, stream: int) -> int:
        """Position in the sequence of a stream's first row."""
        base, longer = divmod(self.rows, self.streams)
        return stream * base + min(stream, longer)

    def window_span(self, stream: int, index: int) -> tuple[int, int]:
        """First and past-the-last row of a stream's window.

        The first windows differ in length, so that the streams do not all need a new window at the same time.
        """
        size = self.taken(stream, self.rows)
        first = -(-self.window * (stream + 1) // self.streams)
        start = 0 if index == 0 else first + (index - 1) * self.window
        return min(start, size), min(first + index * self.window, size)

    def window_at(self, stream: int, row: int) -> int:
        """Index of the window that holds a stream's row."""
        first = -(-self.window * (stream + 1) // self.streams)
        return 0 if row < first else 1 + (row - first) // self.window

    def window_permutation(self, stream: int, index: int) -> Int64 | None:
        """For each row of the shuffled window, its place before, int64 [rows of the window]; None if not shuffled."""
        start, stop = self.window_span(stream, index)
        return self._random(stream, index).permutation(stop - start) if self.shuffle else None

    def pieces(self, stream: int, index: int) -> list[tuple[int, int, int]]:
        """The ranges of rows that make up a window: (block, first row, past-the-last row)."""
        start, stop = (self.stream_start(stream) + row for row in self.window_span(stream, index))
        place = int(np.searchsorted(self.block_starts, start, side="right")) - 1
        found = []
        while start < stop:
            begin, end = int(self.block_starts[place]), int(self.block_starts[place + 1])
            if end > start:
                found.append((int(self.block_order[place]), start - begin, min(stop, end) - begin))
            start, place = min(stop, end), place + 1
        return found

    def _random(self, *where: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, self.epoch, *where])))
