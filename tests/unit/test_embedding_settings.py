"""Settings of tables: which level wins, and that a written config reads back as itself."""

import pytest

from dist_rec.core.errors import UserError
from dist_rec.core.table_name import TableName
from dist_rec.embedding.tables import EmbeddingConfig, embedding_tables
from tests.small_head import MANIFEST, SmallHead

CONFIG = EmbeddingConfig.parse(
    {
        "lr": 0.5,
        "init": 0.25,
        "lookups": {"mean": {"optimizer": "ftrl", "l1": 0.125, "init": 0.0}},
        "tables": {"tag": {"sharding": "row_wise"}, "mean/tag": {"lr": 2.0}, "item": {"optimizer": "adam"}},
    }
)
LOOKUPS = SmallHead.lookups(SmallHead.Config(), MANIFEST)


def test_the_narrower_setting_wins() -> None:
    settings = {str(table.name): table.settings for table in embedding_tables(LOOKUPS, MANIFEST, CONFIG)}
    mean = settings["mean/tag"]
    assert (mean.optimizer, mean.lr, mean.l1, mean.init, mean.sharding) == ("ftrl", 2.0, 0.125, 0.0, "row_wise")
    pooled = settings["pooled/tag"]
    assert (pooled.optimizer, pooled.lr, pooled.init, pooled.sharding) == ("rowwise_adagrad", 0.5, 0.5, "row_wise")
    assert settings["pooled/item"].optimizer == settings["history/item"].optimizer == "adam"


def test_momentum_and_its_optimizer_may_come_from_two_levels() -> None:
    config = EmbeddingConfig.parse({"optimizer": "adagrad", "lookups": {"mean": {"momentum": 0.5}}})
    momentum = {str(table.name): table.settings.momentum for table in embedding_tables(LOOKUPS, MANIFEST, config)}
    assert (momentum["mean/tag"], momentum["pooled/tag"]) == (0.5, 0.0)


def test_the_head_chooses_the_start_unless_the_config_does() -> None:
    assert CONFIG.settings(TableName("pooled", "user")).init == 0.25
    assert CONFIG.settings(TableName("pooled", "user"), init=0.5).init == 0.5
    assert CONFIG.settings(TableName("mean", "user"), init=0.5).init == 0.0


def test_a_written_config_reads_back() -> None:
    again = EmbeddingConfig.parse(CONFIG.model_dump(mode="json", exclude_none=True))
    assert again == CONFIG
    assert again.settings(TableName("mean", "tag")) == CONFIG.settings(TableName("mean", "tag"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lookups": {"wide": {}}}, r"embedding.lookups: no lookup 'wide'; known: history, mean, pooled"),
        ({"tables": {"mean/item": {}}}, r"embedding.tables: no table 'mean/item'; known: .*mean/tag"),
        ({"momentum": 0.5}, r"table 'pooled/user': momentum is for sgd and adagrad, not for rowwise_adagrad"),
        ({"tables": {"tag": {"momentum": 0.5, "optimizer": "adam"}}}, r"table 'pooled/tag': momentum .* not for adam"),
        ({"lookups": {"mean": {"l1": -1.0}}}, r"lookups.mean.l1 = -1.0: input should be greater than or equal to 0"),
    ],
)
def test_mistakes_are_named(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        embedding_tables(LOOKUPS, MANIFEST, EmbeddingConfig.parse(settings))
