"""Sequences in rectangles and back, whatever their lengths."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.core.errors import UserError
from dist_rec.nn.sequences import Sequences

LENGTHS = st.lists(st.integers(0, 9), max_size=8)
PAIRS = st.integers(1, 200)


def sequences_of(lengths: list[int], pairs: int) -> Sequences:
    return Sequences(torch.tensor(lengths, dtype=torch.int32), 9, pairs)


@given(LENGTHS, PAIRS)
def test_rectangles_hold_each_position_once(lengths: list[int], pairs: int) -> None:
    sequences = sequences_of(lengths, pairs)
    assert (sequences.positions, sequences.longest) == (sum(lengths), max(lengths, default=0))
    assert sequences.number_V.tolist() == [place for length in lengths for place in range(length)]
    shapes = []

    def numbered(x_NTC: Tensor) -> Tensor:
        shapes.append(x_NTC.shape[:2])
        number_T = torch.arange(x_NTC.shape[1]).view(1, -1, 1)
        return torch.cat([x_NTC, number_T.expand(len(x_NTC), -1, 1)], dim=2)

    x_VC = torch.rand(sum(lengths), 3)
    found_VC = sequences.in_rectangles(numbered, x_VC)
    assert torch.equal(found_VC[:, :3], x_VC)
    assert torch.equal(found_VC[:, 3], sequences.number_V.float())
    assert sum(rows for rows, _ in shapes) == len(lengths)
    assert all(rows * longest**2 <= pairs or rows == 1 for rows, longest in shapes)


@given(LENGTHS.filter(any), PAIRS)
def test_after_the_end_of_a_sequence_come_zeros_without_gradients(lengths: list[int], pairs: int) -> None:
    x_V1 = torch.rand(sum(lengths), 1, dtype=torch.float64, requires_grad=True)
    factor_V1 = torch.rand(sum(lengths), 1, dtype=torch.float64)

    def following(x_NTC: Tensor) -> Tensor:
        return x_NTC + x_NTC.square().flip(1).cumsum(1).flip(1)

    found_V1 = sequences_of(lengths, pairs).in_rectangles(following, x_V1)
    expected_V1 = torch.cat([following(part.unsqueeze(0)).squeeze(0) for part in x_V1.split(lengths)])
    torch.testing.assert_close(found_V1, expected_V1)
    gradients = (torch.autograd.grad((y_V1 * factor_V1).sum(), x_V1) for y_V1 in (found_V1, expected_V1))
    torch.testing.assert_close(*gradients)


@given(LENGTHS, PAIRS)
def test_means_so_far(lengths: list[int], pairs: int) -> None:
    x_VD = torch.rand(sum(lengths), 2, dtype=torch.float64, requires_grad=True)
    means = [part[: place + 1].mean(0) for part in x_VD.split(lengths) for place in range(len(part))]
    expected_VD = torch.stack(means) if means else x_VD
    found_VD = sequences_of(lengths, pairs).means_so_far(x_VD)
    torch.testing.assert_close(found_VD, expected_VD)
    factor_VD = torch.rand_like(x_VD)
    gradients = (torch.autograd.grad((y_VD * factor_VD).sum(), x_VD)[0] for y_VD in (found_VD, expected_VD))
    torch.testing.assert_close(*gradients)


@given(LENGTHS, st.data())
def test_last_positions(lengths: list[int], data: st.DataObject) -> None:
    counts = [data.draw(st.integers(0, length)) for length in lengths]
    x_V1 = torch.arange(sum(lengths)).unsqueeze(1)
    parts = [part[length - count :] for part, length, count in zip(x_V1.split(lengths), lengths, counts, strict=True)]
    found = sequences_of(lengths, 9).last(x_V1, torch.tensor(counts, dtype=torch.int32))
    assert torch.equal(found, torch.cat([x_V1[:0], *parts]))
    if all(lengths):
        ends = [part[-1:] for part in x_V1.split(lengths)]
        assert torch.equal(sequences_of(lengths, 9).last(x_V1, None), torch.cat([x_V1[:0], *ends]))


def test_too_long_a_history_is_named() -> None:
    with pytest.raises(UserError, match=r"a history has 10 items: raise head\.longest = 9"):
        sequences_of([3, 10], 9)


@pytest.mark.parametrize("counts", [torch.tensor([1, 3]), None])
def test_more_targets_than_items_are_named(counts: Tensor | None) -> None:
    with pytest.raises(UserError, match="more targets than items"):
        sequences_of([2, 0] if counts is None else [2, 2], 9).last(torch.zeros(4, 1), counts)
