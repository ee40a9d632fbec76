"""The head by its definition."""

import torch
from dist_rec.core.head import Inputs, find_head
from dist_rec.core.schema import Column, Manifest, Table

MANIFEST = Manifest(
    columns=(
        Column(name="label", kind="label"),
        Column(name="price", kind="dense"),
        Column(name="user", kind="categorical", table="user"),
        Column(name="item", kind="categorical", table="item"),
    ),
    tables={"user": Table(rows=10), "item": Table(rows=20)},
    splits={},
)


def test_every_pair_of_fields_has_its_weight() -> None:
    head_class = find_head("fwfm.head")
    config = head_class.Config(dim=3)
    (lookup,) = head_class.lookups(config, MANIFEST)
    head = head_class(config, MANIFEST)
    torch.nn.init.normal_(head.pairs_FF)
    inputs = Inputs(dense=torch.rand(5, 1), pooled={"fields": torch.rand(5, len(lookup.features), lookup.dim)})
    x = head.fields(inputs.dense, inputs.pooled["fields"])
    expected = head.bias + x[..., 0].sum(1)
    for j in range(3):
        for i in range(j):
            expected = expected + head.pairs_FF[j, i] * (x[:, i, 1:] * x[:, j, 1:]).sum(1)
    torch.testing.assert_close(head(inputs), expected)
