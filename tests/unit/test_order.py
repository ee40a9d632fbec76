"""The order of rows: each once an epoch, the same global batches at any number of processes, from any step."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.data.order import Order, most_rows, rows_of, steps_in_epoch, streams_of

ORDERS = st.builds(
    Order,
    block_rows=st.lists(st.integers(0, 40), min_size=1, max_size=12)
    .filter(sum)
    .map(lambda rows: np.array(rows, np.int64)),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 5),
    streams=st.integers(1, 20),
    window=st.integers(1, 30),
    shuffle=st.booleans(),
)


def stream_rows(order: Order, stream: int) -> list[int]:
    """Rows of the split, numbered in the order of the files, as the stream gives them."""
    starts = np.concatenate([[0], np.cumsum(order.block_rows)])
    rows: list[int] = []
    size, number = order.taken(stream, order.rows), 0
    while len(rows) < size:
        pieces = order.pieces(stream, number)
        window = np.concatenate([starts[block] + np.arange(first, last) for block, first, last in pieces])
        permutation = order.window_permutation(stream, number)
        assert order.window_at(stream, len(rows)) == number
        assert order.window_span(stream, number) == (len(rows), len(rows) + len(window))
        rows += list(window if permutation is None else window[permutation])
        number += 1
    return rows


def global_batch(streams: list[list[int]], order: Order, mine: range, samples: range) -> list[int]:
    return [
        row
        for stream in mine
        for row in streams[stream][order.taken(stream, samples.start) : order.taken(stream, samples.stop)]
    ]


@given(ORDERS)
def test_each_row_once_an_epoch(order: Order) -> None:
    rows = [row for stream in range(order.streams) for row in stream_rows(order, stream)]
    assert sorted(rows) == list(range(order.rows))


@given(ORDERS, st.integers(1, 50), st.integers(1, 16))
def test_same_global_batches_at_any_world_size(order: Order, batch: int, world: int) -> None:
    world = min(world, order.streams)
    streams = [stream_rows(order, stream) for stream in range(order.streams)]
    for step in range(steps_in_epoch(order.rows, batch)):
        samples = range(step * batch, min((step + 1) * batch, order.rows))
        alone = global_batch(streams, order, range(order.streams), samples)
        parts = [global_batch(streams, order, streams_of(rank, world, order.streams), samples) for rank in range(world)]
        assert len(alone) == len(samples)
        assert [row for part in parts for row in part] == alone
        counted = [rows_of(samples, streams_of(rank, world, order.streams), order.streams) for rank in range(world)]
        assert counted == [len(part) for part in parts]
        assert most_rows(samples, world, order.streams) == max(counted)


@given(ORDERS)
def test_shuffled_only_when_asked(order: Order) -> None:
    rows = [row for stream in range(order.streams) for row in stream_rows(order, stream)]
    if not order.shuffle:
        assert rows == sorted(rows)


def test_seed_and_epoch_change_the_order() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        made = Order(np.full(8, 50, np.int64), seed, epoch, 4, 30)
        return [row for stream in range(4) for row in stream_rows(made, stream)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)


def test_a_window_mixes_its_rows() -> None:
    """Correlation of place and row is that of a random permutation: below four standard deviations, 4 / sqrt(n)."""
    order = Order(np.full(64, 256, np.int64), 0, 0, 4, 4096)
    rows = np.array([row for stream in range(4) for row in stream_rows(order, stream)])
    assert abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]) < 0.2
    window = rows[:4096].argsort().argsort()
    assert abs(np.corrcoef(window, np.arange(4096))[0, 1]) < 4 / 64
