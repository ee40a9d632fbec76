"""The vectorised parser takes exactly what a slow one takes, and gives the same numbers."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.prepare.criteo.tsv import MARGIN, Fields, NotNumbers, hexadecimal

INTEGER, HEXADECIMAL = rb"(-?[0-9]{1,16})?", rb"[0-9a-fA-F]{0,8}"
integers = st.one_of(
    st.just(""), st.integers(-(10**16) + 1, 10**16 - 1).map(str), st.integers(-9, 9).map(str), st.just("-0007")
)
hexadecimals = st.text("0123456789abcdefABCDEF", max_size=8)
rows = st.lists(st.tuples(st.sampled_from("01"), integers, hexadecimals), min_size=1, max_size=40)
# Neighbours of digits and letters in ASCII, signs, control characters, and bytes that are not ASCII.
odd_bytes = st.binary(max_size=20) | st.lists(st.sampled_from(b"09/:afAF@G`g-+ \0\r\x7f\xb9"), max_size=20).map(bytes)


def lines(of_rows: Sequence[tuple[str, ...]]) -> bytes:
    return MARGIN + "".join("\t".join(row) + "\n" for row in of_rows).encode()


@given(rows)
def test_numbers_equal_python_s(of_rows: list[tuple[str, str, str]]) -> None:
    fields = Fields.find(lines(of_rows), 3)
    assert fields.rows == len(of_rows)
    assert fields.bit(0).tolist() == [label == "1" for label, _, _ in of_rows]
    assert fields.integer(1).tolist() == [int(integer or 0) for _, integer, _ in of_rows]
    assert hexadecimal(fields.word(2)).tolist() == [int(text or "0", 16) for _, _, text in of_rows]
    assert (fields.length_FN == [[len(value) for value in column] for column in zip(*of_rows, strict=True)]).all()


@given(st.lists(st.tuples(st.sampled_from("01"), integers, integers, hexadecimals, hexadecimals), min_size=1))
def test_several_fields_are_read_as_one_by_one(of_rows: list[tuple[str, ...]]) -> None:
    fields = Fields.find(lines(of_rows), 5)
    assert (fields.integer(slice(1, 3)) == [fields.integer(1), fields.integer(2)]).all()
    assert (fields.word(slice(3, None)) == [fields.word(3), fields.word(4)]).all()


@given(rows, odd_bytes.filter(lambda odd: not {9, 10} & set(odd)))
def test_a_field_is_refused_exactly_when_it_has_not_the_form(of_rows: list[tuple[str, ...]], odd: bytes) -> None:
    good = lines(of_rows)
    text = good + b"\t".join((odd, odd, odd)) + b"\n" + good[len(MARGIN) :]
    if any(byte < 9 for byte in odd):
        with pytest.raises(NotNumbers):
            Fields.find(text, 3)
        return
    fields = Fields.find(text, 3)
    for parse, pattern in (
        (lambda: fields.bit(0), rb"[01]"),
        (lambda: fields.integer(1), INTEGER),
        (lambda: hexadecimal(fields.word(2)), HEXADECIMAL),
    ):
        if re.fullmatch(pattern, odd):
            assert parse().size == 2 * len(of_rows) + 1
        else:
            with pytest.raises(NotNumbers):
                parse()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30))
def test_every_line_must_have_the_fields(fields_of_lines: list[int]) -> None:
    text = MARGIN + b"".join(b"\t".join([b"7"] * count) + b"\n" for count in fields_of_lines)
    if set(fields_of_lines) == {3}:
        assert (Fields.find(text, 3).integer(2) == 7).all()
    else:
        with pytest.raises(NotNumbers):
            Fields.find(text, 3)


def test_extremes() -> None:
    text = MARGIN + b"\t\n-9999999999999999\tffffffff\n9999999999999999\tFFFFFFFF\n100000000\t0\n-1\t00000000\n"
    fields = Fields.find(text, 2)
    assert fields.integer(0).tolist() == [0, -(10**16) + 1, 10**16 - 1, 10**8, -1]
    assert hexadecimal(fields.word(1)).tolist() == [0, 2**32 - 1, 2**32 - 1, 0, 0]
    assert hexadecimal(fields.word(1)).dtype == np.uint32
