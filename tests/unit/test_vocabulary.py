"""Counting in runs on disk equals counting in a dictionary, whatever the runs and the memory."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_rec.core.errors import UserError
from dist_rec.prepare.criteo.vocabulary import Run, Vocabulary, bucket, factorize, fit, merge, pack

values = st.one_of(st.integers(0, 5), st.integers(0, 2**32 - 1), st.just(2**32 - 1))
columns = st.lists(st.one_of(st.none(), values), max_size=60)
in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def words(column: Iterable[int | None], form: str = "{:x}") -> np.ndarray:
    """As `Fields.word` gives them: the last character in the top byte, nothing for what is missing."""
    texts = ["" if value is None else form.format(value) for value in column]
    return np.array([int.from_bytes(text.rjust(8, "\0").encode(), "little") for text in texts], np.uint64)


def save_runs(segments: list[list[int | None]], path: Path) -> list[Run]:
    runs, start = [], 0
    with path.open("wb") as file:
        for segment in segments:
            factors = factorize(words(segment))
            entries = pack(factors.values_K, factors.counts_K)
            entries.tofile(file)
            runs.append(Run(path, start, start + entries.size))
            start += entries.size
    return runs


@given(columns)
def test_factors_give_the_column_back(column: list[int | None]) -> None:
    factors = factorize(words(column))
    counted = Counter(value for value in column if value is not None)
    assert factors.values_K.tolist() == sorted(counted)
    assert factors.counts_K.tolist() == [counted[value] for value in sorted(counted)]
    assert [[*factors.values_K.tolist(), None][code] for code in factors.code_N] == column


@given(columns)
def test_a_number_is_one_value_however_it_is_written(column: list[int | None]) -> None:
    forms = [words(column, form) for form in ("{:x}", "{:X}", "{:08x}", "{:04X}")]
    factors, once = factorize(np.concatenate(forms)), factorize(words(column))
    assert factors.values_K.tolist() == once.values_K.tolist()
    assert factors.counts_K.tolist() == (4 * once.counts_K).tolist()
    assert factors.code_N.tolist() == 4 * once.code_N.tolist()


@in_a_folder
@given(st.lists(columns, max_size=8), st.integers(1, 30))
def test_merged_runs_equal_counting_at_once(tmp_path: Path, segments: list[list[int | None]], entries: int) -> None:
    counted = Counter(value for segment in segments for value in segment if value is not None)
    merged = [
        (int(value), int(count))
        for block in merge(save_runs(segments, tmp_path / "runs"), entries)
        for value, count in zip(*block, strict=True)
    ]
    assert merged == sorted(counted.items())


@in_a_folder
@given(st.lists(columns, max_size=8), st.integers(1, 4), st.integers(1, 30), st.integers(2, 9))
def test_ids_fall_with_the_count_and_rise_with_the_value(
    tmp_path: Path, segments: list[list[int | None]], min_count: int, entries: int, fan_in: int
) -> None:
    counted = Counter(value for segment in segments for value in segment if value is not None)
    kept = sorted((value for value in counted if counted[value] >= min_count), key=lambda v: (-counted[v], v))
    path = tmp_path / "vocabulary.npy"
    fit(save_runs(segments, tmp_path / "runs"), min_count, path, entries, fan_in)
    vocabulary = Vocabulary(path)
    assert vocabulary.rows == len(kept) + 1
    asked = sorted({*counted, 0, 7, 2**32 - 1})
    expected = [kept.index(value) + 1 if value in kept else 0 for value in asked]
    assert vocabulary.rows_of(np.array(asked, np.uint32)).tolist() == [*expected, 0]
    assert {file.name for file in tmp_path.iterdir()} == {"runs", "vocabulary.npy"}


def test_merging_holds_no_more_than_it_may(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    segments = [rng.integers(0, 2**32, 5000).tolist() for _ in range(20)]
    largest = max(values.size for values, _ in merge(save_runs(segments, tmp_path / "runs"), entries=2000))
    assert largest <= 2000


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cat_3\.npy is missing"):
        Vocabulary(tmp_path / "cat_3.npy")


@given(columns.filter(bool), st.integers(1, 2**31 - 2))
def test_buckets_are_murmur_s_finalizer_scaled(column: list[int | None], buckets: int) -> None:
    def expected(value: int | None) -> int:
        if value is None:
            return 0
        value ^= value >> 16
        value = value * 0x85EBCA6B % 2**32
        value ^= value >> 13
        value = value * 0xC2B2AE35 % 2**32
        value ^= value >> 16
        return 1 + (value * buckets >> 32)

    factors = factorize(words(column))
    ids = bucket(factors.values_K, buckets)[factors.code_N]
    assert ids.tolist() == [expected(value) for value in column]
    assert ids.max() <= buckets


def test_buckets_fill_evenly() -> None:
    consecutive = np.arange(100_000, dtype=np.uint32)
    counts = np.bincount(bucket(consecutive, 100)[:-1], minlength=101)[1:]
    # A fair draw has mean 1,000 and standard deviation 31.5 a bucket.
    assert abs(counts - 1000).max() < 5 * 31.5
