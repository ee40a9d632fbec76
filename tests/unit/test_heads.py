"""What every head must do, by itself: see `dist_rec.core.head`."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dist_rec.core.errors import UserError
from dist_rec.core.head import Head, Inputs, Query, Sequence, find_head
from dist_rec.core.noise import noise
from dist_rec.core.schema import Column, Manifest, Table
from tests.heads import CASES, ITEMS
from tests.small_head import MANIFEST

ROWS = 37
every_head = pytest.mark.parametrize(("name", "settings"), CASES, ids=lambda value: str(value))


def build(name: str, settings: dict[str, Any], manifest: Manifest = MANIFEST, seed: int = 0) -> Head:
    head_class = find_head(name)
    torch.manual_seed(seed)
    return head_class(head_class.Config.parse(settings), manifest)


def random_inputs(name: str, settings: dict[str, Any], rows: int) -> tuple[Inputs, list[Tensor]]:
    """Inputs as the embedding layer gives them, and the leaves among them."""
    generator = torch.Generator().manual_seed(3)
    head_class = find_head(name)
    inputs, leaves = Inputs(dense=torch.rand(rows, 2, generator=generator)), []

    def looked_up(*shape: int) -> Tensor:
        leaves.append((torch.rand(shape, generator=generator) - 0.5).requires_grad_())
        return leaves[-1]

    def sequence(feature: str, dim: int) -> Sequence:
        lengths = torch.randint(0, 4, (rows,), generator=generator, dtype=torch.int32)
        if MANIFEST.column(feature).kind == "categorical":
            lengths = torch.ones_like(lengths)
        return Sequence(looked_up(int(lengths.sum()), dim), lengths)

    for lookup in head_class.lookups(head_class.Config.parse(settings), MANIFEST):
        if lookup.pooling == "none":
            inputs.sequences[lookup.name] = {feature: sequence(feature, lookup.dim) for feature in lookup.features}
        else:
            inputs.pooled[lookup.name] = looked_up(rows, len(lookup.features), lookup.dim)
    return inputs, leaves


def score(head: Head, inputs: Inputs) -> Tensor:
    """Scores of the rows, [B]; of a head of a catalog, a number that depends on all of each query."""
    noise.begin(1, 0, 0, max(1, len(inputs.dense)))
    scores = head(inputs)
    if not isinstance(scores, Query):
        return scores
    return scores.vectors.mean(1) if scores.penalty is None else scores.vectors.mean(1) + scores.penalty


def backward(scores: Tensor) -> None:
    labels = (torch.arange(len(scores)) % 2).float()
    functional.binary_cross_entropy_with_logits(scores.float(), labels, reduction="sum").backward()


@every_head
def test_gradients_reach_every_parameter_and_embedding(name: str, settings: dict[str, Any]) -> None:
    head = build(name, settings)
    inputs, leaves = random_inputs(name, settings, ROWS)
    scores = score(head, inputs)
    assert scores.shape == (ROWS,) and scores.isfinite().all()
    backward(scores)
    named = [*head.named_parameters(), *((f"embedding {number}", leaf) for number, leaf in enumerate(leaves))]
    for place, tensor in named:
        assert tensor.grad is not None and tensor.grad.isfinite().all(), place
        assert tensor.grad.abs().sum() > 0, place


@every_head
def test_bf16_is_close_to_fp32(name: str, settings: dict[str, Any]) -> None:
    head = build(name, settings)
    inputs, leaves = random_inputs(name, settings, ROWS)
    exact = score(head, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = score(head, inputs)
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.02)
    backward(rounded)
    assert all(tensor.grad.isfinite().all() for tensor in [*head.parameters(), *leaves])


@every_head
def test_fp64_is_close_to_fp32(name: str, settings: dict[str, Any]) -> None:
    inputs, _ = random_inputs(name, settings, ROWS)
    expected = score(build(name, settings), inputs)
    scores = score(build(name, settings).double(), inputs.double())
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores.float(), expected, rtol=1e-4, atol=1e-5)


@every_head
@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_any_rows(name: str, settings: dict[str, Any], rows: int) -> None:
    head = build(name, settings)
    inputs, leaves = random_inputs(name, settings, rows)
    with torch.autocast("cpu", torch.bfloat16):
        scores = score(head, inputs)
    assert scores.shape == (rows,)
    backward(scores)
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in [*head.parameters(), *leaves])
    assert all(value.isfinite().all() for value in head.state_dict().values())


@every_head
def test_rows_do_not_see_each_other_in_evaluation(name: str, settings: dict[str, Any]) -> None:
    head = build(name, settings).eval()
    inputs, _ = random_inputs(name, settings, ROWS)
    # Only the rows before the last one: pooled ones are cut, sequences lose the last row's ids.
    fewer = Inputs(
        dense=inputs.dense[:-1],
        pooled={key: value[:-1] for key, value in inputs.pooled.items()},
        sequences={
            key: {
                feature: Sequence(values[: len(values) - int(lengths[-1])], lengths[:-1])
                for feature, (values, lengths) in features.items()
            }
            for key, features in inputs.sequences.items()
        },
    )
    torch.testing.assert_close(score(head, fewer), score(head, inputs)[:-1], rtol=1e-4, atol=1e-5)


@every_head
def test_state_dict_is_the_whole_head(name: str, settings: dict[str, Any]) -> None:
    trained, fresh = build(name, settings), build(name, settings, seed=1)
    inputs, _ = random_inputs(name, settings, ROWS)
    trained(inputs)  # moves running statistics
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(score(fresh.eval(), inputs), score(trained.eval(), inputs))


@every_head
def test_data_without_id_features(name: str, settings: dict[str, Any]) -> None:
    empty = Manifest(columns=(Column(name="price", kind="dense"),), tables={}, splits={})
    head_class = find_head(name)
    with pytest.raises(UserError, match=r"has none|has no column"):
        head_class.lookups(head_class.Config.parse(settings), empty)


def without_dense() -> Manifest:
    return MANIFEST.model_copy(update={"columns": tuple(c for c in MANIFEST.columns if c.kind != "dense")})


@every_head
def test_data_without_dense_features(name: str, settings: dict[str, Any]) -> None:
    head = build(name, settings, without_dense())
    inputs, _ = random_inputs(name, settings, ROWS)
    inputs.dense = torch.empty(ROWS, 0)
    scores = score(head, inputs)
    backward(scores)
    assert scores.isfinite().all()
    assert all(parameter.grad is not None for parameter in head.parameters())


def scores_by_weights_of_fm(name: str, settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """FM's scores, and those of another head that is given FM's weights."""
    fm, other = build("fm", {}), build(name, settings)
    with torch.no_grad():
        fm.bias.fill_(0.3)
    other.load_state_dict(fm.state_dict(), strict=False)
    inputs, _ = random_inputs("fm", {}, ROWS)
    return fm(inputs), other(inputs)


def test_deepfm_without_mlp_is_fm() -> None:
    expected, scores = scores_by_weights_of_fm("deepfm", {"hidden": []})
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)


def test_nfm_0_is_fm(monkeypatch: pytest.MonkeyPatch) -> None:
    # h of ones: equation 8 of the paper.
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda layer: torch.nn.init.ones_(layer.weight))
    expected, scores = scores_by_weights_of_fm("nfm", {"hidden": [], "dropout": [0.0], "batch_norm": False})
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)


def test_fm_by_its_definition() -> None:
    fm = build("fm", {"dim": 5})
    inputs, _ = random_inputs("fm", {"dim": 5}, ROWS)
    fields = fm.fields(inputs.dense, inputs.pooled["fields"])
    weights, factors = fields[..., 0], fields[..., 1:]
    pairs = [(i, j) for j in range(fields.shape[1]) for i in range(j)]
    expected = fm.bias + weights.sum(1) + sum((factors[:, i] * factors[:, j]).sum(1) for i, j in pairs)
    torch.testing.assert_close(fm(inputs), expected, rtol=1e-5, atol=1e-5)


def test_first_order_weights_cost_no_lookup() -> None:
    for name in ("fm", "fnn", "deepfm", "nfm", "xdeepfm"):
        head_class = find_head(name)
        (lookup,) = head_class.lookups(head_class.Config(), MANIFEST)
        assert lookup.dim == 1 + head_class.Config().dim


def test_fnn_starts_from_fm() -> None:
    lookups = [find_head(name).lookups(find_head(name).Config.parse({"dim": 5}), MANIFEST) for name in ("fm", "fnn")]
    assert lookups[0] == lookups[1]
    fm, fnn = build("fm", {"dim": 5}), build("fnn", {"dim": 5}, seed=1)
    fnn.adopt([fm.state_dict()], lambda table, ids: torch.empty(0))
    inputs, _ = random_inputs("fm", {"dim": 5}, ROWS)
    fields = [head.fields(inputs.dense, inputs.pooled["fields"]) for head in (fm, fnn)]
    assert torch.equal(*fields)


def test_a_mask_has_a_hidden_unit_at_least() -> None:
    masknet = build("masknet", {"dim": 2, "reduction": 1e-3})
    inputs, leaves = random_inputs("masknet", {"dim": 2}, ROWS)
    backward(score(masknet, inputs))
    assert all(block.mask[0].out_features == 1 for block in masknet.blocks)
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_attention_by_rows() -> None:
    din = build("din", ITEMS)
    inputs, _ = random_inputs("din", ITEMS, ROWS)
    target, history = (inputs.sequences["items"][name] for name in ("item", "history"))
    interests = din.attention(target.values, history)
    for row, items in enumerate(history.values.split(history.lengths.tolist())):
        wanted = target.values[row].expand_as(items)
        weights = din.attention.weight(torch.cat([items, wanted, items - wanted, items * wanted], dim=1))
        torch.testing.assert_close(interests[row], (weights * items).sum(0))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("wide_deep", {"wide": ["no_such"]}, "no column 'no_such'"),
        ("wide_deep", {"deep": ["price"]}, "'price' is dense and holds no ids"),
        ("finalmlp", {"first_context": ["no_such"]}, "no column 'no_such'"),
        ("din", {"target": "user", "history": "history"}, "same table"),
        ("din", {"target": "item", "history": "no_such"}, "no column 'no_such'"),
    ],
)
def test_unfit_columns(name: str, settings: dict[str, Any], message: str) -> None:
    head_class = find_head(name)
    with pytest.raises(UserError, match=message):
        head_class.lookups(head_class.Config.parse(settings), MANIFEST)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nfm", {"hidden": [8], "dropout": [0.1]}, "head.dropout needs 2 values, it has 1"),
        ("finalmlp", {"first": [10], "second": [16]}, "head.heads = 8 does not divide 10 and 16"),
        ("din", {"history": "history"}, "missing key 'head.target'"),
    ],
)
def test_unfit_settings(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_head(name).Config.parse(settings, "head.")


def adopted(parts: str, *pretrained: dict[str, Any]) -> tuple[Head, list[Head]]:
    """A NeuMF that starts from others."""
    sizes = {"factors": 4, "hidden": [8, 6], "tradeoff": 0.3}
    heads = [build("neumf", {**sizes, **settings}, seed=1) for settings in pretrained]
    neumf = build("neumf", {**sizes, "parts": parts})
    neumf.adopt([head.state_dict() for head in heads], lambda table, ids: torch.empty(0))
    return neumf, heads


def test_neumf_finds_its_parts_in_any_order() -> None:
    for order in ("gmf", "mlp"), ("mlp", "gmf"):
        neumf, heads = adopted("both", *({"parts": parts} for parts in order))
        gmf, mlp = (heads[order.index(parts)] for parts in ("gmf", "mlp"))
        assert torch.equal(neumf.last.weight, torch.cat([0.3 * gmf.last.weight, 0.7 * mlp.last.weight], dim=1))
        assert torch.equal(neumf.deep[0].weight, mlp.deep[0].weight)


def test_neumf_takes_an_mlp_that_was_trained_with_another_dropout() -> None:
    neumf, (_, mlp) = adopted("both", {"parts": "gmf"}, {"parts": "mlp", "dropout": 0.1})
    layers = [layer.weight for head in (neumf, mlp) for layer in head.deep if hasattr(layer, "weight")]
    half = len(layers) // 2
    assert half and all(torch.equal(ours, theirs) for ours, theirs in zip(layers[:half], layers[half:], strict=True))


@pytest.mark.parametrize(
    ("parts", "pretrained", "message"),
    [
        ("both", [{"parts": "gmf"}] * 2, 'give one run of head.parts="gmf" and one of "mlp"'),
        ("both", [{"parts": "mlp"}] * 2, 'give one run of head.parts="gmf" and one of "mlp"'),
        ("gmf", [{"parts": "gmf"}, {"parts": "mlp"}], 'two pretrained.runs need head.parts="both"'),
        ("both", [{"parts": "gmf", "factors": 5}, {"parts": "mlp"}], "do not fit this head"),
        ("both", [{"parts": "gmf"}, {"parts": "mlp", "hidden": [7, 6]}], "pre-trained deep.0.weight has shape [7, 14]"),
    ],
)
def test_neumf_refuses_parts_that_do_not_fit(parts: str, pretrained: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        adopted(parts, *pretrained)


def test_one_table_is_enough() -> None:
    tiny = Manifest(
        columns=(Column(name="only", kind="categorical", table="only"),), tables={"only": Table(rows=1)}, splits={}
    )
    fm = build("fm", {}, tiny)
    assert fm(Inputs(dense=torch.empty(2, 0), pooled={"fields": torch.zeros(2, 1, 17)})).tolist() == [0.0, 0.0]
