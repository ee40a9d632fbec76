"""What a manifest says of its data."""

import pytest

from dist_rec.core.errors import UserError
from dist_rec.core.schema import Column, Manifest, Split, Table

SPLIT = Split(rows=10, positives=3, shards=())


def manifest(rows: int = 5, **split: int) -> Manifest:
    return Manifest(
        columns=(Column(name="label", kind="label"), Column(name="city", kind="categorical", table="city")),
        tables={"city": Table(rows=rows)},
        splits={"train": SPLIT.model_copy(update=split)},
    )


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (manifest(), ()),
        (manifest(rows=1), ("table 'city' has only the row of unknown ids: its features carry no information",)),
        (manifest(positives=0), ("the label is 0 in all 10 training rows",)),
        (manifest(positives=10), ("the label is 1 in all 10 training rows",)),
    ],
)
def test_warnings(odd: Manifest, said: tuple[str, ...]) -> None:
    assert odd.warnings() == said


def test_a_column_of_a_table_that_is_not_listed() -> None:
    text = manifest().model_copy(update={"tables": {}}).model_dump_json()
    with pytest.raises(UserError, match="here: column 'city' indexes table 'city', which is not listed"):
        Manifest.from_json(text, "here")
