"""Sessions to a prepared folder: equal to the slow way, whatever the form of the input; bad input by name."""

import os
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_rec.core.errors import UserError
from dist_rec.data.counts import load_counts
from dist_rec.data.shards import Dataset
from dist_rec.prepare import engine
from dist_rec.prepare import lines as lines_module
from dist_rec.prepare.engine import Prepared
from dist_rec.prepare.sessions import codes as codes_module
from dist_rec.prepare.sessions import layout as layout_module
from dist_rec.prepare.sessions import order as order_module
from dist_rec.prepare.sessions import write as write_module
from dist_rec.prepare.sessions.form import Columns
from dist_rec.prepare.sessions.options import Options
from dist_rec.prepare.sessions.source import SessionFiles
from dist_rec.prepare.sessions.split import (
    ByTime,
    Fraction,
    Given,
    LastSession,
    LeaveOneOut,
    Splitter,
)
from dist_rec.prepare.sessions.times import DAY_SECONDS
from dist_rec.prepare.table import chunks as chunks_module

DATA = Path(os.environ.get("DIST_REC_DATA", Path(__file__).parents[3] / "shared" / "data"))
SPLITS = ("train", "valid", "test")
HOUR = 3600


class Event(NamedTuple):
    user: str
    session: str
    item: str
    time: int
    part: int = 0


class Row(NamedTuple):
    """By raw ids; `?` for row 0."""

    user: str | None
    history: list[str]
    target: list[str]
    seen: list[str] | None


def part_of(event: Event) -> int:
    return event.part


def some_events(seed: int, parts: int = 1, size: int = 150) -> list[Event]:
    """Few users, sessions and items, ties in time, sessions that belong to two users; each part later in the files."""
    rng = random.Random(seed)
    users, sessions, items = rng.randint(3, 8), rng.randint(2, 9), rng.randint(3, 12)
    days = rng.choice([1, 20])
    drawn = [
        Event(
            f"ü{min(rng.randrange(users), rng.randrange(users))}",
            str(rng.randrange(sessions) + 5) + (f"s{rng.randrange(3)}" if seed % 3 else ""),
            f"i{min(rng.randrange(items), rng.randrange(items))}" if seed % 2 else str(rng.randrange(items)),
            1_600_000_000 + HOUR * rng.randrange(24 * days),
            rng.randrange(parts),
        )
        for _ in range(rng.randint(size // 2, size))
    ]
    rare = [Event("once", "9", "rare", 1_600_000_000, part) for part in range(parts)]
    return sorted([*drawn, *rare], key=part_of)


# The slow way.


@dataclass(frozen=True)
class Session:
    user: str | None
    items: list[str]
    last: float
    number: float
    part: int
    first: int


@dataclass(frozen=True)
class Sequence:
    user: str | None
    items: list[str]
    cuts: tuple[int, int]


def sessions_of(events: list[Event], users: bool, sessions: bool, timed: bool) -> list[Session]:
    groups: dict[Any, list[tuple[int, Event]]] = defaultdict(list)
    for place, event in enumerate(events):
        key = (event.user if users or not sessions else None, event.session if sessions else None, event.part)
        groups[key].append((place, event))
    numeric = users and not timed and sessions and all(event.session.isdecimal() for event in events)
    found = []
    for (user, session, part), group in groups.items():
        in_time = sorted(group, key=lambda placed: placed[1].time if timed else 0)
        number = float(session) if numeric else 0.0
        last = max(event.time for _, event in group) if timed else 0
        found.append(Session(user, [event.item for _, event in in_time], last, number, part, group[0][0]))
    order = list(dict.fromkeys(event.user for event in events))
    return sorted(
        found,
        key=lambda of: (order.index(of.user) if of.user is not None else 0, of.part, of.last, of.number, of.first),
    )


def filtered(sessions: list[Session], options: Options, given: bool) -> list[Session]:
    while True:
        before = sum(len(of.items) for of in sessions)
        counts = Counter(item for of in sessions if not (given and of.part) for item in of.items)
        kept = [
            replace(of, items=[i for i in of.items if counts[i] >= options.min_item_support or (given and of.part)])
            for of in sessions
        ]
        merged = options.layout != "sessions"
        lengths: Counter[Any] = Counter()
        for place, of in enumerate(kept):
            lengths[of.user if merged and of.user is not None else place] += len(of.items)
        kept = [
            of
            for place, of in enumerate(kept)
            if of.items and lengths[of.user if merged and of.user is not None else place] >= options.min_session_length
        ]
        users = Counter(of.user for of in kept)
        sessions = [of for of in kept if of.user is None or users[of.user] >= options.min_user_sessions]
        if sum(len(of.items) for of in sessions) == before:
            return sessions


def parts_of(sessions: list[Session], split: Splitter) -> list[int]:
    match split:
        case Given():
            train = sorted((of.last, of.first) for of in sessions if of.part == 0)
            newest = train[len(train) - round(split.valid_share * len(train)) :]
            return [1 if of.part == 0 and (of.last, of.first) in newest else of.part for of in sessions]
        case LastSession():
            found = []
            for place, of in enumerate(sessions):
                later = sum(other.user == of.user for other in sessions[place + 1 :])
                earlier = sum(other.user == of.user for other in sessions[:place])
                found.append(2 if not later and earlier else 1 if later == 1 and earlier and split.validation else 0)
            return found
        case ByTime():
            end = max(of.last for of in sessions)
            test, valid = (split.test_days, split.test_days + split.valid_days)
            days = [(end - of.last) / DAY_SECONDS for of in sessions]
            return [2 if day <= test else 1 if day <= valid else 0 for day in days]
    raise AssertionError(split)


def cuts_of(length: int, split: Splitter) -> tuple[int, int]:
    match split:
        case LeaveOneOut():
            test = max(length - 1, 1)
            return max(test - split.validation, 1), test
        case Fraction():
            test = max(length - round(split.test_share * length), 1)
            return max(test - round(split.valid_share * test), 1), test
    raise AssertionError(split)


def sequences_of(sessions: list[Session], options: Options, split: Splitter) -> list[Sequence]:
    by_event = isinstance(split, LeaveOneOut | Fraction)
    parts = [0] * len(sessions) if by_event else parts_of(sessions, split)
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, of in enumerate(sessions):
        groups[of.user if options.layout != "sessions" and of.user is not None else place].append(place)
    found = []
    for places in groups.values():
        items = [item for place in places for item in sessions[place].items]
        sizes = [sum(len(sessions[place].items) for place in places if parts[place] <= part) for part in (0, 1)]
        cuts = cuts_of(len(items), split) if by_event else (sizes[0], sizes[1])
        found.append(Sequence(sessions[places[0]].user, items, cuts))
    return found


def padded(items: list[str], length: int) -> list[str]:
    return ["?"] * (length - len(items)) + items[max(len(items) - length, 0) :]


def rows_of(of: Sequence, part: int, options: Options) -> list[Row]:
    low, high = (0, *of.cuts, len(of.items))[part : part + 2]
    seen = None if options.layout == "sessions" else sorted({*of.items[:low]} - {"?"}) if part else []
    if high == low:
        return []
    if options.layout == "windows":
        length, targets = options.length or 5, options.targets or 3
        if part:
            return [Row(of.user, padded(of.items[:low], length), of.items[low:high], seen)] if low else []
        items = padded(of.items[:high], max(high, length + targets))
        ends = range(length + targets, len(items) + 1)
        return [
            Row(of.user, items[end - targets - length : end - targets], items[end - targets : end], seen)
            for end in ends
        ]
    if high < 2:
        return []
    most = options.length or (200 if options.layout == "users" else 10**9)
    history = of.items[: high - 1][-most:]
    target = of.items[max(low, 1) : high][-most:]
    return [Row(of.user, history, target, seen)]


def expected(
    events: list[Event], options: Options, split: Splitter, users: bool, sessions: bool, timed: bool
) -> dict[str, Any] | None:
    """The rows of each split, and what training saw; None if that must be refused."""
    given = isinstance(split, Given)
    left = filtered(sessions_of(events, users, sessions, timed), options, given)
    if not left:
        return None
    all_of = sequences_of(left, options, split)
    seen = Counter(item for of in all_of for item in of.items[: of.cuts[0]])
    trained = Counter()
    for of in all_of:
        trained[of.user] += of.cuts[0]
    first = list(dict.fromkeys(event.item for event in events))
    found: dict[str, Any] = {"items": sorted(seen, key=lambda item: (-seen[item], first.index(item))), "counts": seen}
    first = list(dict.fromkeys(event.user for event in events))
    known = [user for user in trained if user is not None and trained[user]]
    found["users"] = sorted(known, key=lambda user: (-trained[user], first.index(user)))
    encoded = []
    for of in all_of:
        cuts = of.cuts
        if options.unknown == "drop":
            kept = [item in seen for item in of.items]
            cuts = (sum(kept[: cuts[0]]), sum(kept[: cuts[1]]))
            encoded.append(Sequence(of.user, [item for item in of.items if item in seen], cuts))
        else:
            encoded.append(Sequence(of.user, [item if item in seen else "?" for item in of.items], cuts))
    context = users and options.layout == "sessions" and isinstance(split, Given | LastSession | ByTime)
    for part, name in enumerate(SPLITS):
        own = [rows_of(of, part, options) for of in encoded]
        shown = {of.user for of, rows in zip(encoded, own, strict=True) if rows} if context and part else set()
        rows = []
        for of, of_own in zip(encoded, own, strict=True):
            low = (0, *of.cuts)[part]
            if not of_own and of.user in shown and low == len(of.items) > 1:
                of_own = [Row(of.user, of.items[:-1], [], None)]
            rows += [
                row._replace(user=None if row.user is None else row.user if trained[row.user] else "?")
                for row in of_own
            ]
        found[name] = rows
    return found


# The product.


def write_csv(path: Path, events: list[Event], names: list[str], separator: str = ",", header: bool = True) -> str:
    lines = [separator.join(names)] if header else []
    lines += [separator.join(str(getattr(event, name)) for name in names) for event in events]
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def write_parquet(path: Path, events: list[Event], names: list[str]) -> str:
    columns: dict[str, Any] = {name: [getattr(event, name) for event in events] for name in names}
    for name in ("item", "session"):
        if name in columns and all(value.isdecimal() for value in columns[name]):
            columns[name] = pa.array(map(int, columns[name]))
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return str(path)


def run(
    tmp: Path,
    events: list[Event],
    split: Splitter,
    names: str = "user session item time",
    form: str = "csv",
    valid: bool = True,
    **options: Any,
) -> tuple[Path, Prepared]:
    """Events in files, one for each part if files are the split."""
    number = len(list(tmp.iterdir()))
    given = isinstance(split, Given)
    write = write_csv if form == "csv" else write_parquet
    paths = []
    for part in range(3 if given else 1):
        of_part = [event for event in events if event.part == part or not given]
        paths.append([write(tmp / f"raw{number}-{part}", of_part, names.split())] if of_part else [])
    source = SessionFiles(
        paths[0], split, Options(**options), Columns(), paths[1] if given else [], paths[2] if given else []
    )
    out = tmp / f"out{number}"
    return out, engine.prepare(source, out)


def raw_ids(folder: Path, table: str) -> list[str]:
    """By row."""
    return ["?", *(folder / "vocabulary" / f"{table}.txt").read_text().splitlines()]


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    data = Dataset(folder)
    if split not in data.manifest.splits:
        return []
    return pa.Table.from_batches([data.read_block(shard, block) for shard, block, _ in data.blocks(split)]).to_pylist()


def rows(folder: Path, split: str) -> list[Row]:
    items = raw_ids(folder, "item")
    users = raw_ids(folder, "user") if "user" in Dataset(folder).manifest.tables else []
    found = []
    for row in read(folder, split):
        assert row["label"] == 0
        user = users[row["user"]] if users else None
        history, target = ([items[item] for item in row[name]] for name in ("history", "target"))
        seen = [items[item] for item in row["seen"]] if "seen" in row else None
        assert seen is None or row["seen"] == sorted({*row["seen"]})
        found.append(Row(user, history, target, None if seen is None else sorted(seen)))
    return found


SPLITTERS: list[Splitter] = [
    Given(),
    Given(valid_share=0.3),
    LastSession(),
    LastSession(validation=True),
    ByTime(test_days=2.0),
    ByTime(test_days=0.25, valid_days=5.0),
    LeaveOneOut(),
    LeaveOneOut(validation=False),
    Fraction(valid_share=0.3),
    Fraction(test_share=0.5, valid_share=0.0),
]
FORMS = ("user session item time", "session item time", "user session item", "user item time", "session item")


def some_options(rng: random.Random, layout: str, users: bool) -> dict[str, Any]:
    return {
        "layout": layout,
        "min_session_length": rng.choice([1, 2, 2, 2, 3]),
        "min_item_support": rng.choice([1, 1, 2, 3]),
        "min_user_sessions": rng.choice([1, 1, 2]) if users else 1,
        "unknown": rng.choice(["miss", "drop"]),
        "length": rng.choice([1, 4, 9]) if layout != "sessions" else None,
        "targets": rng.choice([1, 3]) if layout == "windows" else None,
    }


def asked_for(split: Splitter, parts: set[int]) -> list[str]:
    """The splits that must not be empty."""
    match split:
        case Given():
            valid = 1 in parts or split.valid_share > 0
        case LastSession() | LeaveOneOut():
            valid = split.validation
        case ByTime():
            valid = split.valid_days > 0
        case Fraction():
            valid = split.valid_share > 0
    return ["train", *(["valid"] if valid else []), "test"]


def check(tmp: Path, events: list[Event], split: Splitter, names: str, form: str, options: dict[str, Any]) -> bool:
    """Compares with the slow way; whether there was something to compare, and not a refusal."""
    wanted = expected(events, Options(**options), split, "user" in names, "session" in names, "time" in names)
    if wanted is None or not all(wanted[name] for name in asked_for(split, {event.part for event in events})):
        with pytest.raises(UserError, match=r"no session is left|no event is left|to predict is left for"):
            run(tmp, events, split, names, form, **options)
        return False
    out, prepared = run(tmp, events, split, names, form, **options)
    assert raw_ids(out, "item")[1:] == wanted["items"]
    assert load_counts(Dataset(out)).tolist() == [0, *(wanted["counts"][item] for item in wanted["items"])]
    assert prepared.manifest.tables["item"].rows == len(wanted["items"]) + 1
    assert ("user" in prepared.manifest.tables) == ("user" in names)
    if "user" in names:
        assert raw_ids(out, "user")[1:] == wanted["users"]
    for name in SPLITS:
        assert rows(out, name) == wanted[name], name
    predictions = prepared.manifest.transform["predictions"]
    assert predictions == {name: sum(len(row.target) for row in wanted[name]) for name in SPLITS}
    return True


@pytest.mark.parametrize("layout", ["sessions", "users", "windows"])
@pytest.mark.parametrize("split", SPLITTERS, ids=lambda split: "-".join(map(str, split.model_dump().values())))
def test_every_split_and_layout_is_that_of_the_slow_way(
    tmp_path: Path, split: Splitter, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, size in SMALL:
        monkeypatch.setattr(module, name, size)
    compared = 0
    for seed in range(10):
        rng = random.Random(seed)
        names = FORMS[seed % len(FORMS)]
        if (isinstance(split, LastSession) and "user" not in names) or (
            isinstance(split, ByTime) and "time" not in names
        ):
            names = FORMS[0]
        events = some_events(seed, parts=rng.choice([2, 3]) if isinstance(split, Given) else 1)
        if isinstance(split, Given):
            # Validation files and a share for validation exclude each other.
            others = {1: 2} if split.valid_share else {}
            events = sorted((event._replace(part=others.get(event.part, event.part)) for event in events), key=part_of)
            if 2 not in {event.part for event in events}:
                events = [event._replace(part=2 * event.part) for event in events]
        options = some_options(rng, layout, "user" in names)
        compared += check(tmp_path, events, split, names, rng.choice(["csv", "parquet"]), options)
    assert compared >= 3


SMALL = (
    (codes_module, "PENDING", 3),
    (order_module, "BLOCK", 5),
    (layout_module, "VALUES", 16),
    (write_module, "SHARD_ROWS", 10),
    (lines_module, "BLOCK_BYTES", 1 << 10),
    (chunks_module, "PARQUET_ROWS", 7),
)
"""So that a small log is read, sorted and written in many pieces."""
