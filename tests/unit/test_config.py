"""Whatever a config can get wrong ends in one line that names the key."""

from typing import Any

import pytest

from dist_rec.core.errors import UserError
from dist_rec.tasks.rating import Rating
from dist_rec.train.config import RunConfig

LEAST: dict[str, Any] = {"data": {"path": "nowhere"}, "head": {"name": "lr"}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trian": {}}, "unknown key 'trian'; known: .*train"),
        ({"train": {"btch": 2}}, "unknown key 'train.btch'; known: batch, device"),
        ({"train": {"batch": 0}}, "train.batch = 0: input should be greater than 0"),
        ({"train": {"batch": "2"}}, "train.batch = '2': input should be a valid integer"),
        ({"embedding": {"lookups": {"wide": {"rate": 1.0}}}}, r"'embedding.lookups.wide.rate'; known: .* lr, "),
        ({"task": {"name": "guess"}}, "task.name = 'guess': known: 'click', 'rating'"),
        ({"task": {"name": "rating", "rnage": (1.0, 5.0)}}, "unknown key 'task.rnage'; known: best, name, range"),
        ({"task": {"range": (1.0, 5.0)}}, "missing key 'task.name'"),
        ({"data": {"window": 8}}, "missing key 'data.path'"),
        ({"optimizer": {"lr": float("inf")}}, "optimizer.*lr = inf: input should be a finite number"),
        ({"optimizer": {"momentum": 0.5}}, "optimizer.momentum = 0.5: momentum is for sgd and adagrad, not for adam"),
        ({"seed": 1 << 63}, "seed = 9223372036854775808: input should be less than"),
    ],
)
def test_the_key_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunConfig.parse({**LEAST, **values})


@pytest.mark.parametrize("some", ["tables", "lookups"])
def test_of_the_settings_of_some_tables_only_their_sharding_may_change(some: str) -> None:
    def config(**settings: Any) -> RunConfig:
        return RunConfig.parse({**LEAST, "embedding": {some: {"wide": settings}}})

    assert config(sharding="row_wise").changes(RunConfig.parse(LEAST)) == []
    assert config(lr=0.5).changes(config(lr=0.25)) == [f"embedding.{some}.wide.lr: 0.25 → 0.5"]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"name": "dlrm", "bottom": (-3,)}, r"head.bottom.0 = -3: input should be greater than 0"),
        ({"name": "dlrm", "top": (32, 0)}, r"head.top.1 = 0: input should be greater than 0"),
        ({"name": "nfm", "hidden": (8,), "dropout": (1.5, 0.0)}, r"head.dropout.0 = 1.5: input should be less than 1"),
        ({"name": "../x"}, r"head.name = '../x' is not a module name; known heads: .*dlrm"),
    ],
)
def test_the_key_of_a_head_is_named(head: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunConfig.parse({**LEAST, "head": head}).head_config()


def test_lists_become_tuples() -> None:
    parsed = RunConfig.parse({**LEAST, "task": {"name": "rating", "range": [1.0, 5.0]}})
    assert parsed.task == Rating.Config(range=(1.0, 5.0))
