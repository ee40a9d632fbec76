"""What updates a table: by its settings, its sharding, the device and whether a catalog is tied to it."""

from dataclasses import replace

import pytest
import torch
from torchrec.optim import Adam, RowWiseAdagrad

from dist_rec.core.errors import UserError
from dist_rec.core.head import Lookup
from dist_rec.embedding import row_rules
from dist_rec.embedding.row_rules import FTRL, SGD, Adagrad, Momentum, RowRule, Rows
from dist_rec.embedding.tables import EmbeddingConfig, EmbeddingTable, embedding_tables
from dist_rec.embedding.updates import Fused, Replicated, Update, resolve_table
from tests.small_head import MANIFEST

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ADAM = row_rules.Adam(0.9, 0.999, 1e-8)
BY_ROW = (RowWiseAdagrad, {"lr": 0.02, "eps": 1e-8})


def table(pooling: str = "sum", **settings: object) -> EmbeddingTable:
    lookup = Lookup("pooled", ("user",), 6, pooling=pooling)
    (found,) = embedding_tables((lookup,), MANIFEST, EmbeddingConfig.parse(settings))
    return found


@pytest.mark.parametrize(
    ("settings", "device", "update"),
    [
        ({}, CPU, Fused(*BY_ROW)),
        ({}, CUDA, Fused(*BY_ROW)),
        ({"optimizer": "adagrad"}, CPU, Fused(torch.optim.Adagrad, {"lr": 0.02, "eps": 1e-8})),
        ({"optimizer": "sgd"}, CPU, Fused(torch.optim.SGD, {"lr": 0.02})),
        ({"optimizer": "sgd", "weight_decay": 0.5}, CUDA, Rows(SGD(), 0.5)),
        ({"weight_decay": 0.5}, CUDA, Rows(row_rules.RowWiseAdagrad(1e-8), 0.5)),
        ({"optimizer": "adagrad", "momentum": 0.5}, CUDA, Rows(Momentum(Adagrad(1e-8), 0.5), 0.0)),
        ({"optimizer": "sgd", "momentum": 0.5, "weight_decay": 0.1}, CPU, Rows(Momentum(SGD(), 0.5), 0.1)),
        ({"optimizer": "adagrad", "momentum": 0.0}, CPU, Fused(torch.optim.Adagrad, {"lr": 0.02, "eps": 1e-8})),
        ({"optimizer": "adam"}, CPU, Rows(ADAM, 0.0)),
        ({"optimizer": "adam"}, CUDA, Fused(Adam, {"lr": 0.02, "eps": 1e-8, "beta1": 0.9, "beta2": 0.999})),
        ({"optimizer": "adam", "weight_decay": 0.5}, CUDA, Rows(ADAM, 0.5)),
        ({"optimizer": "ftrl", "l1": 2.0}, CUDA, Rows(FTRL(2.0, 0.0, 1.0), 0.0)),
        ({"sharding": "data_parallel"}, CPU, Replicated(*BY_ROW)),
        ({"sharding": "data_parallel", "optimizer": "sgd"}, CUDA, Replicated(torch.optim.SGD, {"lr": 0.02})),
    ],
)
def test_what_updates_a_table(settings: dict, device: torch.device, update: Update) -> None:
    assert resolve_table(table(**settings), device).update == update


@pytest.mark.parametrize(("optimizer", "rule"), [("sgd", SGD()), ("adam", ADAM)])
def test_a_tied_table_is_cut_and_updated_by_rows(optimizer: str, rule: RowRule) -> None:
    resolved = resolve_table(replace(table(optimizer=optimizer), tied=True), CUDA)
    assert (resolved.sharding, resolved.update) == ("row_wise", Rows(rule, 0.0))


def test_the_planner_is_asked_on_gpus_alone() -> None:
    assert [resolve_table(table(), device).sharding for device in (CPU, CUDA)] == ["table_wise", "auto"]


@pytest.mark.parametrize(
    ("pooling", "settings", "message"),
    [
        ("sum", {"optimizer": "adam"}, r"table 'pooled/user': data_parallel takes sgd, adagrad"),
        ("sum", {"optimizer": "ftrl"}, r"table 'pooled/user': data_parallel takes sgd, adagrad"),
        ("sum", {"weight_decay": 0.1}, r"table 'pooled/user': data_parallel takes sgd, adagrad"),
        ("sum", {"optimizer": "sgd", "momentum": 0.1}, r"table 'pooled/user': data_parallel takes .* or momentum"),
        ("none", {}, r"table 'pooled/user': FBGEMM has no data_parallel sequences on CPUs"),
    ],
)
def test_what_is_not_replicated(pooling: str, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_table(table(pooling, sharding="data_parallel", **settings), CPU)
