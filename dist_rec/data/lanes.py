"""Batches of events that lie side by side in lanes, for recurrent heads: session- and user-parallel mini-batches.

A row of the data is a session: items in order of time (`history` or whatever the head looks up), and the targets of its
last positions. Rows that share a unit, such as a user's, follow each other in a lane. Which event lies where is
`dist_rec.data.lane_order`. At the start a process reads the split twice, first for the lengths of all sessions and then
for the events of its own lanes, of which it keeps some 10 bytes each.

Shapes: B events of this process at a step, E events of its lanes, R rows, U units, P events of the process that has
most.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.core.head import Lanes
from dist_rec.data.ahead import ahead
from dist_rec.data.columns import Block, Jagged, Layout, Rows, decode
from dist_rec.data.lane_order import LaneOrder
from dist_rec.data.loader import LoaderConfig
from dist_rec.data.order import Int64, end_to_end, streams_of
from dist_rec.data.shards import Dataset

NO_TARGET = -1
_EMPTY = Jagged(np.empty(0, np.int32), np.empty(0, np.int32), None)


@dataclass(frozen=True)
class Columns:
    """What a recurrent head and its task read of a session."""

    events: tuple[str, ...]
    """Sequences with an id for each event."""
    targets: str
    """The sequence of what follows its last events."""
    rows: tuple[str, ...] = ()
    """Categorical columns, whose id every event of a row has; the unit among them."""
    unit: str | None = None
    """The categorical column whose consecutive, equal rows are a unit, unless unknown; None: each row is one."""
    bags: tuple[str, ...] = ()
    """Bags of a row, which its events with a target have, such as of what is not recommended again."""


@dataclass(frozen=True)
class _Events:
    """The events of this process's lanes, unit by unit in the order of the files."""

    ids: dict[str, NDArray[np.int32]]
    """Of each column, [E]; categorical ones repeat their row's id."""
    target: NDArray[np.int32]
    """[E], or `NO_TARGET`."""
    row: Int64
    """[E], the row of each in `bags`."""
    bags: dict[str, Jagged]
    starts_session: NDArray[np.bool_]
    starts_unit: NDArray[np.bool_]
    units: Int64
    """Their numbers, ascending, [U]."""
    starts: Int64
    """First event of each unit, [U]."""

    def of(self, units: Int64, lengths: Int64) -> Int64:
        """The events of some units, in order."""
        return end_to_end(self.starts[np.searchsorted(self.units, units)], lengths)


class LaneLoader:
    """The batches of one split on one process; a global step is an event of each lane.

    Args:
        dataset: the prepared data.
        split: its part.
        config: see `LoaderConfig`.
        lanes: their number, the most events of a global batch.
        columns: the id columns to read.
        rank: this process.
        world: number of processes.
        seed: of the order.
        shuffle: False reads each lane's units in the order of the files.
        transform: what becomes of the batch of a global step, in the thread that makes it.

    Raises:
        UserError: if the split has no targets, its columns do not fit, or there are more processes than lanes.
        CorruptBlock: for a damaged block, whatever `on_corrupt` says: all processes have to know all lengths.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        config: LoaderConfig,
        *,
        lanes: int,
        columns: Columns,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        transform: Callable[[Batch, int], Batch] | None = None,
    ) -> None:
        if world > lanes:
            raise UserError(f"{world} processes, but {lanes} lanes: raise the batch, or start fewer processes")
        self._dataset, self._prefetch, self._columns = dataset, config.prefetch, columns
        self._split, self._world, self._transform = split, world, transform
        self._layout = Layout.of(dataset.manifest, (*columns.events, columns.targets, *columns.rows, *columns.bags))
        self._lanes = streams_of(rank, world, lanes)
        unit_R, events_R, targets_R = self._measure()
        units = int(unit_R[-1]) + 1 if len(unit_R) else 0
        has_target_U = np.bincount(unit_R, targets_R, units) > 0
        if not has_target_U.any():
            raise UserError(f"split {split!r} of {dataset.path} has no events to predict")
        lengths_U = (np.bincount(unit_R, events_R, units) * has_target_U).astype(np.int64)
        self._order = LaneOrder(lengths_U, lanes, seed, shuffle)
        self._events = self._keep(unit_R)
        self.rows = int(lengths_U.sum())
        self.steps_per_epoch = self._order.steps
        self.skipped_rows = 0

    def global_rows(self, step: int) -> int:
        """Events of a global batch."""
        return self._order.rows(step % self.steps_per_epoch)

    def share(self, step: int) -> tuple[int, int]:
        """Where this process's events begin in a global batch, and how many there are."""
        step %= self.steps_per_epoch
        return self._order.rows(step, range(self._lanes.start)), self._order.rows(step, self._lanes)

    def rows_until(self, step: int) -> int:
        """Events of the global steps before this one."""
        epochs, rest = divmod(step, self.steps_per_epoch)
        return epochs * self.rows + self._order.rows_until(rest)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the global steps [start, stop), over as many epochs as that is."""
        return ahead(lambda closed: self._produce(start, stop, closed), self._prefetch)

    def _produce(self, start: int, stop: int, closed: threading.Event) -> Iterator[Batch]:
        own_lengths = self._order.lane_lengths[self._lanes.start : self._lanes.stop]
        first_L, epoch, event_E = own_lengths.cumsum() - own_lengths, -1, np.empty(0, np.int64)
        for step in range(start, stop):
            if closed.is_set():
                return
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                units = self._order.units(epoch, self._lanes)
                event_E = self._events.of(units, self._order.lengths[units])
            place = step % self.steps_per_epoch
            lanes = np.flatnonzero(own_lengths > place)
            batch = self._batch(lanes, event_E[first_L[lanes] + place], step)
            yield batch if self._transform is None else self._transform(batch, step)

    def _batch(self, lane_B: Int64, event_B: Int64, step: int) -> Batch:
        place, events = step % self.steps_per_epoch, self._events
        ids = [column[event_B] for column in events.ids.values()]
        target_B = events.target[event_B]
        has_target_B = target_B != NO_TARGET
        bags = [bag.take(events.row[event_B[has_target_B]]) for bag in events.bags.values()]
        lengths = np.zeros((len(ids) + 1 + len(bags), self._order.most_rows(place, self._world)), np.int32)
        lengths[: len(ids), : len(event_B)] = 1
        lengths[len(ids), : len(event_B)] = has_target_B
        for row, bag in enumerate(bags, len(ids) + 1):
            lengths[row, np.flatnonzero(has_target_B)] = bag.lengths
        values = np.concatenate([*ids, target_B[has_target_B], *(bag.values for bag in bags)], dtype=np.int64)
        return Batch(
            dense=torch.zeros(len(event_B), 0),
            ids=KeyedJaggedTensor(
                keys=[*events.ids, self._columns.targets, *events.bags],
                values=torch.from_numpy(values),
                lengths=torch.from_numpy(lengths.reshape(-1)),
                stride=lengths.shape[1],
            ),
            weighted_ids=KeyedJaggedTensor([], torch.empty(0, dtype=torch.int64), lengths=torch.empty(0)),
            labels=torch.zeros(len(event_B)),
            weights=torch.ones(len(event_B)),
            scale=torch.tensor(self._world / self._order.rows(place)),
            lanes=Lanes(
                torch.from_numpy(lane_B),
                torch.from_numpy(events.starts_session[event_B]),
                torch.from_numpy(events.starts_unit[event_B]),
            ),
            step=step,
        )

    def _measure(self) -> tuple[Int64, Int64, Int64]:
        """Of every row of the split: its unit, and how many events and targets it has, [R]."""
        key_R, events_R, targets_R = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for where, rows in self._read():
            events, targets = self._lengths(where, rows)
            events_R.append(events)
            targets_R.append(targets)
            if self._columns.unit is not None:
                key_R.append(rows.categorical[:, self._layout.categorical.index(self._columns.unit)])
        events, targets, keys = (np.concatenate(parts) for parts in (events_R, targets_R, key_R))
        if self._columns.unit is None:
            return np.arange(len(events)), events, targets
        goes_on_R = (keys[1:] == keys[:-1]) & (keys[1:] != 0)
        return np.concatenate([[0], (~goes_on_R).cumsum()])[: len(keys)], events, targets

    def _lengths(self, where: Block, rows: Rows) -> tuple[Int64, Int64]:
        events, *others = (rows.jagged[name].lengths for name in self._columns.events)
        targets = rows.jagged[self._columns.targets].lengths
        for name, lengths in zip(self._columns.events[1:], others, strict=True):
            self._check(where, lengths != events, f"{name!r} and {self._columns.events[0]!r} differ in length")
        self._check(where, targets > events, f"{self._columns.targets!r} has more ids than {self._columns.events[0]!r}")
        return events.astype(np.int64), targets.astype(np.int64)

    @staticmethod
    def _check(where: Block, wrong_R: NDArray[np.bool_], what: str) -> None:
        if wrong_R.any():
            row = where.first_row + int(np.flatnonzero(wrong_R)[0])
            raise UserError(f"{where.shard}, row {row}: {what}; lanes need a session's events and what follows them")

    def _keep(self, unit_R: Int64) -> _Events:
        """Reads the split again, for the events of this process's lanes."""
        order, lanes = self._order, self._lanes
        lane_U = np.where(order.lengths > 0, order.lane_of, -1)
        mine_R = ((lane_U >= lanes.start) & (lane_U < lanes.stop))[unit_R]
        names = (*self._layout.categorical, *self._columns.events)
        ids: dict[str, list[Any]] = {name: [np.empty(0, np.int32)] for name in names}
        bags: dict[str, list[Jagged]] = {name: [_EMPTY] for name in self._columns.bags}
        target_E, length_R, row = [np.empty(0, np.int32)], [np.empty(0, np.int64)], 0
        for _, rows in self._read():
            kept = np.flatnonzero(mine_R[row : row + len(rows)])
            row += len(rows)
            jagged = {name: column.take(kept) for name, column in rows.jagged.items()}
            lengths = jagged[self._columns.events[0]].lengths.astype(np.int64)
            length_R.append(lengths)
            target_E.append(
                _targets(lengths, jagged[self._columns.targets].lengths, jagged[self._columns.targets].values)
            )
            for place, name in enumerate(self._layout.categorical):
                ids[name].append(np.repeat(rows.categorical[kept, place], lengths))
            for name in self._columns.events:
                ids[name].append(jagged[name].values)
            for name in self._columns.bags:
                bags[name].append(jagged[name])
        lengths, unit_K = np.concatenate(length_R), unit_R[mine_R]
        first_K = lengths.cumsum() - lengths
        units, place_U = np.unique(unit_K, return_index=True)
        starts_session, starts_unit = np.zeros((2, int(lengths.sum())), np.bool_)
        starts_session[first_K[lengths > 0]] = True
        starts_unit[first_K[place_U]] = True
        joined = {name: np.concatenate(parts) for name, parts in ids.items()}
        joined_bags = {name: Jagged.concatenate(parts) for name, parts in bags.items()}
        row_E = np.repeat(np.arange(len(lengths)), lengths) if bags else np.empty(0, np.int64)
        return _Events(
            joined,
            np.concatenate(target_E),
            row_E,
            joined_bags,
            starts_session,
            starts_unit,
            units,
            first_K[place_U],
        )

    def _read(self) -> Iterator[tuple[Block, Rows]]:
        first_row, previous = 0, None
        for shard, index, _ in self._dataset.blocks(self._split):
            first_row = first_row if shard is previous else 0
            record = self._dataset.read_block(shard, index)
            block = Block(record, f"{self._dataset.path}/{shard.path}", first_row)
            yield block, decode(block, self._layout, self._dataset.manifest)
            first_row, previous = first_row + record.num_rows, shard


def _targets(events_R: Int64, targets_R: Int64, values: NDArray[np.int32]) -> NDArray[np.int32]:
    """The target of each event: those of a row are of its last ones."""
    target_E = np.full(int(events_R.sum()), NO_TARGET, np.int32)
    target_E[end_to_end(events_R.cumsum() - targets_R, targets_R.astype(np.int64))] = values
    return target_E
