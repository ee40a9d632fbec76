"""Noise is that of the global batch, however its rows are dealt."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.core.noise import Noise, noise

SHARES = st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any)


def drawn(first: int, lengths: list[int], members: int) -> list[torch.Tensor]:
    """Draws of all kinds for some rows of a batch, each of which has `members` rows of numbers and some ids."""
    noise.begin(3, 7, first, len(lengths))
    x_NC = torch.empty(len(lengths) * members, 5)
    ids_B = torch.tensor([*lengths, 0, 0], dtype=torch.int32)
    of_ids = [noise.uniform_of_ids(ids_B), noise.bits_of_ids(ids_B, 3)]
    return [noise.uniform_like(x_NC), noise.normal_like(x_NC), *of_ids, noise.uniform_like(x_NC)]


@given(shares=SHARES, members=st.integers(1, 3), data=st.data())
def test_shares_of_processes_are_parts_of_the_whole(shares: list[int], members: int, data: st.DataObject) -> None:
    rows = sum(shares)
    lengths = data.draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows))
    whole, parts, first = drawn(0, lengths, members), [], 0
    for share in shares:
        parts.append(drawn(first, lengths[first : first + share], members))
        first += share
    for place, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[place] for part in parts]), expected)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_bits_made_ahead_are_those_of_the_step(before: list[int], columns: list[int]) -> None:
    ahead, alone = Noise(), Noise()
    ahead.begin(0, 0, 0, 4)
    for size in before:
        ahead.bits(4, size)
    ahead.begin(0, 1, 2, 4)
    alone.begin(0, 1, 2, 4)
    for size in columns:
        assert torch.equal(ahead.bits(4, size), alone.bits(4, size))


def test_every_draw_step_and_seed_differs() -> None:
    found = []
    for seed, step in ((0, 0), (0, 1), (1, 0)):
        noise.begin(seed, step, 0, 4)
        found += [noise.uniform_like(torch.empty(4, 4)) for _ in range(2)]
    assert len({tuple(x.view(-1).tolist()) for x in found}) == len(found)


def test_distributions() -> None:
    own = Noise()
    own.begin(0, 0, 0, 1000)
    x_NC = torch.empty(1000, 500)
    lengths_B = torch.full((1000,), 500)
    for uniform in (own.uniform_like(x_NC).view(-1), own.uniform_of_ids(lengths_B)):
        assert uniform.min() >= 0 and uniform.max() < 1
        counts = uniform.histc(16, 0, 1)
        assert (counts * 16 / len(uniform) - 1).abs().max() < 0.02
        assert abs(torch.corrcoef(torch.stack([uniform[1:], uniform[:-1]]))[0, 1]) < 0.005
    normal = own.normal_like(x_NC)
    assert abs(normal.mean()) < 0.005 and abs(normal.var() - 1) < 0.01 and abs((normal**4).mean() - 3) < 0.06
