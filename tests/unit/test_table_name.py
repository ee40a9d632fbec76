"""Which parameters are tables, and which: names in models and checkpoints."""

import pytest

from dist_rec.core.table_name import TableName, by_table


@pytest.mark.parametrize(
    ("parameter", "table"),
    [
        ("model.embeddings.bags.embedding_bags.pooled/user.weight", TableName("pooled", "user")),
        ("weighted_bags.embedding_bags.mean/tag.weight", TableName("mean", "tag")),
        ("embeddings.sequences.embeddings.history/a/b.weight", TableName("history", "a/b")),
        ("embedding_bags.pooled/user.weight", TableName("pooled", "user")),
        ("model.catalog.weight", None),
        ("model.objective.head.embeddings.weight", None),
        ("model.objective.head.towers.left/right.weight", None),
        ("optimizer.embeddings.bags.embedding_bags.pooled/user.weight.momentum1", None),
    ],
)
def test_of_a_parameter(parameter: str, table: TableName | None) -> None:
    assert TableName.of_parameter(parameter) == table
    assert by_table([(parameter, 3)]) == ({} if table is None else {table: 3})


@pytest.mark.parametrize("text", ["pooled/user", "pooled/a/b"])
def test_what_is_written_reads_back(text: str) -> None:
    name = TableName.parse(text)
    assert (str(name), name.lookup) == (text, "pooled")
