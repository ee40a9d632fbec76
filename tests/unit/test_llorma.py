"""LLORMA by its definition."""

import numpy as np
import pytest
import torch

from dist_rec.core.errors import UserError
from dist_rec.core.head import Inputs
from dist_rec.heads.llorma import LLORMA
from dist_rec.heads.mf import MF
from tests.small_head import MANIFEST

ROWS, CONFIG = 40, LLORMA.Config(dim=2, anchors=3, rank=4, bandwidth=1.2)


def drawn() -> Inputs:
    generator = torch.Generator().manual_seed(0)
    lookups = LLORMA.lookups(CONFIG, MANIFEST)
    pooled = {lookup.name: torch.randn(ROWS, 2, lookup.dim, generator=generator) for lookup in lookups}
    return Inputs(torch.empty(ROWS, 0), pooled)


def test_ratings() -> None:
    inputs, asked = drawn(), {}

    def rows(table: str, ids: torch.Tensor) -> torch.Tensor:
        asked[table] = ids
        return torch.randn(len(ids), CONFIG.dim, generator=torch.Generator().manual_seed(len(asked)))

    head = LLORMA(CONFIG, MANIFEST)
    with torch.no_grad():
        head.adopt([], rows)
    anchors_FAG = head.anchors_FAG.double().numpy()
    found_B = head(inputs).tolist()
    weights = []
    for row, found in enumerate(found_B):
        factors, local = (inputs.pooled[name][row].double().numpy() for name in ("factors", "local"))
        added, total = 0.0, 1.0
        for anchor in range(CONFIG.anchors):
            weight = 1.0
            for side in range(2):
                a, b = factors[side], anchors_FAG[side, anchor]
                angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
                weight *= max(0, 1 - (angle / CONFIG.bandwidth) ** 2)
            own = slice(anchor * CONFIG.rank, (anchor + 1) * CONFIG.rank)
            added, total = added + weight * (local[0, own] @ local[1, own]), total + weight
            weights.append(weight)
        assert found == pytest.approx(factors[0] @ factors[1] + added / total, abs=1e-4)
    assert 0 in weights and max(weights) > 0.5
    assert asked.keys() == {"factors/user", "factors/item"}
    assert all(ids.min() >= 1 for ids in asked.values())


def test_starts_from_factors_of_mf() -> None:
    (ours, _), (theirs,) = LLORMA.lookups(CONFIG, MANIFEST), MF.lookups(MF.Config(dim=2, biases=False), MANIFEST)
    assert (ours.name, ours.features, ours.dim) == (theirs.name, theirs.features, theirs.dim)


def anchored(dtype: torch.dtype = torch.float32) -> LLORMA:
    head = LLORMA(CONFIG, MANIFEST)
    head.anchors_FAG.copy_(torch.nn.functional.normalize(torch.tensor([[[1.0, 1], [3, 1], [1, 2]]] * 2), dim=2))
    return head.to(dtype)


def test_angles_are_as_precise_as_the_anchors() -> None:
    inputs = drawn()
    exact = anchored()._kernel(inputs.pooled["factors"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(anchored()._kernel(inputs.pooled["factors"]), exact)
    found = anchored(torch.float64)(inputs.double())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), anchored()(inputs))


def test_a_factorisation_with_biases_is_refused() -> None:
    biased = MF(MF.Config(dim=1), MANIFEST).state_dict()
    with pytest.raises(UserError, match=r"train the run of `mf` with head\.biases=false"):
        LLORMA(CONFIG, MANIFEST).adopt([biased], lambda table, ids: torch.ones(len(ids), CONFIG.dim))
