"""Blocks of shards become dealt rows, each value in its place; a wrong id is named where it is."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.core.errors import UserError
from dist_rec.core.schema import Column, Manifest, Table
from dist_rec.data.columns import Block, Layout, Rows, decode, join
from dist_rec.data.shards import arrow_schema

TABLES = {"x": 7, "y": 300}
MANIFEST = Manifest(
    columns=(
        Column(name="label", kind="label"),
        Column(name="a", kind="dense"),
        Column(name="x", kind="categorical", table="x"),
        Column(name="b", kind="dense"),
        Column(name="y", kind="categorical", table="y"),
    ),
    tables={name: Table(rows=rows) for name, rows in TABLES.items()},
    splits={},
)
LAYOUT = Layout.of(MANIFEST)
FIRST_ROW = 10
sizes = st.lists(st.integers(1, 50), min_size=1, max_size=4)


def columns_of(rows: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    numbers = {name: random.random(rows, np.float32) for name in ("label", "a", "b")}
    return numbers | {name: random.integers(0, size, rows, np.int32) for name, size in TABLES.items()}


def blocks(columns: dict[str, np.ndarray], sizes: list[int]) -> list[Rows]:
    """Decoded blocks of these sizes, of shard `0`, `1`, … each."""
    table = pa.table({name: pa.array(values) for name, values in columns.items()}).select(
        [column.name for column in MANIFEST.columns]
    )
    record = table.cast(arrow_schema(MANIFEST.columns)).combine_chunks().to_batches()[0]
    starts = np.cumsum(sizes) - sizes
    return [
        decode(Block(record.slice(int(start), size), str(number), FIRST_ROW), LAYOUT, MANIFEST)
        for number, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]


@given(sizes, st.integers(0, 99), st.booleans())
def test_rows_are_dealt(sizes: list[int], seed: int, shuffle: bool) -> None:
    columns = columns_of(sum(sizes), seed)
    permutation = np.random.default_rng(seed).permutation(sum(sizes)) if shuffle else None
    rows = join(blocks(columns, sizes), permutation)
    order = slice(None) if permutation is None else permutation
    np.testing.assert_array_equal(rows.floats, np.stack([columns[name][order] for name in ("a", "b", "label")], 1))
    np.testing.assert_array_equal(rows.categorical, np.stack([columns[name][order] for name in ("x", "y")], 1))


@given(sizes, st.data(), st.sampled_from(["x", "y"]), st.booleans())
def test_a_wrong_id_is_named(sizes: list[int], data: st.DataObject, feature: str, negative: bool) -> None:
    columns = columns_of(sum(sizes), 0)
    place = data.draw(st.integers(0, sum(sizes) - 1))
    wrong = columns[feature][place] = -1 if negative else TABLES[feature]
    ends = np.cumsum(sizes)
    piece = int(np.searchsorted(ends, place, side="right"))
    row = FIRST_ROW + place - (ends[piece] - sizes[piece])
    said = (
        f"^{piece}, row {row}: feature '{feature}' has id {wrong}, outside its table '{feature}' of {TABLES[feature]} "
    )
    with pytest.raises(UserError, match=said):
        blocks(columns, sizes)
