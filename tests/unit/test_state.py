"""What checkpoints of another form load: row-wise Adagrad of other column shards, heads at another place."""

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.core.errors import UserError
from dist_rec.train.state import Resharding, _overlap

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


@pytest.mark.parametrize("place", ["precise", "objective", "encoder"])
def test_a_head_loads_from_where_earlier_versions_had_it(tmp_path: Path, place: str) -> None:
    names = ["model.{}.head.top.weight", "optimizer.{}.head.top.weight.exp_avg"]
    saved = {name.format(place): torch.full((2, 3), index + 1.0) for index, name in enumerate(names)}
    dcp.save(dict(saved), checkpoint_id=tmp_path, no_dist=True)
    live = {name.format("precise"): torch.zeros(2, 3) for name in names}
    reader = dcp.FileSystemReader(tmp_path)
    dcp.load(Resharding(live, reader.read_metadata()).to_load(), storage_reader=reader, no_dist=True)
    assert [float(value.mean()) for value in live.values()] == [1, 2]


def test_a_head_that_is_not_in_the_checkpoint_is_named_as_it_is_now(tmp_path: Path) -> None:
    dcp.save({"model.other.head.top.weight": torch.zeros(2)}, checkpoint_id=tmp_path, no_dist=True)
    metadata = dcp.FileSystemReader(tmp_path).read_metadata()
    with pytest.raises(UserError, match=r"the checkpoint has no model\.precise\.head\.top\.weight"):
        Resharding({"model.precise.head.top.weight": torch.zeros(2)}, metadata)
