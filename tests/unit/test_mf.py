"""Matrix factorisation by its definition."""

import numpy as np
import pytest
import torch

from dist_rec.core.errors import UserError
from dist_rec.core.head import Inputs, find_head
from dist_rec.core.schema import Column, Manifest, Table
from dist_rec.heads.mf import MF
from tests.small_head import MANIFEST

ROWS, DIM = 9, 5


@pytest.mark.parametrize("biases", [True, False])
def test_ratings(biases: bool) -> None:
    config = MF.Config(dim=DIM, biases=biases)
    (lookup,) = MF.lookups(config, MANIFEST)
    assert (lookup.features, lookup.dim) == (("user", "item"), DIM + biases)
    x_BFD = np.random.default_rng(0).normal(size=(ROWS, 2, lookup.dim)).astype(np.float32)
    found_B = MF(config, MANIFEST)(Inputs(torch.empty(ROWS, 0), {"factors": torch.from_numpy(x_BFD)}))
    for (user, item), rating in zip(x_BFD, found_B.tolist(), strict=True):
        expected = 0.5 + user[0] + item[0] + user[1:] @ item[1:] if biases else user @ item
        assert rating == pytest.approx(expected, abs=1e-5)


def test_the_mean_of_the_ratings_is_where_it_starts() -> None:
    assert MF(MF.Config(), MANIFEST.model_copy(update={"transform": {"labels": {"mean": 3.6}}})).mean == 3.6
    assert MF(MF.Config(), MANIFEST.model_copy(update={"transform": {}})).mean == 0


def test_data_without_users_or_items() -> None:
    only_user = Manifest(
        columns=(Column(name="user", kind="categorical", table="user"),), tables={"user": Table(rows=3)}, splits={}
    )
    with pytest.raises(UserError, match="the data has no column 'item'; it has user"):
        find_head("mf").lookups(MF.Config(), only_user)
