"""Lanes: event by event what a plain reference reads, on any number of processes and from any step."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.data.lane_order import LaneOrder
from dist_rec.data.lanes import Columns, LaneLoader
from dist_rec.data.loader import LoaderConfig
from dist_rec.data.shards import Dataset
from tests.small_sessions import WINDOW_COLUMNS, Session, write_sessions

USERS, ITEMS = 6, 50
Event = tuple[int, int, int | None, bool, bool]
"""Lane, item, target, first of its session, first of its unit."""

ITEM = st.integers(0, ITEMS - 1)


@st.composite
def session(draw: st.DrawFn) -> Session:
    history = draw(st.lists(ITEM, max_size=6))
    targets = draw(st.lists(ITEM, max_size=len(history)))
    return draw(st.integers(0, USERS - 1)), history, targets


SESSIONS = st.lists(session(), min_size=1, max_size=30).filter(lambda made: any(target for *_, target in made))


def units_of(sessions: list[Session], by_user: bool) -> list[list[Session]]:
    units: list[list[Session]] = []
    for one in sessions:
        goes_on = by_user and units and units[-1][0][0] == one[0] != 0
        units[-1].append(one) if goes_on else units.append([one])
    return units


def events_of(unit: list[Session]) -> list[tuple[int, int | None, bool, bool]]:
    events = []
    for _, history, targets in unit:
        first = len(history) - len(targets)
        for place, item in enumerate(history):
            target = targets[place - first] if place >= first else None
            events.append((item, target, place == 0, not events))
    return events if any(targets for *_, targets in unit) else []


def reference(sessions: list[Session], by_user: bool, order: LaneOrder, lanes: int, epochs: int) -> list[list[Event]]:
    """Every step's events, by walking each lane through its units."""
    units = [events_of(unit) for unit in units_of(sessions, by_user)]
    steps: list[list[Event]] = []
    for epoch in range(epochs):
        queues = [
            [event for unit in order.units(epoch, range(lane, lane + 1)) for event in units[unit]]
            for lane in range(lanes)
        ]
        for step in range(max(map(len, queues))):
            steps.append([(lane, *queue[step]) for lane, queue in enumerate(queues) if step < len(queue)])
    return steps


def events_in(batch: Batch, first_lane: int) -> list[Event]:
    assert batch.lanes is not None
    history, target = batch.column("history"), batch.column("target")
    assert history.lengths.tolist() == [1] * batch.rows
    targets = iter(target.values.tolist())
    columns = (batch.lanes.number.tolist(), history.values.tolist(), target.lengths.tolist())
    starts = (batch.lanes.starts_session.tolist(), batch.lanes.starts_unit.tolist())
    return [
        (first_lane + lane, item, next(targets) if has else None, begins, fresh)
        for lane, item, has, begins, fresh in zip(*columns, *starts, strict=True)
    ]


def loaders(folder: Path, lanes: int, world: int, by_user: bool, shuffle: bool = True) -> list[LaneLoader]:
    columns = Columns(("history",), "target", ("user",), "user") if by_user else Columns(("history",), "target")
    config = LoaderConfig(path=str(folder))
    return [
        LaneLoader(
            Dataset(folder), "train", config, lanes=lanes, columns=columns, rank=rank, world=world,
            seed=3, shuffle=shuffle,
        )
        for rank in range(world)
    ]  # fmt: skip


@settings(max_examples=60)
@given(SESSIONS, st.integers(1, 7), st.integers(1, 5), st.booleans(), st.booleans(), st.data())
def test_every_event_is_where_the_reference_has_it(
    sessions: list[Session], lanes: int, world: int, by_user: bool, shuffle: bool, data: st.DataObject
) -> None:
    world = min(world, lanes)
    with tempfile.TemporaryDirectory() as folder:
        write_sessions(Path(folder), {"train": sessions}, USERS, ITEMS)
        made = loaders(Path(folder), lanes, world, by_user, shuffle)
        steps = made[0].steps_per_epoch
        start = data.draw(st.integers(0, 2 * steps))
        lengths = np.array([len(events_of(unit)) for unit in units_of(sessions, by_user)])
        expected = reference(sessions, by_user, LaneOrder(lengths, lanes, 3, shuffle), lanes, 2)
        assert [loader.rows for loader in made] == [lengths.sum()] * world
        assert made[0].rows_until(start) == sum(map(len, expected[:start]))
        parts = [list(loader.batches(start, 2 * steps)) for loader in made]
        firsts = [lanes * rank // world for rank in range(world)]
        for step, batches in enumerate(zip(*parts, strict=True), start):
            found = [events_in(batch, first) for batch, first in zip(batches, firsts, strict=True)]
            assert [event for events in found for event in events] == expected[step]
            assert [loader.share(step)[1] for loader in made] == [batch.rows for batch in batches]
            assert made[0].global_rows(step) == len(expected[step])
            assert {batch.ids.stride() for batch in batches} == {max(batch.rows for batch in batches)}


@settings(max_examples=30)
@given(SESSIONS, st.integers(1, 5), st.integers(1, 3), st.integers(0, 99))
def test_what_is_to_be_predicted_has_the_bags_of_its_row(
    sessions: list[Session], lanes: int, world: int, seed: int
) -> None:
    world, rng = min(world, lanes), np.random.default_rng(seed)
    # Each row's first seen item is its number.
    bags = [[row + 1, *rng.integers(1, 9, rng.integers(0, 4))] for row in range(len(sessions))]
    items = max(ITEMS, len(sessions) + 1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [(*session, bag) for session, bag in zip(sessions, bags, strict=True)]
        write_sessions(Path(folder), {"train": rows}, USERS, items, columns=WINDOW_COLUMNS)
        columns, config = Columns(("history",), "target", bags=("seen",)), LoaderConfig(path=folder)
        found = []
        for rank in range(world):
            loader = LaneLoader(Dataset(folder), "train", config, lanes=lanes, columns=columns, rank=rank, world=world)
            for batch in loader.batches(0, loader.steps_per_epoch):
                target, seen = batch.column("target"), batch.column("seen")
                assert (seen.lengths[target.lengths == 0] == 0).all()
                of_rows = seen.values.split(seen.lengths[target.lengths == 1].tolist())
                found += [(int(target), bag.tolist()) for target, bag in zip(target.values, of_rows, strict=True)]
    expected = [(target, bag) for (_, _, targets), bag in zip(sessions, bags, strict=True) for target in targets]
    assert sorted(found) == sorted(expected)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=200).filter(any), st.integers(1, 20))
def test_lanes_are_equally_long_and_an_epoch_has_every_unit_once(lengths: list[int], lanes: int) -> None:
    order = LaneOrder(np.array(lengths), lanes, 5)
    assert order.lane_lengths.sum() == sum(lengths)
    if sum(length > 0 for length in lengths) >= lanes:
        assert order.lane_lengths.max() - order.lane_lengths.min() <= max(lengths)
    for epoch in range(2):
        assert sorted(order.units(epoch, range(lanes))) == [unit for unit, length in enumerate(lengths) if length]


def test_an_epoch_has_an_order_of_its_own() -> None:
    order = LaneOrder(np.full(40, 3), 2, 5)
    first, second = (order.units(epoch, range(1)).tolist() for epoch in range(2))
    assert first != second
    assert sorted(first) == sorted(second)


def test_more_targets_than_events_are_named(tmp_path: Path) -> None:
    sessions = [(1, [1, 2], [2, 3])] * 9 + [(1, [1], [2, 3])]
    write_sessions(tmp_path, {"train": sessions}, USERS, ITEMS)
    with pytest.raises(UserError, match="row 9: 'target' has more ids than 'history'"):
        loaders(tmp_path, 2, 1, by_user=False)


def test_a_split_without_targets_is_named(tmp_path: Path) -> None:
    write_sessions(tmp_path, {"train": [(1, [1, 2], [])]}, USERS, ITEMS)
    with pytest.raises(UserError, match=r"'train' .* has no events to predict"):
        loaders(tmp_path, 2, 1, by_user=False)


def test_more_processes_than_lanes_are_refused(tmp_path: Path) -> None:
    write_sessions(tmp_path, {"train": [(1, [1, 2], [2, 3])]}, USERS, ITEMS)
    with pytest.raises(UserError, match="3 processes, but 2 lanes"):
        loaders(tmp_path, 2, 3, by_user=False)
