"""Attention by its definitions, sequence by sequence."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_rec.nn.attention import PointwiseAttention, PositionedItems, SelfAttention
from dist_rec.nn.sequences import Sequences

LENGTHS = [4, 0, 1, 7, 3]
LONGEST = 8


def batch(columns: int) -> tuple[Sequences, Tensor]:
    """Sequences in several rectangles, and what is at their positions."""
    generator = torch.Generator().manual_seed(0)
    x_VC = torch.randn(sum(LENGTHS), columns, generator=generator, dtype=torch.float64)
    return Sequences(torch.tensor(LENGTHS), LONGEST, pairs=40), x_VC.requires_grad_()


def assert_gradients_are_equal(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(output.sin().sum(), inputs) for output in (found, expected))
    for value, other in zip(*gradients, strict=True):
        assert value.any()
        torch.testing.assert_close(value, other)


@pytest.mark.parametrize("heads", [1, 3])
def test_self_attention_as_pytorch_has_it(heads: int) -> None:
    torch.manual_seed(0)
    sequences, x_VD = batch(6)
    ours, theirs = SelfAttention(6, heads).double(), nn.MultiheadAttention(6, heads, batch_first=True).double()
    theirs.in_proj_weight, theirs.in_proj_bias = ours.project.weight, ours.project.bias
    theirs.out_proj.weight, theirs.out_proj.bias = ours.output.weight, ours.output.bias
    for bias in (ours.project.bias, ours.output.bias):
        nn.init.normal_(bias)
    expected = []
    for x_TD in x_VD.split(LENGTHS):
        if len(x_TD):
            mask = nn.Transformer.generate_square_subsequent_mask(len(x_TD), dtype=torch.float64)
            x_1TD = x_TD.unsqueeze(0)
            expected.append(theirs(x_1TD, x_1TD, x_1TD, attn_mask=mask, is_causal=True)[0].squeeze(0))
    assert_gradients_are_equal(ours(x_VD, sequences), torch.cat(expected), [x_VD, *ours.parameters()])


@pytest.mark.parametrize("heads", [1, 2])
def test_pointwise_attention_position_by_position(heads: int) -> None:
    torch.manual_seed(0)
    key, value = 3, 2
    sequences, x_VC = batch(heads * (value + 2 * key))
    ours = PointwiseAttention(LONGEST, heads, key, value).double()
    expected = []
    for x_TC in x_VC.split(LENGTHS):
        sizes = [heads * value, heads * key, heads * key]
        v_TH, q_TH, k_TH = (part.unflatten(1, (heads, -1)) for part in x_TC.split(sizes, dim=1))
        for i in range(len(x_TC)):
            attended_HE = torch.zeros(heads, value, dtype=torch.float64)
            for j in range(i + 1):
                score_H = (q_TH[i] * k_TH[j]).sum(1) + ours.distance[i - j]
                attended_HE = attended_HE + functional.silu(score_H).unsqueeze(1) * v_TH[j] / LONGEST
            expected.append(attended_HE.flatten())
    assert_gradients_are_equal(ours(x_VC, sequences), torch.stack(expected), [x_VC, ours.distance])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_weight_is_left_for_what_comes_later(dtype: torch.dtype) -> None:
    attention = PointwiseAttention(LONGEST, 1, 1, 1).to(dtype)
    x_VC = torch.full((LONGEST, 3), 100.0, dtype=dtype)
    x_VC[-1, 0] = torch.inf  # the last value
    found_V1 = attention(x_VC, Sequences(torch.tensor([LONGEST]), LONGEST))
    # 0 times infinity is no number: so the last value was multiplied with exactly 0.
    assert found_V1[:-1].isnan().all() and found_V1[-1].isinf()


def test_positions_are_counted_from_the_start() -> None:
    sequences, x_VD = batch(4)
    module = PositionedItems(LONGEST, 4, dropout=0.5).double().eval()
    expected = torch.cat([2 * part + module.position[: len(part)] for part in x_VD.split(LENGTHS)])
    torch.testing.assert_close(module(x_VD, sequences), expected)
