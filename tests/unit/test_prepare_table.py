"""Tables by a schema: equal to the slow way, whatever the form of the files; bad schemas and bad rows by name."""

import csv
import gzip
import json
import math
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dist_rec.cli.main import app
from dist_rec.core.errors import UserError
from dist_rec.data.shards import Dataset
from dist_rec.prepare import engine
from dist_rec.prepare import lines as lines_module
from dist_rec.prepare.table import chunks as chunks_module
from dist_rec.prepare.table import fit as fit_module
from dist_rec.prepare.table.chunks import Chunk
from dist_rec.prepare.table.encode import transformed
from dist_rec.prepare.table.fit import NumberFit
from dist_rec.prepare.table.schema import Dense, TableSchema
from dist_rec.prepare.table.source import TableFiles
from dist_rec.prepare.table.tokens import Buckets

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("DIST_REC_DATA", ROOT.parent / "shared" / "data")) / "adult"
COLUMNS = ("label", "age", "income", "city", "item", "genres", "history")
SCHEMA: dict[str, Any] = {
    "source": {"missing": ["", "?"]},
    "label": {"column": "label", "positive": ["yes", "Yes"]},
    "dense": {
        "age": {"transform": "quantile", "quantiles": 7, "missing": 0.5},
        "income": {},
        "log_income": {"column": "income", "transform": "log1p"},
        "plain": {"column": "income", "transform": "identity", "missing": -1},
    },
    "categorical": {
        "city": {"min_count": 3},
        "town": {"column": "city", "buckets": 5},
        "age_group": {"column": "age", "boundaries": [18, 25.5, 60]},
        "item": {"table": "items"},
    },
    "bag": {"genres": {"separator": "|", "min_count": 2}},
    "sequence": {"history": {"separator": " ", "table": "items"}},
    "cross": {"city_x_age": {"of": ["city", "age_group"]}, "hashed": {"of": ["item", "city"], "buckets": 11}},
}


def prepare(
    schema: TableSchema | None, files: Any, out: Path, fitted_from: Path | None = None, workers: int | None = None
) -> engine.Prepared:
    return engine.prepare(TableFiles(files, fitted_from, schema), out, workers)


def schema(**changes: Any) -> TableSchema:
    return TableSchema.parse({**SCHEMA, **changes})


def random_rows(seed: int, rows: int) -> list[dict[str, str]]:
    rng = random.Random(seed)
    item = lambda: str(int(rng.paretovariate(0.7)))  # noqa: E731
    return [
        {
            "label": rng.choice(["yes", "Yes", "no"]),
            "age": rng.choice(["", "?", *map(str, range(10, 90))]),
            "income": rng.choice(["", "-3", "0", f"{rng.lognormvariate(3, 2):.3f}"]),
            "city": rng.choice(["", "?", "Ulm", "São Paulo", 'New, "York"', f"c{rng.randrange(40)}"]),
            "item": item(),
            "genres": "|".join(
                rng.choice(["", "?", "a", "b", f"g{rng.randrange(30)}"]) for _ in range(rng.randrange(4))
            ),
            "history": " ".join(item() for _ in range(rng.randrange(4))),
        }
        for _ in range(rows)
    ]


def write_csv(path: Path, rows: list[dict[str, str]], separator: str = ",", *, header: bool = True) -> str:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=separator)
        if header:
            writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_parquet(path: Path, rows: list[dict[str, str]]) -> str:
    """Typed: numbers, dictionaries and lists."""

    def number(text: str) -> float | None:
        return None if text in ("", "?") else float(text)

    def ids(text: str, separator: str) -> list[str] | None:
        return text.split(separator) if text else None

    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    table = {
        "label": pa.array(columns["label"]).dictionary_encode(),
        "age": pa.array([number(text) for text in columns["age"]]),
        "income": pa.array([number(text) for text in columns["income"]], pa.float64()),
        "city": pa.array(columns["city"], pa.large_string()),
        "item": pa.array([int(text) for text in columns["item"]], pa.int32()),
        "genres": pa.array([ids(text, "|") for text in columns["genres"]], pa.list_(pa.string())),
        "history": pa.array(
            [[int(i) for i in text.split()] or None for text in columns["history"]], pa.list_(pa.int64())
        ),
    }
    pq.write_table(pa.table(table), path, row_group_size=17)
    return str(path)


def tokens(row: dict[str, str], name: str) -> list[str]:
    """The slow way: of a feature with a vocabulary."""
    if name == "genres":
        return [token for token in row["genres"].split("|") if token not in ("", "?")]
    if name == "history":
        return row["history"].split()
    if name == "city_x_age":
        return [f"{row['city']}\x1f{group(row) - 1}"] if known(row["city"]) and group(row) else []
    return [row[name]] if known(row[name]) else []


def known(text: str) -> bool:
    return text not in ("", "?")


def group(row: dict[str, str]) -> int:
    return 1 + sum(float(row["age"]) >= boundary for boundary in (18, 25.5, 60)) if known(row["age"]) else 0


def fit_by_hand(rows: list[dict[str, str]]) -> dict[str, dict[str, int]]:
    tables = {"city": ("city",), "items": ("item", "history"), "genres": ("genres",), "city_x_age": ("city_x_age",)}
    vocabularies = {}
    for table, names in tables.items():
        counts = Counter(token for row in rows for name in names for token in tokens(row, name))
        least = {"city": 3, "genres": 2}.get(table, 1)
        kept = sorted((token for token in counts if counts[token] >= least), key=lambda token: (-counts[token], token))
        vocabularies[table] = {token: place for place, token in enumerate(kept, start=1)}
    return vocabularies


def ids_by_hand(rows: list[dict[str, str]], fitted: dict[str, dict[str, int]]) -> dict[str, list[Any]]:
    def one(name: str, table: str) -> list[int]:
        return [next((fitted[table].get(token, 0) for token in tokens(row, name)), 0) for row in rows]

    def several(name: str, table: str) -> list[list[int]]:
        return [[fitted[table].get(token, 0) for token in tokens(row, name)] for row in rows]

    return {
        "label": [float(row["label"] != "no") for row in rows],
        "city": one("city", "city"),
        "item": one("item", "items"),
        "age_group": [group(row) for row in rows],
        "city_x_age": one("city_x_age", "city_x_age"),
        "genres": several("genres", "genres"),
        "history": several("history", "items"),
    }


def numbers_by_hand(rows: list[dict[str, str]], train: list[dict[str, str]]) -> dict[str, list[float]]:
    def floats(of: list[dict[str, str]], name: str) -> list[float]:
        return [float(row[name]) if known(row[name]) else math.nan for row in of]

    age = sorted(x for x in floats(train, "age") if x == x)
    boundaries = [age[math.ceil(len(age) * i / 7) - 1] for i in range(1, 7)]
    income = [x for x in floats(train, "income") if x == x]
    return {
        "age": [sum(x >= b for b in boundaries) / 6 if x == x else 0.5 for x in floats(rows, "age")],
        "income": [(x - np.mean(income)) / np.std(income) if x == x else 0 for x in floats(rows, "income")],
        "log_income": [math.log1p(max(x, 0)) if x == x else 0 for x in floats(rows, "income")],
        "plain": [x if x == x else -1 for x in floats(rows, "income")],
    }


def read(folder: Path, split: str) -> dict[str, list[Any]]:
    data = Dataset(folder)
    return pa.Table.from_batches([data.read_block(*block[:2]) for block in data.blocks(split)]).to_pydict()


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 700)
    monkeypatch.setattr(chunks_module, "PARQUET_ROWS", 13)
    monkeypatch.setattr(fit_module, "WAITING_VALUES", 10)


TRAIN, MORE, TEST = random_rows(0, 150), random_rows(1, 60), random_rows(2, 90)


@pytest.mark.usefixtures("small_chunks")
def test_a_table_equals_the_slow_way(tmp_path: Path) -> None:
    files = {
        "train": [write_csv(tmp_path / "a.csv", TRAIN), write_csv(tmp_path / "b.csv.gz", MORE)],
        "test": [write_csv(tmp_path / "c.csv", TEST)],
    }
    prepared = prepare(schema(), files, tmp_path / "out", workers=1)
    train = TRAIN + MORE
    fitted = fit_by_hand(train)
    for split, rows in (("train", train), ("test", TEST)):
        columns = read(tmp_path / "out", split)
        for name, ids in ids_by_hand(rows, fitted).items():
            assert columns[name] == ids, name
        for name, numbers in numbers_by_hand(rows, train).items():
            np.testing.assert_allclose(columns[name], numbers, rtol=1e-6, atol=1e-6, err_msg=name)
        for name, parts in (("town", ("city",)), ("hashed", ("item", "city"))):
            assert [id == 0 for id in columns[name]] == [not all(known(row[of]) for of in parts) for row in rows]
            by_value = {tuple(row[of] for of in parts): id for row, id in zip(rows, columns[name], strict=True)}
            assert [by_value[tuple(row[of] for of in parts)] for row in rows] == columns[name]
    manifest = Dataset(tmp_path / "out").manifest
    assert manifest == prepared.manifest
    assert {table: of.rows for table, of in manifest.tables.items()} == {
        "town": 6, "age_group": 5, "hashed": 12, **{table: len(rows) + 1 for table, rows in fitted.items()}
    }  # fmt: skip
    assert manifest.splits["test"].positives == sum(row["label"] != "no" for row in TEST)
    assert not prepared.warnings


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("form", ["gz", "tab", "no header", "comments", "parquet"])
def test_the_form_of_the_files_does_not_matter(tmp_path: Path, form: str) -> None:
    source, changed, rows = dict(SCHEMA["source"]), dict(SCHEMA), TRAIN
    if form == "gz":
        path = write_csv(tmp_path / "other.gz", TRAIN)
    elif form == "tab":
        path = write_csv(tmp_path / "other", TRAIN, "\t")
        source["separator"] = "\t"
    elif form == "no header":
        path = write_csv(tmp_path / "other", TRAIN, header=False)
        source |= {"header": False, "names": list(COLUMNS)}
    elif form == "comments":
        rows = [row | {"city": row["city"].replace('New, "York"', "New York")} for row in TRAIN]
        path = write_csv(tmp_path / "other", rows)
        lines = Path(path).read_text().replace(",", " , ").splitlines()
        lines[70:70] = ["", "#1,2", ""]
        Path(path).write_text("two lines,\nabout it\n#\n" + "\r\n".join(lines))
        source |= {"skip_lines": 2, "comment": "#", "separator": " , "}
    else:
        path = write_parquet(tmp_path / "other", TRAIN)
        source["format"] = "parquet"
        changed |= {"bag": {"genres": {"min_count": 2}}, "sequence": {"history": {"table": "items"}}}
    prepare(schema(), {"train": [write_csv(tmp_path / "a.csv", rows)]}, tmp_path / "expected", workers=1)
    prepare(TableSchema.parse({**changed, "source": source}), {"train": [path]}, tmp_path / "out", workers=1)
    assert read(tmp_path / "out", "train") == read(tmp_path / "expected", "train")


def test_a_fit_is_applied_to_later_files(tmp_path: Path) -> None:
    train, test = [write_csv(tmp_path / "a.csv", TRAIN)], [write_csv(tmp_path / "c.csv", TEST)]
    prepare(schema(), {"train": train, "test": test}, tmp_path / "all", workers=1)
    prepare(schema(), {"train": train}, tmp_path / "fit", workers=1)
    prepare(None, {"test": test}, tmp_path / "later", fitted_from=tmp_path / "fit", workers=1)
    prepare(schema(), {"test": test}, tmp_path / "latest", fitted_from=tmp_path / "later", workers=1)
    for folder in ("later", "latest"):
        assert read(tmp_path / folder, "test") == read(tmp_path / "all", "test")
        assert Dataset(tmp_path / folder).manifest.tables == Dataset(tmp_path / "all").manifest.tables
        assert Dataset(tmp_path / folder).manifest.transform == Dataset(tmp_path / "all").manifest.transform
    with pytest.raises(UserError, match="the schema differs from that of --fitted-from"):
        prepare(schema(cross={}), {"test": test}, tmp_path / "out", fitted_from=tmp_path / "fit")
    (tmp_path / "fit" / "vocabulary" / "city.parquet").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"city\.parquet is missing or damaged"):
        prepare(None, {"test": test}, tmp_path / "out", fitted_from=tmp_path / "fit")


def test_the_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    files = {"train": [write_csv(tmp_path / "a.csv", TRAIN), write_csv(tmp_path / "b.csv", MORE)]}
    for workers in (1, 2):
        prepare(schema(valid={"share": 0.3}), files, tmp_path / str(workers), workers=workers)
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "2")


@pytest.mark.usefixtures("small_chunks")
def test_held_out_rows_are_chosen_by_their_place_and_teach_nothing(tmp_path: Path) -> None:
    files = {"train": [write_csv(tmp_path / "a.csv", TRAIN), write_csv(tmp_path / "b.csv", MORE)]}
    plain = {"column": "income", "transform": "identity", "missing": -1}
    settings = schema(dense={"plain": plain}, valid={"share": 0.4, "seed": 3})
    manifest = prepare(settings, files, tmp_path / "out", workers=1).manifest
    train, valid = read(tmp_path / "out", "train"), read(tmp_path / "out", "valid")
    assert sorted(train["plain"] + valid["plain"]) == sorted(
        np.float32(number) for number in numbers_by_hand(TRAIN + MORE, TRAIN)["plain"]
    )
    assert 55 < len(valid["plain"]) < 115
    seen = {id for ids in (train["item"], *train["history"]) for id in ids}
    assert seen == set(range(1, manifest.rows_of("item")))
    assert 0 in valid["item"]
    other = prepare(settings.model_copy(update={"valid": None}), files, tmp_path / "none", workers=1).manifest
    assert list(other.splits) == ["train"]
    given = prepare(settings, {**files, "valid": [write_csv(tmp_path / "c", TEST)]}, tmp_path / "given", workers=1)
    assert given.manifest.splits["train"].rows == 210
    assert given.manifest.splits["valid"].rows == 90


def test_labels_without_positive_values_are_numbers(tmp_path: Path) -> None:
    files = {"train": [write_csv(tmp_path / "a.csv", [row | {"label": f"{len(row['city'])}.5"} for row in TRAIN])]}
    manifest = prepare(schema(label={"column": "label"}), files, tmp_path / "out", workers=1).manifest
    assert read(tmp_path / "out", "train")["label"] == [len(row["city"]) + 0.5 for row in TRAIN]
    assert manifest.splits["train"].positives is None


def test_hashes_are_the_same_everywhere() -> None:
    assert Buckets(1000)(pa.array(["a", None, "São Paulo", "a", ""])).tolist() == [720, 0, 116, 720, 139]


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60), st.integers(2, 20))
def test_quantiles_are_the_cumulative_distribution(values: list[float], quantiles: int) -> None:
    value_N = np.array(values)
    dense = Dense(transform="quantile", quantiles=quantiles)
    parameters = NumberFit.of(value_N, value_N).parameters(dense)
    x_N = transformed(value_N, dense, parameters)
    assert x_N.min() >= 0
    assert x_N[value_N.argmax()] == 1
    assert (np.diff(x_N[np.argsort(value_N, kind="stable")]) >= 0).all()
    share_N = (value_N[None] <= value_N[:, None]).mean(1)
    quantile_N = np.floor(share_N * quantiles + 1e-9).clip(max=quantiles - 1)
    np.testing.assert_allclose(x_N, quantile_N / (quantiles - 1), rtol=1e-6)


@given(st.lists(st.lists(st.integers(-9, 9).map(lambda n: n / 7 + 1000), max_size=20), min_size=1, max_size=5))
def test_moments_of_parts_are_those_of_the_whole(parts: list[list[float]]) -> None:
    total = NumberFit()
    for part in parts:
        total += NumberFit.of(np.array(part), np.array(part))
    whole = np.concatenate(parts)
    mean, deviation = total.parameters(Dense())
    assert mean == pytest.approx(whole.mean() if whole.size else 0, abs=1e-6)
    assert deviation == pytest.approx(1 if len(set(whole)) < 2 else whole.std())


def test_quantiles_of_many_rows_are_those_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_module, "SAMPLE_ROWS", 5000)
    rng, total = np.random.default_rng(0), NumberFit()
    for _ in range(10):
        total += NumberFit.of(rng.exponential(size=3000), rng.random(3000))
    assert total.value_K.size == 5000
    (median,) = total.parameters(Dense(transform="quantile", quantiles=2))
    assert median == pytest.approx(math.log(2), abs=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lable": {}}, "unknown key 'lable'; known: bag, categorical, cross, dense, label, sequence, source, valid"),
        ({"dense": {"age": {"transfrom": "log1p"}}}, "unknown key 'dense.age.transfrom'; known: column, missing"),
        ({"cross": {"x": {"of": ["city", "age"]}}}, "cross.x: 'age' is not a categorical feature; known: city, to"),
        ({"cross": {"x": {"of": ["city"]}}}, "cross.x.of"),
        ({"categorical": {"age": {}}}, "categorical.age has the name of dense.age; rename one and set its column"),
        ({"categorical": {"label": {}}}, "categorical.label has the name of the label"),
        ({"categorical": {"a": {"min_count": 2, "buckets": 9}}}, "min_count is for a vocabulary and buckets for hash"),
        ({"categorical": {"a": {"boundaries": [2, 1]}}}, "boundaries must ascend"),
        ({"categorical": {"a": {"boundaries": [2], "buckets": 3}}}, "boundaries define a table by themselves"),
        ({"categorical": {"a/b": {}}}, "a/b"),
        ({"bag": {"genres": {"table": "items", "buckets": 3}}}, "item and genres share a table; give both the same"),
        ({"source": {"separator": "::"}}, "separator '::' must be one character"),
        ({"source": {"header": False}}, "either a header names the columns or names does"),
        ({"valid": {"share": 1.0}}, "valid.share"),
    ],
)
def test_a_bad_schema_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        schema(**{"cross": {}, **changes})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_schema_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    path.write_text('[label]\ncolumn = "a"\n[dense.x]\n[cross.y]\nof = ["a", "b"]\n')
    with pytest.raises(UserError) as caught:
        TableSchema.read(path)
    assert str(caught.value) == f"{path}: cross.y: 'a' is not a categorical feature; known: none"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("yes,20,1,Ulm,1,a", "line 120 has 6 fields between ',', not 7"),
        ("yes,20,1,Ulm,1,a,1,2", "line 120 has 8 fields between ',', not 7"),
        ("yes,old,1,Ulm,1,a,1", "line 120: age is 'old', not a finite number"),
        ("yes,20,inf,Ulm,1,a,1", "line 120: income is 'inf', not a finite number"),
        ("?,20,1,Ulm,1,a,1", "line 120: the label label is missing; remove the row"),
    ],
)
@pytest.mark.parametrize("held_out", [None, {"share": 0.5}])
@pytest.mark.parametrize("block", [700, 1 << 20])
def test_a_bad_line_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str, held_out: Any, block: int
) -> None:
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", block)
    path = Path(write_csv(tmp_path / "bad.csv", TRAIN))
    lines = path.read_text().splitlines()
    lines[50], lines[119] = "", line
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as caught:
        prepare(schema(valid=held_out), {"train": [str(path)]}, tmp_path / "out", workers=1)
    assert str(caught.value).endswith(message)
    assert str(caught.value).startswith(str(path))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


def test_bad_files_are_named(tmp_path: Path) -> None:
    def refused(content: bytes | str, message: str, **changes: Any) -> None:
        path = tmp_path / "bad"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=message) as caught:
            prepare(schema(**changes), {"train": [str(path)]}, tmp_path / "out", workers=1)
        assert "\n" not in str(caught.value)

    header = ",".join(COLUMNS)
    refused("", "bad holds no rows")
    refused(header, "bad holds no rows")
    refused(f"\n{header}\n\n\n", "bad holds no rows")
    refused("label,age,income\nyes,1,2", r"bad has no column 'city', which \[categorical.city\] reads; it has label, a")
    refused(f"{header},age\n", "the header has the column 'age' twice")
    refused(f"{header}\nyes,1,2,\xff,1,a,1".encode("latin-1"), "bad, line 2 is not UTF-8")
    refused(f"\ufeff{header}\n", "bad holds no rows")
    refused(f'{header}\nyes,1,2,"Ulm,1,a,1', "bad, line")
    good = "yes,1,2,Ulm,1,a,1\n"
    refused(f'{header}\n{good}yes,1,2,"Ulm,1,a,1\n{good}{good}', "bad, line 3 has a quote that is not closed")
    refused(f'{header}\n{good}yes,1,2,"Ulm,1,a,1\n{good}yes,1,2,"Ulm,1,a,1\n', "bad, line 3 has a quote that is not")
    refused(f'{header}\n{good}yes,1,2,"U\nlm",1,a,1\n{good}', "bad, line 3 has a quote that is not closed")
    refused(f"{header}\n{good}yes,1,2,U\rlm,1,a,1\n", "bad, line 3 has a carriage return")
    refused(f"{header}\n{good}".replace("\n", "\r"), "bad, line 1 has a carriage return")
    plain = {"plain": {"column": "income", "transform": "identity"}}
    large = r"bad, line 3: plain is 1e\+39, beyond the range of float32"
    refused(f"{header}\n{good}yes,1,1e39,Ulm,1,a,1\n", large, dense=plain)
    refused(gzip.compress(header.encode() * 99)[:-9], "bad is a truncated gzip file")
    refused("no Parquet", "bad is not a readable Parquet file", source={"format": "parquet"})


def test_wrong_types_of_parquet_are_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a", TRAIN)

    def refused(message: str, **changes: Any) -> None:
        settings = {
            "source": {"format": "parquet"},
            "categorical": {"city": {}},
            "bag": {},
            "sequence": {},
            "cross": {},
        }
        with pytest.raises(UserError, match=message):
            prepare(schema(**{**settings, **changes}), {"train": [path]}, tmp_path / "out", workers=1)

    refused("column 'genres' holds list<.*string>, not numbers", dense={"genres": {}})
    refused("column 'genres' holds list<.*>; read it as a bag", categorical={"genres": {}})
    refused("column 'city' holds large_string; give it a separator", bag={"tags": {"column": "city"}})
    refused("column 'genres' holds list<.*>; remove its separator", bag={"genres": {"separator": "|"}})
    refused("a, row [0-9]+: city is '.*', not a finite number", dense={"x": {"column": "city"}})


def test_a_part_of_a_parquet_table_may_hold_nothing(tmp_path: Path) -> None:
    """Writers give a column without any value the type null; large integers are no reason to refuse one."""
    nanoseconds = 1_700_000_000_000_000_001
    columns = {"y": [0, 1], "time": [nanoseconds, None], "city": ["a", "b"]}
    pq.write_table(pa.table(columns), tmp_path / "0.parquet")
    pq.write_table(pa.table(columns | {"time": [None, None], "city": [None, None]}), tmp_path / "1.parquet")
    of = {
        "source": {"format": "parquet"},
        "label": {"column": "y"},
        "dense": {"time": {"transform": "identity", "missing": -1}},
        "categorical": {"city": {}},
    }
    prepare(TableSchema.parse(of), {"train": [str(tmp_path / "*.parquet")]}, tmp_path / "out", workers=1)
    train = read(tmp_path / "out", "train")
    assert train["time"] == [pytest.approx(nanoseconds), -1, -1, -1]
    assert train["city"] == [1, 2, 0, 0]
    twice = pa.Table.from_arrays([pa.array([0.0, 1.0])] * 4, names=["y", "time", "city", "time"])
    pq.write_table(twice, tmp_path / "twice")
    with pytest.raises(UserError, match="twice has the column 'time' twice"):
        prepare(TableSchema.parse(of), {"train": [str(tmp_path / "twice")]}, tmp_path / "none", workers=1)


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    train = {"train": [write_csv(tmp_path / "a.csv", TRAIN)]}
    with pytest.raises(UserError, match="is in both --train and --test"):
        prepare(schema(), {**train, "test": train["train"]}, tmp_path / "out")
    one = {"train": [write_csv(tmp_path / "one.csv", TRAIN[:1])]}
    with pytest.raises(UserError, match=r"no training row is left; lower valid\.share"):
        prepare(schema(valid={"share": 0.999}), one, tmp_path / "out")
    with pytest.raises(UserError, match="no schema; give one"):
        prepare(None, train, tmp_path / "out")
    with pytest.raises(UserError, match="nothing to fit on; give --train"):
        prepare(schema(), {"test": train["train"]}, tmp_path / "out")
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        prepare(None, train, tmp_path / "out", fitted_from=tmp_path)


def test_the_command_sums_up_and_warns(tmp_path: Path) -> None:
    rows = [row | {"label": "no", "city": "", "age": "?"} for row in TRAIN]
    path = tmp_path / "schema.toml"
    path.write_text('[label]\ncolumn = "label"\npositive = ["yes"]\n[source]\nmissing = ["", "?"]\n'
                    "[dense.age]\n[categorical.city]\n[categorical.item]\n")  # fmt: skip
    arguments = ["prepare", "table", str(path), "--train", write_csv(tmp_path / "a.csv", rows), "--out"]
    ran = CliRunner().invoke(app, [*arguments, str(tmp_path / "out"), "--json"])
    assert ran.exit_code == 0, ran.output
    last = json.loads(ran.stdout.splitlines()[-1])
    assert last["splits"] == {"train": {"rows": 150, "click_rate": 0.0}}
    assert last["warnings"] == [
        "age is missing in every training row",
        "city is missing in every training row",
        "the label label is 0 in every training row",
        "table city has only the row of unknown ids: no value occurs min_count times",
    ]
    assert ran.stderr.count("warning: ") == 4


@pytest.mark.skipif(not DATA.exists(), reason="the real Adult rows are not here")
def test_real_adult(tmp_path: Path) -> None:
    files = {"train": [str(DATA / "adult.data.gz")], "test": [str(DATA / "adult.test.gz")]}
    adult = TableSchema.read(ROOT / "configs" / "data" / "adult.toml")
    prepared = prepare(adult, files, tmp_path / "out", workers=1)
    splits = prepared.manifest.splits
    assert splits["train"].rows + splits["valid"].rows == 32561
    assert (splits["train"].positives or 0) + (splits["valid"].positives or 0) == 7841
    assert (splits["test"].rows, splits["test"].positives) == (16281, 3846)
    assert prepared.manifest.rows_of("education") == 17
    assert not prepared.warnings


def test_names_of_columns_may_look_like_values(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\ufeff"NA" , 01,"a,b"\n\n1,2,x\n0,3,y\n')
    of = TableSchema.parse({
        "label": {"column": "NA"},
        "dense": {"number": {"column": "01", "transform": "identity"}},
        "categorical": {"text": {"column": "a,b"}},
    })  # fmt: skip
    prepare(of, {"train": [str(path)]}, tmp_path / "out", workers=1)
    assert read(tmp_path / "out", "train") == {"label": [1, 0], "number": [2, 3], "text": [1, 2]}


def listed(values: list[str | None], separator: str = ",") -> list[list[str]]:
    chunk = Chunk("file", {"tags": pa.array(values, pa.string())}, pa.array(["", "?"]), "row {}".format)
    text, lengths = chunk.lists("tags", separator)
    ends = np.cumsum(lengths)
    return [text[end - length : end].to_pylist() for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def test_text_in_brackets_is_a_list_in_json() -> None:
    values = ["[1, 2]", '["a", "b, c", null]', "[]", None, "3,4", "[2.0, true, 1.5]", "[x", "?"]
    wanted = [["1", "2"], ["a", "b, c"], [], [], ["3", "4"], ["2", "1", "1.5"], ["[x"], []]
    assert listed(values) == wanted
    assert listed(["[1 2]", "1 2"], "|") == [["[1 2]"], ["1 2"]]
    for wrong in ("[a, b]", "[[1], 2]", "['a']", '[{"a": 1}]', "[" * 9999 + "]" * 9999, f"[{10**400}]"):
        with pytest.raises(UserError, match=r"row 1: tags is .*, brackets without a list of numbers or text"):
            listed(["[1]", wrong])
