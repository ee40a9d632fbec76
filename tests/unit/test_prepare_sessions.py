"""Sessions to a prepared folder: equal to the slow way, whatever the form of the input; bad input by name."""

import gzip
import json
import os
import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dist_rec.cli.main import app
from dist_rec.core.errors import UserError
from dist_rec.data.counts import load_counts
from dist_rec.data.loader import Loader, LoaderConfig
from dist_rec.data.seen import seen_pairs
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
from dist_rec.prepare.sessions.split import ByTime, Fraction, Given, LastSession, LeaveOneOut, Splitter, splitter
from dist_rec.prepare.sessions.times import DAY_SECONDS, day_of
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
    found["pairs"] = sorted(
        {
            (found["users"].index(of.user) + 1, found["items"].index(item) + 1)
            for of in all_of
            if of.user is not None
            for item in of.items[: of.cuts[0]]
        }
    )
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


SMALL = (
    (codes_module, "PENDING", 3),
    (order_module, "BLOCK", 5),
    (layout_module, "VALUES", 16),
    (write_module, "SHARD_ROWS", 10),
    (lines_module, "BLOCK_BYTES", 1 << 10),
    (chunks_module, "PARQUET_ROWS", 7),
)
"""So that a small log is read, sorted and written in many pieces."""

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
        of_pair = [divmod(pair, len(wanted["items"]) + 1) for pair in seen_pairs(Dataset(out)).tolist()]
        assert of_pair == wanted["pairs"]
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


def prepare(
    files: list[str], out: Path, split: Splitter | None = None, columns: dict[str, str] | None = None, **others: Any
) -> Prepared:
    options = {name: others.pop(name) for name in list(others) if name in Options.model_fields}
    source = SessionFiles(files, split or LeaveOneOut(), Options(**options), Columns(**(columns or {})), **others)
    return engine.prepare(source, out)


def contents(folder: Path) -> dict[str, list[Row]]:
    return {name: rows(folder, name) for name in SPLITS}


NAMES = ["user", "session", "item", "time"]


def all_forms(tmp: Path, events: list[Event]) -> dict[str, tuple[str, dict[str, str]]]:
    """The same events as files of many forms, and the columns that must be said of each."""
    files = {
        form: (write_csv(tmp / form, events, NAMES, separator), {})
        for form, separator in (("comma", ","), ("tab", "\t"), ("semicolon", ";"), ("bar", "|"), ("space", " "))
    }
    plain = (tmp / "comma").read_bytes()
    changed = {
        "gzip": gzip.compress(plain, 1),
        "windows": plain.replace(b"\n", b"\r\n"),
        "unended": plain[:-1],
        "quoted": re.sub(rb"[^,\n]+", rb'"\g<0>"', plain),
        "usual": plain.replace(b"user,session,item,time", b"visitorid,Basket_ID,itemId,ts"),
    }
    for form, content in changed.items():
        (tmp / form).write_bytes(content)
        files[form] = (str(tmp / form), {})
    (tmp / "other").write_bytes(plain.replace(b"user,session,item,time", b"who,visit,what,at"))
    files["other"] = (str(tmp / "other"), {"user": "who", "session": "visit", "item": "what", "time": "at"})
    (tmp / "bare").write_bytes(plain.partition(b"\n")[2])
    files["bare"] = (str(tmp / "bare"), {"user": "1", "session": "2", "item": "3", "time": "4"})
    files["parquet"] = (write_parquet(tmp / "parquet", events, NAMES), {})
    table = pq.read_table(tmp / "parquet")
    for form, column in (("dictionary", "item"), ("dictionaries", "user")):
        encoded = table.set_column(NAMES.index(column), column, table[column].cast(pa.string()).dictionary_encode())
        pq.write_table(encoded, tmp / form)
        files[form] = (str(tmp / form), {})
    return files


@pytest.mark.parametrize("seed", [2, 3])
def test_all_forms_of_files_say_the_same(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, size in SMALL:
        monkeypatch.setattr(module, name, size)
    events = some_events(seed)
    usual, _ = run(tmp_path, events, LastSession())
    for form, (file, columns) in all_forms(tmp_path, events).items():
        prepare([file], tmp_path / "out" / form, LastSession(), columns)
        assert contents(tmp_path / "out" / form) == contents(usual), form


def test_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    events = some_events(5)
    usual, _ = run(tmp_path, events, LastSession())
    write_csv(tmp_path / "part-0", events[:40], NAMES)
    write_parquet(tmp_path / "part-1", [event._replace(item=event.item) for event in events[40:]], NAMES[::-1])
    prepare([str(tmp_path / "part-*")], tmp_path / "out", LastSession())
    assert contents(tmp_path / "out") == contents(usual)


EVENTS_OF_WEEKS = [
    Event(f"u{place % 3}", f"s{place // 5}", f"i{place % 7}", 1_600_000_000 + 2 * HOUR * place) for place in range(120)
]


def stamps(events: list[Event], form: str) -> list[Any]:
    dates = [datetime.fromtimestamp(event.time, UTC) for event in events]
    match form:
        case "seconds":
            return [event.time for event in events]
        case "milliseconds":
            return [event.time * 1000 + 7 for event in events]
        case "microseconds":
            return [event.time * 10**6 for event in events]
        case "nanoseconds":
            return [event.time * 10**9 for event in events]
        case "floats":
            return [event.time + 0.25 for event in events]
        case "iso":
            return [date.strftime("%Y-%m-%d %H:%M:%S") for date in dates]
        case "iso with a zone":
            return [f"{date.replace(tzinfo=None).isoformat()}.277Z" for date in dates]
        case "arrow":
            return [date.replace(tzinfo=None) for date in dates]
    return dates


@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize(
    "form", ["milliseconds", "microseconds", "nanoseconds", "floats", "iso", "iso with a zone", "arrow", "zoned"]
)
def test_all_forms_of_times_say_the_same(tmp_path: Path, form: str, parquet: bool) -> None:
    events, split = EVENTS_OF_WEEKS, ByTime(test_days=2.5, valid_days=3)
    usual, _ = run(tmp_path, events, split)
    columns: dict[str, Any] = {name: [getattr(event, name) for event in events] for name in NAMES[:3]}
    columns["time"] = stamps(events, form)
    path = tmp_path / "raw"
    if parquet:
        pq.write_table(pa.table(columns), path)
    else:
        lines = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join([",".join(NAMES), *lines]))
    prepare([str(path)], tmp_path / "out", split)
    assert contents(tmp_path / "out") == contents(usual)


def test_a_day_is_known_by_the_size_of_times() -> None:
    for scale in (1, 10**3, 10**6, 10**9):
        assert day_of(np.array([5, 1_600_000_000 * scale])) == DAY_SECONDS * scale
    assert day_of(np.array([1.6e9 + 0.5])) == DAY_SECONDS


def test_integers_and_floats_of_one_log_are_compared(tmp_path: Path) -> None:
    events = some_events(8)
    usual, _ = run(tmp_path, events, LeaveOneOut())
    table = pq.read_table(write_parquet(tmp_path / "whole", events, NAMES))
    pq.write_table(table[:50], tmp_path / "part-0")
    pq.write_table(table[50:].set_column(3, "time", table[50:]["time"].cast(pa.float64())), tmp_path / "part-1")
    prepare([str(tmp_path / "part-*")], tmp_path / "out")
    assert contents(tmp_path / "out") == contents(usual)


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.string()), pa.list_(pa.string())])
def test_lists_are_sessions(tmp_path: Path, kind: pa.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, size in SMALL:
        monkeypatch.setattr(module, name, size)
    rng = random.Random(1)
    text = not pa.types.is_integer(kind.value_type)
    lists = [[rng.randrange(9) for _ in range(rng.randrange(place < 5, 6))] for place in range(60)]
    users, times = [place % 5 for place in range(60)], [rng.randrange(99) for _ in lists]
    events = [
        Event(str(user), str(place), str(item), time, 2 * (place >= 40))
        for place, (items, user, time) in enumerate(zip(lists, users, times, strict=True))
        for item in items
    ]
    for others in ("", " user", " time", " user time"):
        usual, _ = run(tmp_path, events, Given(), f"session item{others}", unknown="drop")
        values = [list(map(str, items)) for items in lists] if text else lists
        columns = {"items": pa.array(values, kind)}
        columns |= {name: pa.array(of) for name, of in (("user", users), ("time", times)) if name in others}
        table, number = pa.table(columns), len(list(tmp_path.iterdir()))
        pq.write_table(table[:40], tmp_path / "train")
        pq.write_table(table[40:], tmp_path / "test")
        out = tmp_path / f"out{number}"
        prepare([str(tmp_path / "train")], out, Given(), test_patterns=[str(tmp_path / "test")], unknown="drop")
        assert contents(out) == contents(usual)


def test_the_targets_belong_to_the_last_items_of_the_history(tmp_path: Path) -> None:
    """Written down by hand, one layout after the other."""
    events = [Event("u", f"s{place // 3}", item, place) for place, item in enumerate("abcdbaebc")]
    out, _ = run(tmp_path, events, LastSession(validation=True))
    assert contents(out) == {
        "train": [Row("u", ["a", "b"], ["b", "c"], None)],
        "valid": [Row("u", ["a", "b"], [], None), Row("u", ["?", "b"], ["b", "a"], None)],
        "test": [
            Row("u", ["a", "b"], [], None),
            Row("u", ["?", "b"], [], None),
            Row("u", ["?", "b"], ["b", "c"], None),
        ],
    }
    out, _ = run(tmp_path, events, LeaveOneOut(), layout="users", length=4)
    assert contents(out) == {
        "train": [Row("u", ["c", "d", "b", "a"], ["d", "b", "a", "e"], [])],
        "valid": [Row("u", ["d", "b", "a", "e"], ["b"], ["a", "b", "c", "d", "e"])],
        "test": [Row("u", ["b", "a", "e", "b"], ["c"], ["a", "b", "c", "d", "e"])],
    }
    split = Fraction(test_share=0.2, valid_share=0.0)
    out, _ = run(tmp_path, events, split, layout="windows", length=4, targets=2)
    assert contents(out) == {
        "train": [
            Row("u", ["a", "b", "c", "d"], ["b", "a"], []),
            Row("u", ["b", "c", "d", "b"], ["a", "e"], []),
        ],
        "valid": [],
        "test": [Row("u", ["d", "b", "a", "e"], ["b", "c"], ["a", "b", "c", "d", "e"])],
    }
    out, _ = run(tmp_path, events, split, layout="windows", length=7, targets=2)
    assert contents(out)["train"] == [Row("u", ["?", "?", "a", "b", "c", "d", "b"], ["a", "e"], [])]


def test_a_session_id_of_two_users_is_two_sessions(tmp_path: Path) -> None:
    events = [Event(user, "7", item, time) for time, (user, item) in enumerate(["ua", "vb", "uc", "vd"])]
    out, _ = run(tmp_path, [*events, *(event._replace(session="8") for event in events)], LastSession())
    assert contents(out)["train"] == [Row("u", ["a"], ["c"], None), Row("v", ["b"], ["d"], None)]


def test_baskets_without_times_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    baskets = [Event("u", session, f"{item}{session}", 0) for session in ("10", "9", "-1", "2.5") for item in "ab"]
    out, _ = run(tmp_path, baskets, LastSession(), "user session item")
    assert [row.history for row in rows(out, "train")] == [["a-1"], ["a2.5"], ["a9"]]
    named = [event._replace(session=f"s{event.session}") for event in baskets]
    out, _ = run(tmp_path, named, LastSession(), "user session item")
    assert [row.history for row in rows(out, "train")] == [["a10"], ["a9"], ["a-1"]]


def test_what_a_user_may_not_expect_is_told(tmp_path: Path) -> None:
    late = [Event("u", "1", "a", 9), Event("u", "1", "b", 8), Event("u", "2", "a", 10), Event("u", "2", "new", 11)]
    single = [Event("alone", "3", "a", 5), Event("alone", "3", "b", 5)]
    _, prepared = run(tmp_path, [*late, *single], LastSession())
    assert prepared.warnings == (
        "1 sessions are not in the order of time in the files; they were sorted",
        "1 users have one session, first user alone: it is for training alone",
        "1 test targets are items that training never saw, first item new: row 0 of the table",
    )
    with pytest.raises(UserError, match="keep items that training never saw with --unknown miss"):
        run(tmp_path, [*late, *single], LastSession(), unknown="drop")
    more = [*late, *single, Event("alone", "4", "a", 12), Event("alone", "4", "b", 12)]
    _, prepared = run(tmp_path, more, LastSession(), unknown="drop")
    assert prepared.warnings[1:] == (
        "1 events of items that training never saw are left out, first item new",
        "1 test sessions have no row: nothing of them is left to predict from what comes before it",
    )
    _, prepared = run(tmp_path, single * 2, LeaveOneOut(validation=False), "user session item")
    assert prepared.warnings == ("the files have no times: what comes last is the last in the order of the files",)


EVENTS = [Event(f"u{place // 16}", f"s{place // 4}", f"i{place % 7}", 1000 + place) for place in range(80)]


@pytest.mark.parametrize(
    ("names", "options", "split", "message"),
    [
        ("item time", {}, None, "has the columns item, time, and none is usual for sessions or users; say --session"),
        ("user time", {}, None, "has the columns user, time, and none is usual for items; say --item NAME"),
        ("session item", {}, LastSession(), "--split last-session needs users; name their column with --user"),
        ("session item", {}, ByTime(test_days=1), "--split time needs times; name their column with --time"),
        ("session item", {"min_user_sessions": 2}, None, "--min-user-sessions needs users; name their column"),
        ("session item time", {"min_session_length": 9}, None, "no session is left: none has 9 events of items"),
        ("session item time", {"min_item_support": 99}, None, "no session is left: none has 2 events of items"),
        ("session item time", {}, ByTime(test_days=1), "no event is left for training; leave less for the test"),
        ("session item time", {"length": 3}, None, "--length is for --layout users or windows"),
        ("session item time", {"layout": "users", "targets": 3}, None, "--targets is for --layout windows"),
    ],
)
def test_impossible_requests_are_refused(
    tmp_path: Path, names: str, options: dict[str, Any], split: Splitter | None, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, EVENTS, split or LeaveOneOut(), names, **options)
    assert message in str(caught.value)
    assert not list(tmp_path.glob("*out*"))


def test_sessions_of_one_event_are_nothing_to_learn_from(tmp_path: Path) -> None:
    single = [event._replace(session=str(place)) for place, event in enumerate(EVENTS)]
    with pytest.raises(UserError, match="no session is left: none has 2 events"):
        run(tmp_path, single, LeaveOneOut(), "session item")


def test_files_and_columns_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    whole, out = write_csv(tmp_path / "whole", EVENTS, NAMES), tmp_path / "out"
    fewer = write_csv(tmp_path / "fewer", EVENTS, NAMES[:3])
    short = write_csv(tmp_path / "short", [Event("u", str(place), "i1", 1) for place in range(3)], NAMES)

    def refused(*arguments: Any, **others: Any) -> str:
        with pytest.raises(UserError) as caught:
            prepare(*arguments, **others)
        return str(caught.value).replace(f"{tmp_path}/", "")

    assert refused([whole], out, LeaveOneOut(), test_patterns=[fewer]).startswith("--test is for --split given; leave-")
    assert refused([whole], out, LastSession(), valid_patterns=[fewer]).startswith("--valid is for --split given; last")
    assert refused([whole], out, Given()) == "--split given needs --test with the files of the test"
    assert refused([whole], out, Given(), test_patterns=[whole]) == "whole is in both FILES and --test"
    both = Given(valid_share=0.1)
    assert "choose one" in refused([whole], out, both, test_patterns=[short], valid_patterns=[fewer])
    assert refused([whole, fewer], out) == "fewer has no column for --time, but whole has one"
    assert refused([fewer, whole], out) == "fewer has no column for --time, but whole has one"
    assert refused([whole], out, Given(), test_patterns=[short]) == (
        "--split given: no session with something to predict is left for test; give more, or choose another split or "
        "lower filters"
    )
    assert refused([str(tmp_path / "none*")], out) == "FILES 'none*' matches no file"
    named = {"item": "product", "session": "session"}
    assert refused([whole], out, None, named) == (
        "whole has no column 'product' for --item; it has user, session, item, time"
    )
    assert refused([whole], out, None, {"item": "1", "user": "2"}) == (
        "whole begins with a header, user, session, item, time; name columns, not numbers"
    )
    assert refused([whole], out, None, {"items": "item"}).startswith("whole: column 'item' holds string, not lists")
    assert refused([whole], out, None, {"items": "item", "session": "session"}) == (
        "--items is a whole session a row; --session is not for it"
    )
    (tmp_path / "bare").write_text("1,2,3\n1,3,4\n")
    assert "and none is usual for items; say --item NAME, or numbers" in refused([str(tmp_path / "bare")], out)
    said = refused([str(tmp_path / "bare")], out, None, {"item": "9", "user": "1"})
    assert said.startswith("bare, line 1 has no column 9 by tab, comma")
    assert refused([whole], out, separator="::") == "--separator '::' must be one character"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u,s,i,yesterday", ", line 42: the time is 'yesterday', which is no time; give numbers, or dates such as"),
        ("u,s,i,2014-04-07", ", line 42: the time is '2014-04-07', which is no time; give numbers, or dates such as"),
        ("u,s,i,nan", ", line 42: the time is 'nan', which is no time"),
        ("u,s,i,", ", line 42: the time is '', which is no time"),
        ("u,s, ,5", ", line 42: the item is missing; add it"),
        (",s,i,5", ", line 42: the user is missing; add it"),
        ("u,,i,5", ", line 42: the session is missing; add it"),
        ("u,s,i", ", line 42 has 3 fields between ',', not 4"),
        ('u,"s,i,5', ", line 42 has a quote that is not closed in the same line"),
        ("u,s,\udcff,5", ", line 42 is not UTF-8"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_bad_line_is_named_and_nothing_is_left(tmp_path: Path, line: str, message: str, zipped: bool) -> None:
    path = Path(write_csv(tmp_path / "bad", EVENTS, NAMES))
    lines = path.read_text().splitlines()
    content = "\n".join([*lines[:41], line, *lines[41:]]).encode(errors="surrogateescape")
    path.write_bytes(gzip.compress(content, 1) if zipped else content)
    with pytest.raises(UserError) as caught:
        prepare([str(path)], tmp_path / "out")
    assert str(caught.value).startswith(f"{path}{message}")
    assert list(tmp_path.iterdir()) == [path]


BAD_COLUMNS: dict[str, tuple[dict[str, pa.Array], str]] = {
    "null item": ({"session": pa.array([1, 1, 1]), "item": pa.array([1, None, 3])}, ", row 2: the item is missing"),
    "null time": (
        {"session": pa.array([1, 1]), "item": pa.array([1, 2]), "time": pa.array([1, None])},
        ", row 2: the time is missing; give numbers",
    ),
    "nan time": (
        {"session": pa.array([1, 1]), "item": pa.array([1, 2]), "time": pa.array([1.0, np.nan])},
        ", row 2: the time is 'nan', which is no time",
    ),
    "type of time": (
        {"session": pa.array([1, 1]), "item": pa.array([1, 2]), "time": pa.array([True, False])},
        ": column 'time' holds bool, which is no time",
    ),
    "line break": ({"session": pa.array([1, 1]), "item": pa.array(["a", "b\nc"])}, ", row 2: the item has a line br"),
    "null list": (
        {"items": pa.array([[1, 2], None], pa.list_(pa.int32()))},
        ", row 2: items is missing; leave the row out, or give it an empty list",
    ),
    "null in a list": (
        {"items": pa.array([[1, 2], [], [3, None]], pa.list_(pa.int32()))},
        ", row 3: the item is missing; add it",
    ),
    "empty lists": ({"items": pa.array([[], []], pa.list_(pa.int32()))}, " holds no events: all of its lists are empt"),
    "lists as items": (
        {"session": pa.array([1]), "item": pa.array([[1, 2]], pa.list_(pa.int32()))},
        ": column 'item' holds lists; say --items item",
    ),
    "no rows": ({"session": pa.array([], pa.int32()), "item": pa.array([], pa.int32())}, " holds no rows"),
}


@pytest.mark.parametrize("name", BAD_COLUMNS)
def test_bad_columns_of_parquet_are_named(tmp_path: Path, name: str) -> None:
    columns, message = BAD_COLUMNS[name]
    path = tmp_path / "bad"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(UserError) as caught:
        prepare([str(path)], tmp_path / "out")
    assert str(caught.value).startswith(f"{path}{message}")
    assert list(tmp_path.iterdir()) == [path]


def test_dates_and_numbers_in_two_files_are_refused(tmp_path: Path) -> None:
    numbers = write_csv(tmp_path / "numbers", EVENTS, NAMES)
    dated = [event._replace(time="2014-04-07") for event in EVENTS]
    dates = write_csv(tmp_path / "dates", dated, NAMES)
    with pytest.raises(UserError, match=r"dates, line 2 has a date for its time, but .*numbers has numbers"):
        prepare([numbers, dates], tmp_path / "out")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "bad is empty"),
        (lambda content: content[: len(content) // 2], "bad is no readable Parquet file: "),
        (lambda content: content[:4] + bytes(len(content) - 100) + content[-96:], "bad is no readable Parquet file: "),
        (lambda content: b"user,session,item,time\n", "bad holds no rows"),
        (lambda content: gzip.compress(b"user,session,item,time\n"), "bad holds no rows"),
        (lambda content: gzip.compress(b""), "bad is empty"),
        (lambda content: gzip.compress(content)[:99], "bad is a truncated gzip file|bad is not UTF-8|is not UTF-8"),
        (lambda content: b"\x1f\x8b" + b"junk" * 99, "bad is a damaged gzip file"),
    ],
)
def test_damaged_and_empty_files_are_named(tmp_path: Path, damage: Any, message: str) -> None:
    path = Path(write_parquet(tmp_path / "bad", EVENTS * 9, NAMES))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        prepare([str(path)], tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]


def test_counts_that_are_missing_or_damaged_are_refused(tmp_path: Path) -> None:
    out, _ = run(tmp_path, EVENTS, LeaveOneOut())
    assert load_counts(Dataset(out)).sum() == len(EVENTS) - 2 * 20
    content = bytearray((out / "counts.npy").read_bytes())
    content[-1] ^= 1
    (out / "counts.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"counts\.npy is missing or damaged; prepare the data again"):
        load_counts(Dataset(out))
    (out / "counts.npy").unlink()
    with pytest.raises(UserError, match=r"counts\.npy is missing or damaged; prepare the data again"):
        load_counts(Dataset(out))
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["transform"]["counts"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="was not prepared by `dist-rec prepare sessions`: it has no counts"):
        load_counts(Dataset(out))


@pytest.mark.parametrize("layout", ["sessions", "users", "windows"])
def test_the_loader_reads_all_layouts(tmp_path: Path, layout: str) -> None:
    out, prepared = run(tmp_path, EVENTS, LeaveOneOut(), layout=layout)
    loader = Loader(Dataset(out), "test", LoaderConfig(path=str(out), streams=1, window=8), batch=4)
    batch = next(loader.batches(0, 1))
    seen = ["seen"] if layout != "sessions" else []
    assert batch.ids.keys() == ["user", "history", "target", *seen]
    assert prepared.manifest.column("history").kind == "sequence"


def test_the_command_writes_the_same_bytes_each_time(tmp_path: Path) -> None:
    raw = write_csv(tmp_path / "raw", [event._replace(time=1000 + place) for place, event in enumerate(EVENTS)], NAMES)
    arguments = ["prepare", "sessions", raw, "--split", "fraction", "--layout", "windows", "--length", "2", "--json"]
    for out in ("one", "two"):
        ran = CliRunner().invoke(app, [*arguments, "--targets", "1", "--out", str(tmp_path / out)])
        assert ran.exit_code == 0, ran.output
    last = json.loads(ran.stdout.splitlines()[-1])
    assert last["splits"]["test"]["rows"] == Dataset(tmp_path / "one").manifest.splits["test"].rows
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_options_of_other_splits_are_refused() -> None:
    with pytest.raises(UserError, match="--test-days is not for --split given, whose options are --valid-share"):
        splitter("given", {"test_days": 3.0})
    with pytest.raises(UserError, match="--split time needs --test-days"):
        splitter("time", {})
    with pytest.raises(UserError, match="--split 'best' is not one of given, last-session, time"):
        splitter("best", {})


@pytest.mark.skipif(not DATA.exists(), reason="the real data are not here")
def test_the_protocols_on_real_data(tmp_path: Path) -> None:
    def sizes(prepared: Prepared) -> dict[str, tuple[int, int]]:
        predictions = prepared.manifest.transform["predictions"]
        return {name: (split.rows, predictions[name]) for name, split in prepared.manifest.splits.items()}

    # Li et al. 2017 (NARM) and Wu et al. 2019 (SR-GNN): the newest 1/64 of the clicks of the RecSys challenge.
    clicks, test = (str(DATA / "yoochoose1_64" / f"{name}.parquet") for name in ("train", "test"))
    prepared = prepare([clicks], tmp_path / "clicks", Given(), {"items": "items"}, test_patterns=[test])
    assert sizes(prepared) == {"train": (116_167, 369_859), "test": (15_324, 55_898)}
    assert prepared.warnings == (
        "412 test targets are items that training never saw, first item 35070: row 0 of the table",
    )
    # Quadrana et al. 2017: a user's last sessions.
    views, test = (str(DATA / "retailrocket_users" / f"{name}.parquet") for name in ("train", "test"))
    prepared = prepare([views], tmp_path / "views", Given(), test_patterns=[test])
    assert sizes(prepared) == {"train": (3_170, 4_133), "test": (1_717, 463)}
    assert sum(not row.target for row in rows(tmp_path / "views", "test")) == 1_717 - 411
    baskets = str(DATA / "tafeng_baskets" / "baskets.csv")
    prepared = prepare([baskets], tmp_path / "baskets", LastSession(validation=True))
    assert sizes(prepared) == {"train": (3_672, 22_604), "valid": (4_411, 5_893), "test": (5_478, 6_338)}
    # Tang & Wang 2018, section 4.1: of each user's ratings of MovieLens-1M the first 70 %, 10 % and 20 %.
    ratings = [str(DATA / "ml-1m" / f"ml-1m.{name}.rating.gz") for name in ("train", "test")]
    columns, split = {"user": "1", "item": "2", "time": "4"}, Fraction(test_share=0.2, valid_share=0.125)
    prepared = prepare(ratings, tmp_path / "windows", split, columns, layout="windows")
    assert sizes(prepared) == {"train": (657_963, 1_973_889), "valid": (6_040, 99_950), "test": (6_040, 200_016)}
    prepared = prepare(ratings, tmp_path / "users", LeaveOneOut(), columns, layout="users")
    assert {name: rows for name, (rows, _) in sizes(prepared).items()} == dict.fromkeys(SPLITS, 6_040)
