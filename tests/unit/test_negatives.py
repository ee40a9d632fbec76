"""Negative sampling: a pure function of the seed, fair among the items that a user has not."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.core import spans
from dist_rec.core.errors import UserError
from dist_rec.core.splitmix import shuffle_keys, shuffled, stream, words
from dist_rec.data.negatives import Negatives
from dist_rec.data.shards import Dataset
from dist_rec.prepare.engine import prepare
from dist_rec.prepare.ratings.source import Options, RatingFiles
from dist_rec.prepare.ratings.split import Random

USERS, ITEMS = 6, 12
KINDS = st.sampled_from(["uniform", "popularity"])
OWNED = st.lists(st.sets(st.integers(1, ITEMS - 1), max_size=ITEMS - 2), min_size=USERS, max_size=USERS)
POSITIVES = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(1, ITEMS - 1)), max_size=20)


def pairs(owned: list[set[int]], items: int = ITEMS) -> np.ndarray:
    return np.array(sorted(user * items + item for user, of_user in enumerate(owned) for item in of_user), np.int64)


def columns(positives: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    user_B, item_B = np.array(positives, np.int32).reshape(-1, 2).T
    return user_B, item_B


def test_the_numbers_are_those_of_splitmix64() -> None:
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert words(np.array([1234567], np.uint64), np.arange(4)).tolist() == expected


@given(st.integers(0, 300), st.integers(0, 2**40))
def test_shuffled_is_a_permutation_that_the_key_decides(count: int, seed: int) -> None:
    order = shuffled(count, seed, 1)
    assert sorted(order.tolist()) == list(range(count))
    assert order.tolist() == shuffled(count, seed, 1).tolist()
    if count > 20:
        assert order.tolist() != shuffled(count, seed, 2).tolist()


def test_keys_of_a_shuffle_do_not_depend_on_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "SPAN", 7)
    assert shuffle_keys(40, 3, 1).tolist() == words(stream(3, 1), np.arange(40)).tolist()


@given(OWNED, POSITIVES, KINDS, st.integers(0, 2**32), st.integers(0, 2**40), st.integers(1, 5))
def test_no_item_of_the_user_and_no_row_0(
    owned: list[set[int]], positives: list[tuple[int, int]], by: str, seed: int, step: int, num: int
) -> None:
    user_B, item_B = columns(positives)
    drawn_BN = Negatives(pairs(owned), USERS, ITEMS, seed, by).draw(step, user_B, item_B, num)
    assert drawn_BN.shape == (len(positives), num)
    for (user, _), drawn in zip(positives, drawn_BN.tolist(), strict=True):
        assert set(drawn) <= set(range(1, ITEMS)) - owned[user]


@given(OWNED, POSITIVES, KINDS, st.booleans(), st.integers(0, 20), st.randoms())
def test_the_draws_do_not_depend_on_how_the_batch_is_cut(
    owned: list[set[int]], positives: list[tuple[int, int]], by: str, distinct: bool, cut: int, random
) -> None:
    negatives = Negatives(pairs(owned), USERS, ITEMS, 7, by)
    user_B, item_B = columns(positives)
    num = 1 if distinct else 4
    whole_BN = negatives.draw(3, user_B, item_B, num, distinct)
    parts = [negatives.draw(3, user_B[part], item_B[part], num, distinct) for part in (slice(cut), slice(cut, None))]
    assert np.array_equal(np.concatenate(parts), whole_BN)
    order = random.sample(range(len(positives)), len(positives))
    assert np.array_equal(negatives.draw(3, user_B[order], item_B[order], num, distinct), whole_BN[order])
    if not distinct:
        assert np.array_equal(negatives.draw(3, user_B, item_B, 2), whole_BN[:, :2])


@given(OWNED, KINDS, st.integers(0, 2**32))
def test_distinct_draws_can_take_every_item_that_is_left(owned: list[set[int]], by: str, seed: int) -> None:
    negatives = Negatives(pairs(owned), USERS, ITEMS, seed, by)
    for user, of_user in enumerate(owned):
        left = set(range(1, ITEMS)) - of_user
        drawn_BN = negatives.draw(0, np.array([user]), np.array([1]), len(left), distinct=True)
        assert sorted(drawn_BN[0].tolist()) == sorted(left)
        with pytest.raises(UserError, match=f"user {user} has seen all but {len(left)} of 11 items"):
            negatives.draw(0, np.array([user]), np.array([1]), len(left) + 1, distinct=True)


@pytest.mark.parametrize(("by", "alpha"), [("uniform", 1.0), ("popularity", 1.0), ("popularity", 0.5)])
def test_draws_are_in_proportion_to_their_weights(by: str, alpha: float) -> None:
    rng = np.random.default_rng(0)
    owned = [{item for item in range(1, ITEMS) if rng.random() < item / ITEMS / 1.2} for _ in range(40)]
    negatives = Negatives(pairs(owned), 40, ITEMS, 1, by, alpha)
    counts = np.array([sum(item in of_user for of_user in owned) for item in range(ITEMS)])
    user, draws = min(range(40), key=lambda user: abs(len(owned[user]) - 4)), 40_000
    left = sorted(set(range(1, ITEMS)) - owned[user])
    weights = np.maximum(counts[left], 1) ** alpha if by == "popularity" else np.ones(len(left))
    # Over steps, over positives and over places of a row: each alone must be fair.
    one = np.ones(draws, np.int32)
    for drawn in (
        np.concatenate([negatives.draw(step, one[:40] * user, np.arange(40), 10) for step in range(draws // 400)]),
        negatives.draw(0, one * user, np.arange(draws), 1),
        negatives.draw(0, one[:1] * user, one[:1], draws),
    ):
        found = np.bincount(drawn.reshape(-1), minlength=ITEMS)[left]
        expected = draws * weights / weights.sum()
        assert found.sum() == draws
        # Chi-square with at most 10 degrees of freedom: 45 is exceeded once in a million.
        assert ((found - expected) ** 2 / expected).sum() < 45


@pytest.mark.parametrize(
    ("by", "alpha", "share"), [("uniform", 1, 1 / 2), ("popularity", 1, 2 / 3), ("popularity", 1e4, 1)]
)
def test_items_that_are_hardly_ever_proposed_are_drawn_in_proportion(by: str, alpha: float, share: float) -> None:
    items, users = 5_000, 300
    owned = [{1, 2} for _ in range(users)] + [{3} for _ in range(2)] + [set(range(1, items)) - {7, 3}]
    negatives = Negatives(pairs(owned, items), users + 3, items, 0, by, alpha)
    one = np.ones(2_000, np.int32)
    drawn_BN = negatives.draw(0, one * (users + 2), np.arange(2_000), 1)
    assert set(drawn_BN.reshape(-1).tolist()) <= {3, 7}
    assert abs((drawn_BN == 3).mean() - share) <= 0.05
    both_BN = negatives.draw(0, one * (users + 2), np.arange(2_000), 2, distinct=True)
    assert np.array_equal(np.sort(both_BN, axis=1), np.tile([3, 7], (2_000, 1)))


def test_another_seed_step_user_or_item_gives_other_draws() -> None:
    def draw(seed: int, step: int, user: int, item: int) -> list[int]:
        negatives = Negatives(np.empty(0, np.int64), 50, 1000, seed)
        return negatives.draw(step, np.array([user]), np.array([item]), 8)[0].tolist()

    keys = [(0, 0, 1, 2), (1, 0, 1, 2), (0, 1, 1, 2), (0, 0, 2, 2), (0, 0, 1, 3), (0, 0, 2, 1), (1, 1, 1, 2)]
    drawn = [draw(*key) for key in keys]
    assert len(set(map(tuple, drawn))) == len(keys)
    assert drawn == [draw(*key) for key in keys]


def test_a_user_who_has_seen_everything_is_named() -> None:
    negatives = Negatives(pairs([set(), set(range(1, ITEMS)), {3}]), 3, ITEMS, 0)
    with pytest.raises(UserError, match="user 1 has seen all but 0 of 11 items, but 1 negatives are to be drawn"):
        negatives.draw(0, np.array([0, 2, 1]), np.array([1, 1, 1]), 4)


def test_a_prepared_folder_brings_its_seen_pairs(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_text("".join(f"{user} {item} 5\n" for user in range(30) for item in range(20) if (user * item) % 3))
    prepare(RatingFiles([str(raw)], Random(test_share=0.3), Options()), tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    train = [dataset.read_block(shard, block) for shard, block, _ in dataset.blocks("train")]
    user_B, item_B = (np.concatenate([block[name].to_numpy() for block in train]) for name in ("user", "item"))
    own = set(zip(user_B.tolist(), item_B.tolist(), strict=True))
    drawn_BN = Negatives.of(dataset, 0, "popularity", 0.75).draw(5, user_B, item_B, 6)
    assert own.isdisjoint(zip(np.repeat(user_B, 6).tolist(), drawn_BN.reshape(-1).tolist(), strict=True))

    # By the id in the file: the user is row 1.
    with pytest.raises(UserError, match="user 2 has seen all but 2 of 13 items"):
        Negatives.of(dataset, 0).draw(0, np.array([1]), np.array([1]), 13, distinct=True)

    seen = tmp_path / "out" / "seen.npy"
    damaged = bytearray(seen.read_bytes())
    damaged[-1] ^= 1
    seen.write_bytes(damaged)
    with pytest.raises(UserError, match=r"seen\.npy is missing or damaged; prepare the data again"):
        Negatives.of(dataset, 0)
    seen.unlink()
    with pytest.raises(UserError, match=r"seen\.npy is missing or damaged"):
        Negatives.of(dataset, 0)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({**manifest, "transform": {}}))
    with pytest.raises(UserError, match="was not prepared by `dist-rec prepare ratings`"):
        Negatives.of(Dataset(tmp_path / "out"), 0)
