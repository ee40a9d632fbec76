"""Streams shuffled rows from shards as batches, from any global step, on any number of processes.

A stream holds one shuffled window in memory and reads the next one in a thread before it is needed; another thread
assembles batches ahead of the trainer. `dist_rec.data.order` defines the order of the rows.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from dist_rec.core.batch import Batch
from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.data.ahead import ahead
from dist_rec.data.collate import Slice, collate
from dist_rec.data.columns import Block, Layout, Rows, decode, join
from dist_rec.data.order import Int64, Order, most_rows, rows_of, steps_in_epoch, streams_of
from dist_rec.data.shards import CorruptBlock, Dataset

SHARED_BLOCKS = 8
"""Decoded blocks that are cached for other streams: if streams are short, neighbours read the same block in turn."""

log = logging.getLogger(__name__)
Read = Callable[[int], Rows]
"""(index of a block in the split) → its rows."""


class LoaderConfig(Config):
    """How rows stream from the shards."""

    path: str
    """Folder (or object-store URI) that `dist-rec prepare` wrote."""
    streams: int = Field(64, gt=0)
    """Streams that the rows are dealt to; at least as many as processes."""
    window: int = Field(8192, gt=0)
    """Rows of a stream that are shuffled together. Memory is about 2 x streams x window x bytes of a row, and a block
    for each stream."""
    threads: int = Field(1, gt=0)
    """Threads per process that read and decode windows."""
    prefetch: int = Field(4, gt=0)
    """Batches that are assembled ahead of the trainer."""
    on_corrupt: Literal["error", "skip"] = "error"
    """Reaction to a damaged block: stop the run, or skip its rows and count them."""


@dataclass(frozen=True)
class _Window:
    """The rows [start, stop) of a stream, shuffled."""

    rows: Rows
    start: int
    stop: int
    present: Int64 | None
    """Number of rows present before each place, int64 [stop - start + 1]; None if no row was skipped."""

    def slice(self, start: int, stop: int) -> Slice:
        """The rows [start, stop) of the stream."""
        first, last = start - self.start, stop - self.start
        if self.present is not None:
            first, last = int(self.present[first]), int(self.present[last])
        return Slice(self.rows, first, last)


class Loader:
    """The batches of one split on one process.

    Args:
        dataset: the prepared data.
        split: name of the split.
        config: how rows stream.
        batch: rows of a global batch.
        features: the id columns to read; None reads all.
        rank: rank of this process.
        world: number of processes.
        seed: seed of the order.
        shuffle: False reads in the order of the files.
        transform: (batch, global step) → batch, called in the thread that assembles batches.

    Raises:
        UserError: if the split is empty or there are more processes than rows in a batch or streams.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        config: LoaderConfig,
        *,
        batch: int,
        features: tuple[str, ...] | None = None,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        transform: Callable[[Batch, int], Batch] | None = None,
    ) -> None:
        if world > min(batch, config.streams):
            raise UserError(
                f"{world} processes, but a global batch of {batch} rows of {split!r} in {config.streams} streams; "
                "raise the batch or data.streams, or start fewer processes"
            )
        self.layout = Layout.of(dataset.manifest, features)
        self._dataset, self._config = dataset, config
        self._batch, self._world, self._seed, self._shuffle = batch, world, seed, shuffle
        self._streams = streams_of(rank, world, config.streams)
        self._blocks = dataset.blocks(split)
        self._block_rows = np.array([rows for _, _, rows in self._blocks], np.int64)
        self._transform = transform
        self.read_block = lru_cache(SHARED_BLOCKS)(self._read_block)
        self.rows = int(self._block_rows.sum())
        if not self.rows:
            raise UserError(f"split {split!r} of {dataset.path} has no rows; prepare it with data")
        self.steps_per_epoch = steps_in_epoch(self.rows, batch)
        self.skipped_rows = 0
        """Rows of this process's batches skipped so far."""

    def global_rows(self, step: int) -> int:
        """Rows of a global batch: fewer than `batch` in the last step of an epoch."""
        done = step % self.steps_per_epoch * self._batch
        return min(self._batch, self.rows - done)

    def share(self, step: int) -> tuple[int, int]:
        """First row of this process in a global batch, and the number of its rows."""
        first = step % self.steps_per_epoch * self._batch
        samples, streams = range(first, first + self.global_rows(step)), self._config.streams
        before, own = (rows_of(samples, mine, streams) for mine in (range(self._streams.start), self._streams))
        return before, own

    def rows_until(self, step: int) -> int:
        """Rows of the global steps before this one."""
        epochs, rest = divmod(step, self.steps_per_epoch)
        return epochs * self.rows + min(rest * self._batch, self.rows)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the global steps [start, stop), across epochs."""
        for batch, skipped in ahead(lambda closed: self._produce(start, stop, closed), self._config.prefetch):
            # Not where they are found: batches made ahead may never be trained on.
            self.skipped_rows += skipped
            yield batch

    def _produce(self, start: int, stop: int, closed: threading.Event) -> Iterator[tuple[Batch, int]]:
        with ThreadPoolExecutor(self._config.threads, "windows") as pool:
            while start < stop and not closed.is_set():
                epoch, first = divmod(start, self.steps_per_epoch)
                last = min(self.steps_per_epoch, first + stop - start)
                yield from self._epoch(epoch, first, last, pool, closed)
                start += last - first

    def _epoch(
        self, epoch: int, first: int, last: int, pool: ThreadPoolExecutor, closed: threading.Event
    ) -> Iterator[tuple[Batch, int]]:
        """Batches, and how many of their rows were skipped."""
        config = self._config
        order = Order(self._block_rows, self._seed, epoch, config.streams, config.window, self._shuffle)
        streams = [_Stream(self, order, stream, first * self._batch, pool) for stream in self._streams]
        for step in range(first, last):
            if closed.is_set():
                return
            samples = range(step * self._batch, min((step + 1) * self._batch, self.rows))
            slices = [piece for stream in streams for piece in stream.advance(order.taken(stream.index, samples.stop))]
            padded = most_rows(samples, self._world, config.streams)
            global_step = epoch * self.steps_per_epoch + step
            batch = collate(slices, self.layout, padded, self._world / len(samples), global_step)
            skipped = self.share(step)[1] - batch.rows
            yield batch if self._transform is None else self._transform(batch, global_step), skipped

    def _read_block(self, block: int) -> Rows:
        """Reads, checks and decodes a block by its index in the split."""
        shard, index, _ = self._blocks[block]
        first_row = int(self._block_rows[block - index : block].sum())
        return self._decode(self._dataset.read_block(shard, index), shard.path, first_row)

    def _decode(self, record: pa.RecordBatch, shard: str = "", first_row: int = 0) -> Rows:
        return decode(Block(record, f"{self._dataset.path}/{shard}", first_row), self.layout, self._dataset.manifest)

    def load_window(self, order: Order, stream: int, index: int, permutation: Int64 | None, read: Read) -> _Window:
        """Reads one window of a stream, block by block with `read`, and shuffles it."""
        start, stop = order.window_span(stream, index)
        pieces = order.pieces(stream, index)
        parts = [self._part(read, *piece) for piece in pieces]
        present = None
        if any(part is None for part in parts):
            lengths = [last - first for _, first, last in pieces]
            there = np.repeat([part is not None for part in parts], lengths)
            places = np.arange(stop - start) if permutation is None else permutation
            present = np.concatenate([[0], np.cumsum(there[places])])
            permutation = (np.cumsum(there) - 1)[places[there[places]]]
        whole = [part for part in parts if part is not None]
        rows = join(whole or [self._decode(pa.RecordBatch.from_pylist([], self._dataset.schema))], permutation)
        return _Window(rows, start, stop, present)

    def _part(self, read: Read, block: int, start: int, stop: int) -> Rows | None:
        try:
            return read(block).slice(start, stop)
        except CorruptBlock as error:
            if self._config.on_corrupt == "error":
                raise
            log.warning("skipped %d rows: %s", stop - start, error)
            return None


class _Stream:
    """A stream's position in an epoch: its window, and the next one, which a thread reads ahead."""

    def __init__(self, loader: Loader, order: Order, index: int, sample: int, pool: ThreadPoolExecutor) -> None:
        self.index = index
        self._loader, self._order, self._pool = loader, order, pool
        self._row = order.taken(index, sample)
        self._size = order.taken(index, order.rows)
        # A window begins in the block in which the previous window ended; the cache saves a second read.
        self._read = lru_cache(1)(loader.read_block)
        self._window: _Window | None = None
        self._number = order.window_at(index, self._row)
        self._next = self._load(self._number) if self._row < self._size else None

    def _load(self, number: int) -> "Future[_Window] | None":
        if self._order.window_span(self.index, number)[0] >= self._size:
            return None
        # Drawn here, since the threads that read windows have more work than the thread that assembles batches.
        permutation = self._order.window_permutation(self.index, number)
        return self._pool.submit(self._loader.load_window, self._order, self.index, number, permutation, self._read)

    def advance(self, until: int) -> Iterator[Slice]:
        """The stream's rows up to row `until`."""
        while self._row < until:
            if self._window is None or self._row >= self._window.stop:
                assert self._next is not None
                self._window, self._next = self._next.result(), None
                self._number += 1
            window = self._window
            stop = min(until, window.stop)
            yield window.slice(self._row, stop)
            self._row = stop
            # Not before half of the window is used, so that a stream holds at most one and a half windows.
            if self._next is None and 2 * (stop - window.start) >= window.stop - window.start:
                self._next = self._load(self._number)
