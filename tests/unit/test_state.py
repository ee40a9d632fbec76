"""Row-wise Adagrad between numbers of column shards: averages by width, nothing lost on the way back."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.train.state import _overlap

PARTS = st.sampled_from([1, 2, 3, 4, 6])


@given(PARTS, PARTS)
def test_the_average_over_all_columns_is_kept(saved: int, loaded: int) -> None:
    columns = 24
    sums_P = torch.rand(saved, dtype=torch.float64)
    width = columns // loaded
    new = [(sums_P * _overlap(part * width, width, saved, columns)).sum() for part in range(loaded)]
    torch.testing.assert_close(torch.stack(new).mean(), sums_P.mean())


@given(PARTS)
def test_the_same_cut_is_the_identity(parts: int) -> None:
    width = 24 // parts
    shares = torch.stack([_overlap(part * width, width, parts, 24) for part in range(parts)])
    assert torch.equal(shares, torch.eye(parts))


@given(PARTS, st.sampled_from([1, 2, 4]))
def test_equal_parts_stay_equal(saved: int, loaded: int) -> None:
    width = 24 // loaded
    for part in range(loaded):
        torch.testing.assert_close(_overlap(part * width, width, saved, 24).sum(), torch.tensor(1.0))
