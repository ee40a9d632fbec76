"""Codes of ratings in little memory: equal to NumPy on whole arrays, however long a span is."""

import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dist_rec.core import spans
from dist_rec.prepare.ratings.codes import count, gather, group, group_spans
from dist_rec.prepare.ratings.growing import GrowingCodes, GrowingColumn

CODES, SPAN = 9, 5
CODED = st.lists(st.tuples(st.integers(0, CODES - 1), st.booleans()), max_size=40)


@pytest.fixture(scope="module", autouse=True)
def short_spans() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "SPAN", SPAN)
        yield


def arrays(coded: list[tuple[int, bool]]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    return np.array([code for code, _ in coded], np.int32), np.array([among for _, among in coded], np.bool_)


@given(CODED)
def test_looked_up_and_counted(coded: list[tuple[int, bool]]) -> None:
    code_N, among_N = arrays(coded)
    value_K = np.arange(CODES, dtype=np.float32) ** 2
    assert gather(value_K, code_N).tolist() == value_K[code_N].tolist()
    assert gather(value_K, code_N).dtype == value_K.dtype
    assert count(code_N, among_N, CODES).tolist() == np.bincount(code_N[among_N], minlength=CODES).tolist()


@given(CODED)
def test_grouped(coded: list[tuple[int, bool]]) -> None:
    code_N, among_N = arrays(coded)
    places = sorted(np.flatnonzero(among_N).tolist(), key=lambda place: code_N[place])
    assert group(code_N, among_N).tolist() == places
    pieces = [piece.tolist() for piece in group_spans(code_N, among_N, CODES)]
    assert list(itertools.chain(*pieces)) == places
    of_pieces = [{int(code_N[place]) for place in piece} for piece in pieces]
    assert all(of_pieces) and sum(map(len, of_pieces)) == len(set().union(*of_pieces)), "no code is in two pieces"
    for piece, codes in zip(pieces, of_pieces, strict=True):
        largest = max(np.count_nonzero(code_N[places] == code) for code in codes)
        assert len(piece) < SPAN + largest


@given(st.lists(st.lists(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=9), max_size=20))
def test_codes_of_blocks_are_by_first_appearance(blocks: list[list[str]]) -> None:
    growing, numbers = GrowingCodes(), GrowingColumn(np.int64)
    for block in blocks:
        growing.append(pa.array(block).dictionary_encode())
        numbers.append(np.array([ord(text) for text in block]))
    code_N, texts = growing.finish()
    expected = [text for block in blocks for text in block]
    assert texts.to_pylist() == list(dict.fromkeys(expected))
    assert [texts[code].as_py() for code in code_N.tolist()] == expected
    assert numbers.finish().tolist() == list(map(ord, expected))
