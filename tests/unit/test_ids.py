"""One id, one text: the same values in every type of a file are the same ids."""

import datetime
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.data.shards import Dataset
from dist_rec.prepare import engine
from dist_rec.prepare.ids import id_text, recoded
from dist_rec.prepare.table.chunks import Chunk
from dist_rec.prepare.table.schema import Label, TableSchema
from dist_rec.prepare.table.source import TableFiles
from dist_rec.prepare.table.tokens import labels_of

Values = list[int | None]
INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
TYPES: dict[str, Callable[[Values], pa.Array]] = {
    **{str(of): partial(pa.array, type=of) for of in INTEGERS},
    "float16": lambda values: pa.array(values, pa.float32()).cast(pa.float16()),
    "float32": lambda values: pa.array(values, pa.float32()),
    "float64": lambda values: pa.array([float("nan") if value is None else value for value in values], pa.float64()),
    "decimal": lambda values: pa.array([decimal(value) for value in values], pa.decimal128(20, 3)),
    "string": lambda values: pa.array([None if value is None else f" {value}" for value in values], pa.string()),
    "spelt": lambda values: pa.array([None if value is None else f"{value}.00" for value in values], pa.string()),
    "large_string": lambda values: pa.array(values, pa.int32()).cast(pa.large_string()),
}
TIMES: dict[str, pa.DataType] = {
    "date32": pa.date32(),
    "date64": pa.date64(),
    **{unit: pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")},
}
SCHEMA = TableSchema.parse(
    {
        "label": {"column": "label"},
        "categorical": {"id": {}, "hashed": {"column": "id", "buckets": 50}},
    }
)
TRAIN: Values = [7, 1, None, 7, 100, 0]
TEST: Values = [100, 0, 1, None, 9, 7]


def texts(values: pa.Array) -> list[str | None]:
    text = id_text(values)
    assert text is not None and text.type == pa.string()
    return text.to_pylist()


def decimal(value: int | None) -> Decimal | None:
    return None if value is None else Decimal(value)


@given(st.lists(st.none() | st.integers(0, 127)), st.sampled_from(sorted(TYPES)))
def test_a_whole_number_is_its_digits_in_every_type(values: Values, of: str) -> None:
    expected = [None if value is None else str(value) for value in values]
    assert texts(TYPES[of](values)) == expected


@given(st.lists(st.none() | st.integers(-(2**53), 2**53)))
def test_large_and_negative_whole_numbers_too(values: Values) -> None:
    expected = [None if value is None else str(value) for value in values]
    for of in (pa.int64(), pa.float64(), pa.decimal128(38, 5)):
        written = [decimal(value) for value in values] if pa.types.is_decimal(of) else values
        assert texts(pa.array(written, of)) == expected


@given(st.lists(st.none() | st.datetimes(datetime.datetime(1960, 1, 1), datetime.datetime(2100, 1, 1))))
def test_a_time_is_one_text_in_every_unit(times: list[datetime.datetime | None]) -> None:
    seconds = [None if time is None else time.replace(microsecond=0) for time in times]
    micros, coarse = pa.array(times, pa.timestamp("us")), pa.array(seconds, pa.timestamp("s"))
    assert id_text(micros.cast(pa.timestamp("ns"))) == id_text(micros)
    for unit in ("ms", "us", "ns"):
        assert id_text(coarse.cast(pa.timestamp(unit))) == id_text(coarse)
    days = [None if time is None else time.date() for time in times]
    of_types = [texts(pa.array(days, pa.date32()).cast(of)) for of in TIMES.values()]
    assert all(text == of_types[0] for text in of_types)
    assert len({*times}) == len({*texts(micros)})


def test_text_is_text() -> None:
    kept = ["02", "+2", "2e0", "2.50", ".0", "2.", "1.0.0", "a.0", "0x2.0", "true", "-"]
    assert texts(pa.array(kept)) == kept
    assert texts(pa.array(["-0.0", "-2.0", "2.000", "2.0\n"])) == ["0", "-2", "2", "2"]


def test_other_numbers() -> None:
    floats = pa.array([2.5, 1e20, 1.5e300, float("inf"), 2.0**63, -0.0])
    whole = f"{1.5e300:.0f}"
    assert texts(floats) == ["2.5", "1" + "0" * 20, whole, "inf", str(2**63), "0"]
    assert texts(pa.array([Decimal("2.50"), Decimal("-0.10"), Decimal(300)])) == ["2.5", "-0.1", "300"]
    assert texts(pa.array([True, False, None])) == ["1", "0", None]
    assert id_text(pa.array([b"2"])) is None and id_text(pa.array([datetime.timedelta(1)])) is None


def write(path: Path, id_N: pa.Array | list[str]) -> str:
    """A Parquet file, or CSV for text."""
    label = [float(row % 2) for row in range(len(id_N))]
    if isinstance(id_N, list):
        path.write_text("label,id\n" + "".join(f"{y},{id}\n" for y, id in zip(label, id_N, strict=True)))
    else:
        pq.write_table(pa.table({"label": label, "id": id_N}), path)
    return str(path)


def forms(values: Values) -> dict[str, Any]:
    found: dict[str, Any] = {name: make(values) for name, make in TYPES.items()}
    found["dictionary"] = found["int64"].dictionary_encode()
    found["csv"] = ["" if value is None else str(value) for value in values]
    found["csv, .0"] = ["" if value is None else f"{value}.0" for value in values]
    return found


def contents(folder: Path) -> list[Any]:
    """Checksums of all shards."""
    splits = Dataset(folder).manifest.splits.values()
    return [[block.checksum for shard in split.shards for block in shard.blocks] for split in splits]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_pair_of_types_gives_the_same_shards(tmp_path: Path, kind: str) -> None:
    train, test = (
        {name: value for name, value in forms(values).items() if isinstance(value, list) == (kind == "csv")}
        for values in (TRAIN, TEST)
    )
    schema = SCHEMA.model_copy(update={"source": SCHEMA.source.model_copy(update={"format": kind})})
    paths = {
        (split, name): write(tmp_path / f"{split}-{name}", value)
        for split, of in (("train", train), ("test", test))
        for name, value in of.items()
    }
    found = {}
    for first in train:
        for second in test:
            files = {"train": [paths["train", first]], "test": [paths["test", second]]}
            out = tmp_path / "out" / f"{first}-{second}"
            engine.prepare(TableFiles(files, None, schema), out, 1)
            found[first, second] = contents(out)
    different = [pair for pair, content in found.items() if content != found[next(iter(train)), next(iter(test))]]
    assert not different


@pytest.mark.parametrize(
    ("labels", "positive"),
    [
        (pa.array([True, False, True]), "true"),
        (pa.array([True, False, True]), "1"),
        (pa.array([1.0, 0.0, 1.0]), "1.0"),
        (pa.array([1.0, 0.0, 1.0]), "1"),
        (pa.array(["1.0", "0.0", "1.0"]), "1"),
        (pa.array(["true", "false", "true"]), "true"),
    ],
)
def test_positive_labels_are_found_however_they_are_written(labels: pa.Array, positive: str) -> None:
    chunk = Chunk("file", {"label": labels}, pa.array([], pa.string()), str)
    assert labels_of(chunk, Label(column="label", positive=(positive,))).tolist() == [1, 0, 1]


def test_values_that_become_one_text_get_one_code() -> None:
    for values in (["2", "b", "2.0", "2"], [2.0, 3.5, 2.0], [7, 8, 7], ["a", "b", "a"]):
        encoded = pa.array(values).dictionary_encode()
        found = recoded(encoded, id_text(encoded.dictionary))
        assert found.to_pylist() == texts(pa.array(values))
        assert len({*found.dictionary.to_pylist()}) == len(found.dictionary)
