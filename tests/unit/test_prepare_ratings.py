"""Rating files to a prepared folder: equal to the slow way, whatever the form of the input."""

import bisect
import gzip
import itertools
import json
import math
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dist_rec.cli.main import app
from dist_rec.core import spans
from dist_rec.core.errors import UserError
from dist_rec.data.loader import Loader, LoaderConfig
from dist_rec.data.negatives import Negatives
from dist_rec.data.shards import Dataset
from dist_rec.prepare import engine
from dist_rec.prepare import lines as lines_module
from dist_rec.prepare.engine import Prepared
from dist_rec.prepare.ratings import candidates as candidates_module
from dist_rec.prepare.ratings import layout as layout_module
from dist_rec.prepare.ratings import lines as ratings_module
from dist_rec.prepare.ratings.source import Options, RatingFiles
from dist_rec.prepare.ratings.split import Chronological, Given, HeldOutUsers, LeaveOneOut, Random, Splitter, splitter

DATA = Path(os.environ.get("DIST_REC_DATA", Path(__file__).parents[3] / "shared" / "data")) / "ml-1m"


@pytest.fixture(scope="module", autouse=True)
def many_pieces() -> Iterator[None]:
    """What is done piece by piece takes many of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "SPAN", 40)
        patch.setattr(candidates_module, "DRAWN_ROWS", 5)
        patch.setattr(layout_module, "SHARD_ROWS", 50)
        yield


class Rating(NamedTuple):
    user: str
    item: str
    rating: float
    time: int


def prepare(files: list[str], out: Path, *settings: Any, **others: Any) -> Prepared:
    return engine.prepare(RatingFiles(files, *settings, **others), out)


def some_ratings(seed: int, users: int = 30, items: int = 20) -> list[Rating]:
    """Ids of every kind, popular items, many ties in time; each (user, item) once."""
    rng = random.Random(seed)
    found = []
    for user in range(users):
        for item in range(items):
            if rng.random() < (1 + user % 5) / (2 + item):
                found.append(
                    Rating(f"ü{user}", str(7 * item - 3), rng.choice([1.0, 2.5, 3.0, 4.0, 5.0]), rng.randrange(9))
                )
    rng.shuffle(found)
    return found


def write(path: Path, ratings: list[Rating], separator: str = "\t", fields: int = 4) -> str:
    lines = [separator.join(map(str, rating[:fields])) for rating in ratings]
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    data = Dataset(folder)
    if split not in data.manifest.splits:
        return []
    return pa.Table.from_batches([data.read_block(shard, block) for shard, block, _ in data.blocks(split)]).to_pylist()


def raw_ids(folder: Path, table: str) -> list[str]:
    """By row."""
    return ["?", *(folder / "vocabulary" / f"{table}.txt").read_text().splitlines()]


def triples(folder: Path, split: str) -> list[tuple[str, str, float]]:
    """Raw user, raw item and label of every target of a split, whatever the layout; `?` for unknown ones."""
    users, items = raw_ids(folder, "user"), raw_ids(folder, "item")
    found = []
    for row in read(folder, split):
        if "target" not in row:
            found.append((users[row["user"]], items[row["item"]], row["label"]))
            continue
        for other, weight in zip(row["target"], row["target_weight"], strict=True):
            user, item = (row["user"], other) if "user" in row else (other, row["item"])
            found.append((users[user], items[item], weight))
    return found


def run(tmp: Path, ratings: list[Rating], splitter: Splitter, **options: Any) -> tuple[Path, Prepared]:
    number = len(list(tmp.iterdir()))
    out = tmp / f"out{number}"
    return out, prepare([write(tmp / f"raw{number}", ratings)], out, splitter, Options(**options))


def expected(ratings: list[Rating]) -> list[tuple[str, str, float]]:
    return [(rating.user, rating.item, rating.rating) for rating in ratings]


def by_user(ratings: list[Rating]) -> dict[str, list[Rating]]:
    """In the order of time, ties by order."""
    found = defaultdict(list)
    for rating in sorted(ratings, key=lambda rating: rating.time):
        found[rating.user].append(rating)
    return found


def known(ratings: list[Rating], train: set[Rating]) -> list[tuple[str, str, float]]:
    users, items = {rating.user for rating in train}, {rating.item for rating in train}
    return [
        (rating.user if rating.user in users else "?", rating.item if rating.item in items else "?", rating.rating)
        for rating in ratings
    ]


FORMS = [("\t", 4), (",", 4), ("::", 4), (";", 4), (" ", 4), ("|", 4), ("::", 3), (" ", 3)]


@pytest.mark.parametrize(("separator", "fields"), FORMS)
@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("form", ["plain", "gzip", "windows", "unended"])
def test_all_forms_of_files_say_the_same(
    tmp_path: Path, separator: str, fields: int, header: bool, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(lines_module, "PIECE_BYTES", 3 << 10)
    ratings = [rating._replace(time=0) if fields == 3 else rating for rating in some_ratings(0, users=60)]
    usual, _ = run(tmp_path, ratings, LeaveOneOut(draw=2), layout="interactions")
    text = Path(write(tmp_path / "other", ratings, separator, fields)).read_bytes()
    if header:
        text = separator.join(("userId", "movieId", "rating", "timestamp")[:fields]).encode() + b"\n" + text
    changed = {
        "plain": lambda: text,
        "gzip": lambda: gzip.compress(text, 1),
        "windows": lambda: text.replace(b"\n", b"\r\n"),
        "unended": lambda: text[:-1],
    }[form]()
    (tmp_path / "other").write_bytes(changed)
    given = separator if separator == "|" else None
    prepare([str(tmp_path / "other")], tmp_path / "out", LeaveOneOut(draw=2), Options(), separator=given)
    for split in ("train", "valid", "test"):
        assert read(tmp_path / "out", split) == read(usual, split)


def test_ids_are_by_count_in_training_and_kept(tmp_path: Path) -> None:
    ratings = some_ratings(1)
    out, prepared = run(tmp_path, ratings, LeaveOneOut())
    train = triples(out, "train")
    first = {rating.item: place for place, rating in reversed(list(enumerate(ratings)))}
    counts = Counter(item for _, item, _ in train)
    assert raw_ids(out, "item")[1:] == sorted(counts, key=lambda item: (-counts[item], first[item]))
    tables = prepared.manifest.tables
    assert tables["item"].rows == len(counts) + 1
    assert tables["user"].rows == len({user for user, _, _ in train}) + 1
    labels = prepared.manifest.transform["labels"]
    assert (labels["min"], labels["max"]) == (min(label for *_, label in train), max(label for *_, label in train))
    assert labels["mean"] == pytest.approx(sum(label for *_, label in train) / len(train))


@given(st.integers(0, 10**6), st.integers(1, 40), st.booleans())
def test_leave_one_out_takes_the_last_two(
    tmp_path_factory: pytest.TempPathFactory, seed: int, users: int, validation: bool
) -> None:
    ratings = [Rating("one", "4", 3.0, 2), *some_ratings(seed, users)]
    train, valid, test = [], [], []
    for of_user in by_user(ratings).values():
        keep = max(len(of_user) - 1 - validation, 1)
        train += of_user[:keep]
        valid += of_user[keep:-1]
        test += of_user[max(keep, len(of_user) - 1) :]
    tmp, split = tmp_path_factory.mktemp("ratings"), LeaveOneOut(validation=validation)
    if not test or (validation and not valid):
        with pytest.raises(UserError, match="--split leave-one-out: no rating is left for"):
            run(tmp, ratings, split)
        return
    out, prepared = run(tmp, ratings, split)
    assert sorted(triples(out, "train")) == sorted(expected(train))
    assert sorted(triples(out, "valid")) == sorted(known(valid, set(train)))
    assert ("valid" in prepared.manifest.splits) == validation
    assert sorted(triples(out, "test")) == sorted(known(test, set(train)))
    alone = sum(len(of_user) == 1 for of_user in by_user(ratings).values())
    assert any(text.startswith(f"{alone} users have no test rating, first user one: ") for text in prepared.warnings)


def test_a_test_file_beside_the_training_file(tmp_path: Path) -> None:
    ratings = some_ratings(2)
    last = [of_user[0] for of_user in by_user(ratings).values() if len(of_user) > 1]
    rest = [rating for rating in ratings if rating not in last]
    train_file, test_file = write(tmp_path / "train", rest), write(tmp_path / "test", last)
    prepare([train_file], tmp_path / "out", LeaveOneOut(), Options(), [test_file])
    valid = [of_user[-1] for of_user in by_user(rest).values() if len(of_user) > 1]
    train = {rating for rating in rest if rating not in valid}
    assert triples(tmp_path / "out", "test") == known(last, train)
    assert sorted(triples(tmp_path / "out", "valid")) == sorted(known(valid, train))
    with pytest.raises(UserError, match="is rated in FILES and in --test; remove it from one of them"):
        prepare([train_file], tmp_path / "no", LeaveOneOut(), Options(), [write(tmp_path / "both", rest[:1])])
    with pytest.raises(UserError, match="is in both FILES and --test"):
        prepare([train_file], tmp_path / "no", LeaveOneOut(), Options(), [train_file])
    with pytest.raises(UserError, match="--test needs --split given or leave-one-out; random takes"):
        prepare([train_file], tmp_path / "no", Random(), Options(), [test_file])


class Expected(NamedTuple):
    """What a preparation of given files makes, the slow way."""

    users: list[str]
    """By row; the first is for those that training never saw."""
    items: list[str]
    splits: dict[str, list[Rating]]


def of_given_files(files: dict[str, list[Rating]], min_rating: float, min_interactions: int) -> Expected:
    """Newest, high enough, of users with enough of them; rows by descending count, ties by first appearance."""
    lines = [(split, rating) for split, ratings in files.items() for rating in ratings]
    newest: dict[tuple[str, str], int] = {}
    for place, (_, rating) in enumerate(lines):
        last = newest.get(rating[:2])
        if last is None or rating.time >= lines[last][1].time:
            newest[rating[:2]] = place
    high = [lines[place] for place in sorted(newest.values()) if lines[place][1].rating >= min_rating]
    counts = Counter(rating.user for _, rating in high)
    splits = {
        split: [rating for of, rating in high if of == split and counts[rating.user] >= min_interactions]
        for split in files
    }

    def by_count(place: int) -> list[str]:
        trained = Counter(rating[place] for rating in splits["train"])
        appeared = dict.fromkeys(rating[place] for _, rating in lines)
        return ["?", *sorted((raw for raw in appeared if raw in trained), key=lambda raw: -trained[raw])]

    return Expected(by_count(0), by_count(1), splits)


@st.composite
def given_files(draw: st.DrawFn) -> dict[str, list[Rating]]:
    """Each (user, item) in files of one split, some of them again."""
    ratings = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=1).map(lambda seeds: some_ratings(seeds[0])))
    shares = draw(st.sampled_from([(0.8, 0.1), (0.5, 0.5), (0.3, 0.2)]))
    files: dict[str, list[Rating]] = {"train": [], "valid": [], "test": []}
    rng = random.Random(len(ratings))
    for rating in ratings:
        split = rng.choices(("train", "valid", "test"), (*shares, 1 - sum(shares) + 0.1))[0]
        files[split].append(rating)
        if rng.random() < 0.2:
            files[split].append(rating._replace(rating=rng.choice([1.0, 5.0]), time=rng.randrange(9)))
    return files


@given(given_files(), st.sampled_from([0.0, 3.0]), st.integers(1, 4), st.booleans())
def test_given_files_are_the_splits(
    tmp_path_factory: pytest.TempPathFactory,
    files: dict[str, list[Rating]],
    min_rating: float,
    min_interactions: int,
    validated: bool,
) -> None:
    files = {split: ratings for split, ratings in files.items() if validated or split != "valid"}
    wanted = of_given_files(files, min_rating, min_interactions)
    assume(all(wanted.splits.values()))
    tmp = tmp_path_factory.mktemp("given")
    half = len(files["train"]) // 2
    train = [write(tmp / "train1", files["train"][:half]), write(tmp / "train2", files["train"][half:])]
    of_splits = {split: [write(tmp / split, files[split])] for split in files if split != "train"}
    for of_rows in ("interactions", "users", "items"):
        options = Options(layout=of_rows, min_rating=min_rating or None, min_interactions=min_interactions)
        valid, test, out = of_splits.get("valid", []), of_splits["test"], tmp / of_rows
        manifest = prepare(train, out, Given(), options, test, valid_patterns=valid).manifest
        assert raw_ids(out, "user") == wanted.users
        assert raw_ids(out, "item") == wanted.items
        assert manifest.transform["ratings"] == {"valid": 0} | {name: len(of) for name, of in wanted.splits.items()}
        assert manifest.transform["split"] == {"name": "given", "by": "uniform", "seed": 0}
        for split, ratings in wanted.splits.items():
            found = rows_of_bags(out, split, of_rows) if of_rows != "interactions" else triples(out, split)
            assert found == (
                bags_of(wanted, files, split, of_rows) if of_rows != "interactions" else raw(wanted, ratings)
            )


def raw(wanted: Expected, ratings: list[Rating]) -> list[tuple[str, str, float]]:
    """With `?` for what training never saw."""
    return [
        (
            rating.user if rating.user in wanted.users else "?",
            rating.item if rating.item in wanted.items else "?",
            rating.rating,
        )
        for rating in ratings
    ]


Bag = list[tuple[str, str, float]]


def bags_of(wanted: Expected, files: dict[str, list[Rating]], split: str, layout: str) -> list[tuple[Bag, Bag]]:
    """History and target of every user or item with a target, by first appearance in the files."""
    place = 0 if layout == "users" else 1
    owners = dict.fromkeys(rating[place] for ratings in files.values() for rating in ratings)
    pairs = [
        [[rating for rating in wanted.splits[of] if rating[place] == owner] for of in ("train", split)]
        for owner in owners
    ]
    return [(raw(wanted, history), raw(wanted, target)) for history, target in pairs if target]


def rows_of_bags(folder: Path, split: str, layout: str) -> list[tuple[Bag, Bag]]:
    """Likewise, of a prepared folder."""
    users, items = raw_ids(folder, "user"), raw_ids(folder, "item")

    def bag(row: dict[str, Any], name: str) -> Bag:
        members = zip(row[name], row[f"{name}_weight"], strict=True)
        if layout == "users":
            return [(users[row["user"]], items[item], weight) for item, weight in members]
        return [(users[user], items[row["item"]], weight) for user, weight in members]

    return [(bag(row, "history"), bag(row, "target")) for row in read(folder, split)]


def test_several_given_test_items_of_a_user_have_candidates_each(tmp_path: Path) -> None:
    ratings = some_ratings(6, items=40)
    train, test = ratings[: len(ratings) // 2], ratings[len(ratings) // 2 :]
    files = [write(tmp_path / "train", train), write(tmp_path / "test", test)]
    assert max(Counter(rating.user for rating in test).values()) > 1
    own = {(rating.user, rating.item) for rating in ratings}
    split = Given(draw=6)
    prepare(files[:1], tmp_path / "drawn", split, Options(implicit=True), files[1:])
    users, items = raw_ids(tmp_path / "drawn", "user"), raw_ids(tmp_path / "drawn", "item")
    for row in read(tmp_path / "drawn", "test"):
        assert len(set(row["candidates"])) == 6
        assert row["user"] == 0 or all((users[row["user"]], items[item]) not in own for item in row["candidates"])
    rows = [
        (rating.user, rating.item, [str(7 * ((place + other) % 40) - 3) for other in range(3)])
        for place, rating in enumerate(test)
    ]
    shuffled = random.Random(0).sample(rows, len(rows))
    earlier = [(user, item, others[::-1]) for user, item, others in rows[:9]]
    unknown = [(user, "unknown", ["1"] * 3) for user in users[1:]]
    path = candidates_file(tmp_path / "candidates", [*earlier, *shuffled, *unknown])
    prepare(files[:1], tmp_path / "read", Given(negatives=path), Options(implicit=True), files[1:])
    for row, (_, item, others) in zip(read(tmp_path / "read", "test"), rows, strict=True):
        known = [other if other in items else "?" for other in others if other != item]
        assert [items[other] for other in row["candidates"]] == known
    often = next(user for user, times in Counter(rating.user for rating in test).items() if times > 2)
    missed = next(row for row in rows if row[0] == often)
    path = candidates_file(tmp_path / "fewer", [row for row in rows if row is not missed])
    with pytest.raises(UserError, match=f"fewer has no line for user {often} and item {missed[1]}; add it, or draw"):
        prepare(files[:1], tmp_path / "no", Given(negatives=path), Options(), files[1:])


def test_given_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    ratings = some_ratings(2)
    parts = [ratings[:100], ratings[100:120], ratings[120:140]]
    train, valid, test = (write(tmp_path / f"part{number}", part) for number, part in enumerate(parts))

    def refused(message: str, split: Splitter, test: list[str], valid: list[str], **options: Any) -> None:
        with pytest.raises(UserError, match=message):
            prepare([train], tmp_path / "no", split, Options(**options), test, valid_patterns=valid)
        assert not (tmp_path / "no").exists()

    refused("--split given needs --test, the files of the test ratings", Given(), [], [valid])
    refused("--valid needs --split given; random takes the validation split from FILES", Random(), [], [valid])
    refused("--valid needs --split given; leave-one-out takes", LeaveOneOut(), [test], [valid])
    refused("--test needs --split given or leave-one-out; chronological takes", Chronological(), [test], [])
    refused("part0 is in both FILES and --test", Given(), [train], [])
    refused("part1 is in both --valid and --test", Given(), [valid], [f"{tmp_path}/../{tmp_path.name}/part1"])
    refused("--test 'none.dat' matches no file", Given(), ["none.dat"], [])
    refused(r"candidates \(--negatives, --draw\) need --layout interactions", Given(draw=3), [test], [], layout="users")
    twice = write(tmp_path / "twice", parts[1][3:4])
    pair = f"user {parts[1][3].user}, item {parts[1][3].item}"
    refused(f"{pair} is rated in --valid and in --test; remove it from one of them", Given(), [test, twice], [valid])
    low = write(tmp_path / "low", [Rating("new", f"low{number}", 0.5, 1) for number in range(3)])
    refused("no rating of --valid is left; lower --min-rating", Given(), [test], [low], min_rating=1)
    refused("no rating of --test is left; lower --min-rating", Given(), [low], [valid], min_interactions=4)
    with pytest.raises(UserError, match="no rating of FILES is left; lower --min-rating"):
        prepare([low], tmp_path / "no", Given(), Options(min_rating=1), [test])


@pytest.mark.parametrize(("test_share", "valid_share"), [(0.1, 0.05), (0.5, 0.0), (0.3, 0.5)])
def test_random_deals_every_rating_once(tmp_path: Path, test_share: float, valid_share: float) -> None:
    ratings = some_ratings(3)
    outs = {}
    for seed in (0, 1):
        split = Random(test_share=test_share, valid_share=valid_share, seed=seed)
        for layout in ("interactions", "users", "items"):
            outs[seed, layout], prepared = run(tmp_path, ratings, split, layout=layout)
            test = round(test_share * len(ratings))
            valid = round(valid_share * (len(ratings) - test))
            sizes = {"train": len(ratings) - test - valid, "valid": valid, "test": test}
            assert prepared.manifest.transform["ratings"] == sizes
            assert list(prepared.manifest.splits) == [name for name, size in sizes.items() if size]
    for split_name in ("train", "valid", "test"):
        of_layouts = [sorted(triples(outs[0, layout], split_name)) for layout in ("interactions", "users", "items")]
        assert of_layouts[0] == of_layouts[1] == of_layouts[2]
        if split_name != "valid":
            assert of_layouts[0] != sorted(triples(outs[1, "interactions"], split_name))
    found = [triple for name in ("train", "valid", "test") for triple in triples(outs[0, "interactions"], name)]
    assert Counter(user for user, _, _ in found if user != "?") <= Counter(rating.user for rating in ratings)
    assert Counter(label for *_, label in found) == Counter(rating.rating for rating in ratings)


def test_chronological_cuts_each_user_in_time(tmp_path: Path) -> None:
    ratings = some_ratings(4, users=60)
    out, _ = run(tmp_path, ratings, Chronological(test_share=0.2, valid_share=0.25))
    train, valid, test = [], [], []
    for of_user in by_user(ratings).values():
        first_test = max(len(of_user) - round(0.2 * len(of_user)), 1)
        first_valid = max(first_test - round(0.25 * first_test), 1)
        train += of_user[:first_valid]
        valid += of_user[first_valid:first_test]
        test += of_user[first_test:]
    assert sorted(triples(out, "train")) == sorted(expected(train))
    assert sorted(triples(out, "valid")) == sorted(known(valid, set(train)))
    assert sorted(triples(out, "test")) == sorted(known(test, set(train)))


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.sampled_from([0.5, 0.8, 0.9]))
def test_held_out_users(
    tmp_path_factory: pytest.TempPathFactory, seed: int, valid_users: int, test_users: int, fold_in: float
) -> None:
    ratings = some_ratings(seed)
    split = HeldOutUsers(valid_users=valid_users, test_users=test_users, fold_in=fold_in, seed=seed)
    try:
        out, prepared = run(tmp_path_factory.mktemp("ratings"), ratings, split, layout="users", implicit=True)
    except UserError as error:
        assert "--split held-out-users: no rating is left for" in str(error)
        assume(False)
    users, items = raw_ids(out, "user"), raw_ids(out, "item")
    seen = {rating.item for rating in ratings if rating.user in users}
    assert set(items[1:]) == seen
    held = [of_user for user, of_user in by_user(ratings).items() if user not in users]
    assert len(held) == valid_users + test_users
    # What is shown and what is to be predicted of each held-out user make up their known items.
    sets = Counter(frozenset(rating.item for rating in of_user if rating.item in seen) for of_user in held)
    sizes = [len(row["target"]) for name in ("valid", "test") for row in read(out, name)]
    for name in ("valid", "test"):
        for row in read(out, name):
            assert row["user"] == 0
            assert set(row["history"]).isdisjoint(row["target"])
            whole = {*row["history"], *row["target"]}
            assert sets[frozenset(items[item] for item in whole)]
            assert len(row["target"]) == math.floor(round((1 - fold_in) * len(whole), 6))
            assert row["history_weight"] == [1.0] * len(row["history"])
    known_sizes = [len(of_user) for of_user in sets.elements()]
    assert sorted(sizes) == sorted(
        target for size in known_sizes if (target := math.floor(round((1 - fold_in) * size, 6)))
    )
    for row in read(out, "train"):
        assert row["history"] == row["target"]
        assert row["history_weight"] == row["target_weight"]
    left_out = sum(rating.item not in seen for of_user in held for rating in of_user)
    assert prepared.manifest.transform["left_out"]["of_items_that_training_never_saw"] == left_out


@pytest.mark.parametrize("layout", ["users", "items"])
def test_bags_show_the_training_ratings_and_ask_for_the_split_s(tmp_path: Path, layout: str) -> None:
    owner, member = ("user", "item") if layout == "users" else ("item", "user")
    ratings = some_ratings(5)
    out, prepared = run(tmp_path, ratings, Random(test_share=0.4, valid_share=0.2), layout=layout)
    train = defaultdict(list)
    for row in read(out, "train"):
        train[row[owner]] = sorted(zip(row["target"], row["target_weight"], strict=True))
    for name in ("train", "valid", "test"):
        rows = read(out, name)
        assert [row["label"] for row in rows] == [0.0] * len(rows)
        known_owners = [row[owner] for row in rows if row[owner]]
        assert len(set(known_owners)) == len(known_owners)
        for row in rows:
            assert row["target"]
            assert sorted(zip(row["history"], row["history_weight"], strict=True)) == train[row[owner]]
    assert prepared.manifest.column("history").table == member
    if layout == "users":
        valid = {row["user"]: row["target"] for row in read(out, "valid")}
        assert not any(row["seen"] for row in read(out, "train"))
        assert all(row["seen"] == row["history"] for row in read(out, "valid"))
        seen = [(sorted(row["seen"]), sorted([*row["history"], *valid.get(row["user"], [])])) for row in rows]
        assert all(found == wanted for (found, wanted), row in zip(seen, rows, strict=True) if row["user"])
        assert any(set(found) - set(row["history"]) for (found, _), row in zip(seen, rows, strict=True))
    loader = Loader(Dataset(out), "test", LoaderConfig(path=str(out), streams=1, window=8), batch=4)
    batch = next(loader.batches(0, 1))
    assert batch.ids.keys() == ([owner, "seen"] if layout == "users" else [owner])
    assert batch.weighted_ids.keys() == ["history", "target"]


@pytest.mark.parametrize("layout", ["users", "items"])
def test_levels_are_pairs_of_a_member_and_its_rating(tmp_path: Path, layout: str) -> None:
    ratings = [*some_ratings(4), Rating("ü0", "never trained", 0.5, 9), Rating("ü1", "never trained", 4.5, 9)]
    out, prepared = run(tmp_path, ratings, LeaveOneOut(), layout=layout, levels=True)
    levels = prepared.manifest.transform["levels"]
    assert levels == tuple(sorted({label for *_, label in triples(out, "train")}))
    member = "item" if layout == "users" else "user"
    assert prepared.manifest.rows_of("target_level") == prepared.manifest.tables[member].rows * len(levels)
    for split in ("train", "valid", "test"):
        for row, name in itertools.product(read(out, split), ("history", "target")):
            places = [min(bisect.bisect_left(levels, rating), len(levels) - 1) for rating in row[f"{name}_weight"]]
            assert row[f"{name}_level"] == [
                len(levels) * other + place for other, place in zip(row[name], places, strict=True)
            ]
    with pytest.raises(UserError, match="--levels needs --layout users or items"):
        run(tmp_path, ratings, LeaveOneOut(), levels=True)


def test_candidates_are_drawn_apart_from_the_user_s_items(tmp_path: Path) -> None:
    ratings = some_ratings(6, items=40)
    for by in ("uniform", "popularity"):
        out, _ = run(tmp_path, ratings, LeaveOneOut(draw=9, by=by, seed=3))
        users, items = raw_ids(out, "user"), raw_ids(out, "item")
        own = {(rating.user, rating.item) for rating in ratings}
        assert all(row["candidates"] == [] for row in read(out, "train"))
        for row in (*read(out, "valid"), *read(out, "test")):
            assert len(set(row["candidates"])) == 9
            assert all(item and (users[row["user"]], items[item]) not in own for item in row["candidates"])
    assert read(run(tmp_path, ratings, LeaveOneOut(draw=9, by=by, seed=4))[0], "test") != read(out, "test")


def test_an_item_that_training_never_saw_takes_no_place_among_the_candidates(tmp_path: Path) -> None:
    owned = {"a": "1 2 new", "b": "3 1", "c": "4 1", "d": "5 1", "e": "2 1"}
    ratings = [Rating(user, item, 1.0, time) for user, of in owned.items() for time, item in enumerate(of.split())]
    out, _ = run(tmp_path, ratings, LeaveOneOut(draw=3))
    items = raw_ids(out, "item")
    found = [{items[item] for item in row["candidates"]} for row in read(out, "test")]
    assert found == [set("12345") - set(of.split()) for of in owned.values()]


def candidates_file(path: Path, rows: list[tuple[str, str, list[str]]]) -> str:
    text = "".join(f"({user},{item})\t" + "\t".join(others) + "\n" for user, item, others in rows)
    path.write_bytes(gzip.compress(text.encode()))
    return str(path)


def test_candidates_are_read(tmp_path: Path) -> None:
    ratings = some_ratings(7, items=40)
    test = [of_user[-1] for of_user in by_user(ratings).values() if len(of_user) > 1]
    rng = random.Random(0)
    rows = [(rating.user, rating.item, [str(7 * rng.randrange(40) - 3) for _ in range(6)]) for rating in test]
    rows[0][2][2], rows[1][2][3] = "new", rows[1][1]
    path = candidates_file(tmp_path / "given", [*rows, ("nobody", "4", ["4"] * 6)])
    out, prepared = run(tmp_path, ratings, LeaveOneOut(negatives=path))
    users, items = raw_ids(out, "user"), raw_ids(out, "item")
    found = {users[row["user"]]: row["candidates"] for row in read(out, "test")}
    rated = {rating.item for rating in ratings}
    for user, item, others in rows:
        once = [other for at, other in enumerate(others) if other not in rated or other not in others[:at]]
        wanted = [other if other in items else "?" for other in once if other != item]
        assert [items[row] for row in found[user]] == wanted
    assert any("candidates are given again for the same test item" in warning for warning in prepared.warnings)
    assert all(len(set(row["candidates"])) == 6 for row in read(out, "valid"))
    assert any("test items are among their own candidates" in warning for warning in prepared.warnings)
    assert any("candidates are items that training never saw, first of user " in text for text in prepared.warnings)

    def refused(rows: list[tuple[str, str, list[str]]]) -> str:
        with pytest.raises(UserError) as caught:
            run(tmp_path, ratings, LeaveOneOut(negatives=candidates_file(tmp_path / "bad", rows)))
        return str(caught.value).removeprefix(f"{tmp_path}/bad")

    assert refused(rows[1:]) == f" has no line for user {rows[0][0]}; add it, or draw candidates with --draw"
    assert refused([*rows[:3], (rows[3][0], "4444", rows[3][2]), *rows[4:]]).startswith(
        f", line 4: the item must be {rows[3][1]}, the test item of its user"
    )
    assert refused([*rows[:4], (*rows[4][:2], ["4"])]) == ", line 5 has 2 fields, but line 1 has 7"
    for void in ([rows[2][1]] * 6, [""] * 6):
        said = refused([*rows[:2], (*rows[2][:2], void), *rows[3:]])
        assert said == f", line 3: ({rows[2][0]},{rows[2][1]}) has no candidates beside its own item"
    (tmp_path / "bad").write_text("3 5\t6\n")
    with pytest.raises(UserError, match=r"bad, line 1 does not begin with \(user,item\)"):
        run(tmp_path, ratings, LeaveOneOut(negatives=str(tmp_path / "bad")))


def test_of_several_ratings_of_an_item_the_newest_counts(tmp_path: Path) -> None:
    ratings = some_ratings(8)
    again = [rating._replace(rating=2.0, time=rating.time - 1) for rating in ratings[:5]]
    tied = [rating._replace(rating=2.0) for rating in ratings[5:9]]
    out, prepared = run(tmp_path, [*tied, *ratings, *again], Random(valid_share=0.0))
    assert sorted(triples(out, "train")) == sorted(triples(run(tmp_path, ratings, Random(valid_share=0.0))[0], "train"))
    first = f"first user {tied[0].user}, item {tied[0].item}"
    assert prepared.warnings[0] == f"9 ratings are left out, {first}: the user rated the item again later"


def test_low_ratings_and_users_with_few_are_left_out(tmp_path: Path) -> None:
    ratings = some_ratings(9)
    high = [rating for rating in ratings if rating.rating >= 3]
    enough = [rating for rating in high if len(by_user(high)[rating.user]) >= 4]
    assert len(enough) < len(high)
    options = {"min_rating": 3.0, "min_interactions": 4, "implicit": True}
    out, prepared = run(tmp_path, ratings, Chronological(valid_share=0.0), **options)
    found = [*triples(out, "train"), *triples(out, "test")]
    assert sorted(user for user, _, _ in found) == sorted(rating.user for rating in enough)
    assert {label for *_, label in found} == {1.0}
    left_out = prepared.manifest.transform["left_out"]
    assert (left_out["low"], left_out["of_users_with_few"]) == (len(ratings) - len(high), len(high) - len(enough))
    with pytest.raises(UserError, match="no rating is left; lower --min-rating or --min-interactions"):
        run(tmp_path, ratings, Random(), min_rating=6.0)


LINES = [f"{user}::{item}::{1 + item % 5}::97830{item:04}" for user in range(40) for item in range(12)]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1::2::3", "line 301 has 3 fields by separator '::', not 4"),
        ("", "line 301 has 1 fields by separator '::', not 4"),
        ("1::2::x::5", "line 301 has 'x' for its rating"),
        ("1::2::::5", "line 301 has '' for its rating"),
        ("1::2::3::yesterday", "line 301 has 'yesterday' for its time"),
        ("1::2::3::9783000.5", "line 301 has '9783000.5' for its time"),
        ("::2::3::5", "line 301 has '' for its user"),
        ("1::\udcff::3::5", "line 301 has '�' for its item, which is not UTF-8"),
        ("1::2::6::5", "line 301: rating 6 is not from 1 to 5, the --range"),
        ("1::2::0.5::5", "line 301: rating 0.5 is not from 1 to 5, the --range"),
        ("1::2::nan::5", "line 301"),
        ("1::2::inf::5", "line 301"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_left(
    tmp_path: Path, line: str, message: str, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(lines_module, "PIECE_BYTES", 3 << 10)
    content = "\n".join([*LINES[:300], line, *LINES[300:]]).encode(errors="surrogateescape")
    path = tmp_path / "bad"
    path.write_bytes(gzip.compress(content, 1) if zipped else content)
    with pytest.raises(UserError) as caught:
        prepare([str(path)], tmp_path / "out", Random(), Options(), bounds=(1, 5))
    assert str(caught.value).startswith(f"{path}, {message}")
    assert list(tmp_path.iterdir()) == [path]


def test_a_header_counts_as_a_line(tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_text("userId,movieId,rating\n1,2,3\n1,3,6\n")
    with pytest.raises(UserError, match="bad, line 3: rating 6 is not from 1 to 5, the --range"):
        prepare([str(path)], tmp_path / "out", Random(), Options(), bounds=(1, 5))
    path.write_text("userId,movieId,rating\n1,2,3\n1,3,six\n")
    with pytest.raises(UserError, match="bad, line 3 has 'six' for its rating"):
        prepare([str(path)], tmp_path / "out", Random(), Options())


def test_candidates_of_users_that_training_never_saw_are_their_own(tmp_path: Path) -> None:
    items = [f"i{number}" for number in range(6)]
    known = [Rating(f"u{user}", item, 1, 0) for user in range(3) for item in items]
    new = [Rating(f"n{user}", item, 1, 1) for user in range(9) for item in items[user % 3 : user % 3 + 1]]
    files = [write(tmp_path / "train", known), write(tmp_path / "new", new)]
    splitter = LeaveOneOut(draw=5, validation=False)
    prepared = prepare(files[:1], tmp_path / "out", splitter, Options(), test_patterns=files[1:])
    assert "9 test users were never seen in training, first user n0: row 0 of the table" in prepared.warnings
    for row in read(tmp_path / "out", "test"):
        assert sorted([row["item"], *row["candidates"]]) == [1, 2, 3, 4, 5, 6]


def test_popularity_is_that_of_training(tmp_path: Path) -> None:
    """An item that is hardly ever rated but in the test is hardly ever drawn."""
    train = [Rating(f"u{user}", f"i{user % 5}", 1, 0) for user in range(1000)] + [Rating("u0", "late", 1, 0)]
    test = [Rating(f"u{user}", "late" if user < 500 else f"i{(user + 1) % 5}", 1, 1) for user in range(1, 1000)]
    files = [write(tmp_path / "train", train), write(tmp_path / "test", test)]
    splitter = LeaveOneOut(draw=1, by="popularity", validation=False)
    prepare(files[:1], tmp_path / "out", splitter, Options(), test_patterns=files[1:])
    late = raw_ids(tmp_path / "out", "item").index("late")
    drawn = [row["candidates"] for row in read(tmp_path / "out", "test")].count([late])
    assert drawn < 15  # of the 500 who have it not, 1 or so; by all ratings it would be 200


@pytest.mark.parametrize("name", ["rating", "оценка", "评分", "stars (1-5)"])
def test_headers_of_any_language(tmp_path: Path, name: str) -> None:
    lines = [f"u{user},i{item},3" for user in range(9) for item in range(9)]
    (tmp_path / "raw").write_text("\n".join([f"user,item,{name}", *lines]))
    prepared = prepare([str(tmp_path / "raw")], tmp_path / "out", Random(), Options())
    assert sum(split.rows for split in prepared.manifest.splits.values()) == 81


@pytest.mark.parametrize("rating", ["NA", "nan", "", "4,5", "-inf"])
def test_a_bad_first_line_is_no_header(tmp_path: Path, rating: str) -> None:
    path = tmp_path / "bad"
    path.write_text(f"u1\ti1\t{rating}\nu1\ti2\t3\n")
    with pytest.raises(UserError, match="bad, line 1"):
        prepare([str(path)], tmp_path / "out", Random(), Options())


def test_test_ratings_that_are_all_filtered_are_missed(tmp_path: Path) -> None:
    ratings = some_ratings(4)
    low = [Rating(rating.user, f"new {rating.item}", 1, 9) for rating in ratings[:5]]
    files = [write(tmp_path / "train", ratings), write(tmp_path / "low", low)]
    with pytest.raises(UserError, match="no rating of --test is left; lower --min-rating"):
        prepare(files[:1], tmp_path / "out", LeaveOneOut(), Options(min_rating=2), test_patterns=files[1:])
    assert not (tmp_path / "out").exists()


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    ratings = some_ratings(10)
    with pytest.raises(UserError, match="--split held-out-users needs --layout users"):
        run(tmp_path, ratings, HeldOutUsers(valid_users=1, test_users=1))
    with pytest.raises(UserError, match="leave none of the 30 users for training"):
        run(tmp_path, ratings, HeldOutUsers(valid_users=15, test_users=15), layout="users")
    with pytest.raises(UserError, match=r"candidates \(--negatives, --draw\) need --layout interactions"):
        run(tmp_path, ratings, LeaveOneOut(draw=3), layout="users")
    with pytest.raises(UserError, match="--negatives gives the candidates and --draw draws them; choose one"):
        run(tmp_path, ratings, LeaveOneOut(draw=3, negatives="x"))
    with pytest.raises(UserError, match=r"user ü.* has seen all but .* of 20 items, but 19 negatives are to be drawn"):
        run(tmp_path, ratings, LeaveOneOut(draw=19))
    with pytest.raises(UserError, match=r"not `user item rating \[timestamp\]` by tab, comma"):
        prepare([write(tmp_path / "bar", ratings, "|")], tmp_path / "out", Random(), Options())
    with pytest.raises(UserError, match="by --separator ';'; choose another --separator"):
        prepare([write(tmp_path / "bar", ratings, "|")], tmp_path / "out", Random(), Options(), separator=";")
    three = write(tmp_path / "three", ratings, fields=3)
    with pytest.raises(UserError, match=r"three has 3 fields a line, but .*all files must have timestamps, or none"):
        prepare([write(tmp_path / "four", ratings), three], tmp_path / "out", Random(), Options())
    (tmp_path / "header").write_text("user,item,rating\n")
    with pytest.raises(UserError, match="header holds no ratings"):
        prepare([str(tmp_path / "header")], tmp_path / "out", Random(), Options())
    with pytest.raises(UserError, match="--split 'best' is not one of leave-one-out, random"):
        splitter("best", {})
    with pytest.raises(UserError, match="--draw is not for --split random, whose options are --test-share, --valid-sh"):
        splitter("random", {"draw": 3, "seed": None})
    with pytest.raises(UserError, match="--split held-out-users needs --test-users"):
        splitter("held-out-users", {"valid_users": 3})
    with pytest.raises(UserError, match=r"--split random: test_share = 1\.5"):
        splitter("random", {"test_share": 1.5})


def test_the_command_writes_the_same_bytes_each_time(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", some_ratings(11), "::")
    arguments = ["prepare", "ratings", raw, "--split", "leave-one-out", "--draw", "5", "--by", "popularity", "--json"]
    for out in ("one", "two"):
        ran = CliRunner().invoke(app, [*arguments, "--implicit", "--seed", "7", "--out", str(tmp_path / out)])
        assert ran.exit_code == 0, ran.output
    last = json.loads(ran.stdout.splitlines()[-1])
    splits = Dataset(tmp_path / "one").manifest.splits
    assert last["splits"]["test"]["rows"] == splits["test"].rows
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 4 + sum(len(split.shards) for split in splits.values()) > 7
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_command_takes_given_files(tmp_path: Path) -> None:
    ratings = some_ratings(2)
    names = [write(tmp_path / name, ratings[start::3]) for start, name in enumerate(("base", "probe", "test"))]
    arguments = ["prepare", "ratings", names[0], "--split", "given", "--valid", names[1], "--test", names[2], "--json"]
    ran = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert ran.exit_code == 0, ran.output
    sizes = {name: of["rows"] for name, of in json.loads(ran.stdout.splitlines()[-1])["splits"].items()}
    assert sizes == {name: len(ratings[start::3]) for start, name in enumerate(("train", "valid", "test"))}


def test_more_ratings_than_can_be_held_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratings_module, "MOST_RATINGS", 19)
    with pytest.raises(UserError, match="the files hold more than 19 ratings; prepare fewer"):
        run(tmp_path, some_ratings(0), Random())


@pytest.mark.skipif(not DATA.exists(), reason="the real MovieLens ratings are not here")
def test_the_protocols_on_movielens(tmp_path: Path) -> None:
    train, test = (str(DATA / f"ml-1m.{name}.rating.gz") for name in ("train", "test"))
    given = LeaveOneOut(negatives=str(DATA / "ml-1m.test.negative.gz"))
    manifest = prepare([train], tmp_path / "loo", given, Options(implicit=True), [test]).manifest
    assert {name: split.rows for name, split in manifest.splits.items()} == {
        "train": 988_129, "valid": 6_040, "test": 6_040
    }  # fmt: skip
    assert Counter(len(row["candidates"]) for row in read(tmp_path / "loo", "test")) == {99: 5_884, 98: 156}
    assert {len(row["candidates"]) for row in read(tmp_path / "loo", "valid")} == {99}
    # Liang et al. 2018, section 4.1, on MovieLens-1M.
    held = HeldOutUsers(valid_users=603, test_users=603, seed=98765)
    options = Options(layout="users", implicit=True, min_rating=4.0, min_interactions=5)
    manifest = prepare([train, test], tmp_path / "held", held, options).manifest
    assert [split.rows for split in manifest.splits.values()] == [4_828, 603, 603]


HELD = [
    *(Rating(f"u{user}", f"i{item}", 4.0, 1) for user in range(20) for item in range(5)),
    *(Rating(f"short{user}", f"i{user % 5}", 4.0, 1) for user in range(12)),
    *(Rating(f"u{user}", f"own{user}", 4.0, 1) for user in range(20)),
]


def test_what_held_out_users_lose_is_told(tmp_path: Path) -> None:
    split = HeldOutUsers(valid_users=6, test_users=6)
    out, prepared = run(tmp_path, HELD, split, layout="users")
    users, items = raw_ids(out, "user"), raw_ids(out, "item")
    lost = [rating.item for rating in HELD if rating.user not in users and rating.item not in items]
    short = [user for user in (f"short{number}" for number in range(12)) if user not in users]
    assert lost and short
    assert prepared.warnings == (
        "all ratings are 4: there is nothing to predict; --implicit takes them as choices",
        f"{len(lost)} ratings of held-out users are left out, first item {lost[0]}: training never saw these items",
        f"{len(short)} held-out users are not evaluated, first user {short[0]}: they have too few ratings to "
        "hold one out",
    )


def test_a_split_that_comes_out_empty_is_refused(tmp_path: Path) -> None:
    pairs = [Rating(f"u{user}", f"i{user % 3}", 1.0 + user % 5, user + 1) for user in range(9)]
    few = [*pairs, Rating("u0", "i1", 3.0, 20)]
    for ratings, split, message in (
        (pairs, LeaveOneOut(validation=False), "leave-one-out: no rating is left for test; give more"),
        (few, LeaveOneOut(), "leave-one-out: no rating is left for valid; give more, or --no-validation"),
        (few, Random(test_share=0.1, valid_share=0.01), "random: no rating is left for valid; give more, or --valid-s"),
        (few, Chronological(valid_share=0.0), "chronological: no rating is left for test; give more"),
    ):
        with pytest.raises(UserError, match=f"--split {message}"):
            run(tmp_path, ratings, split)
    with pytest.raises(UserError, match="--split held-out-users: no rating is left for valid; give more"):
        run(tmp_path, pairs, HeldOutUsers(valid_users=2, test_users=2), layout="users")
    out, _ = run(tmp_path, few, LeaveOneOut(validation=False))
    assert [user for user, _, _ in triples(out, "test")] == ["u0"]


def test_order_without_timestamps(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", some_ratings(12), fields=3)
    with pytest.raises(UserError, match="--split chronological needs timestamps, but the files have none"):
        prepare([raw], tmp_path / "out", Chronological(), Options())
    assert prepare([raw], tmp_path / "out", LeaveOneOut(), Options()).warnings[0].startswith("the files have no timest")
    with pytest.raises(UserError, match="--range 5 1 is empty; give the lowest rating first"):
        prepare([raw], tmp_path / "no", Random(), Options(), bounds=(5, 1))


def test_a_user_who_has_every_item_is_named(tmp_path: Path) -> None:
    ratings = [Rating("omni", item, 5, 1) for item in "abc"] + [Rating("some", item, 5, 2) for item in "ab"]
    test = write(tmp_path / "test", [Rating("some", "c", 5, 3)])
    train = write(tmp_path / "train", ratings)
    prepared = prepare([train], tmp_path / "out", Given(), Options(implicit=True), [test])
    (said,) = [warning for warning in prepared.warnings if "every item" in warning]
    assert said.startswith("1 users have every item in training, first user omni: negatives cannot be drawn")
    with pytest.raises(UserError, match="user omni has seen all but 0 of 3 items"):
        Negatives.of(Dataset(tmp_path / "out"), 0)


def test_rows_with_an_empty_history_are_named(tmp_path: Path) -> None:
    new = [Rating("late", f"i{item}", 3.0, 5) for item in range(3)]
    out, test = write(tmp_path / "raw", some_ratings(13)), write(tmp_path / "test", new)
    warnings = prepare([out], tmp_path / "out", LeaveOneOut(), Options(layout="users"), [test]).warnings
    assert "3 test ratings are of items that training never saw, first item i0: row 0 of the table" in warnings
    assert "1 test rows have an empty history, first user late" in warnings
