"""libFM's files to a prepared folder: what the lines say, line by line, and bad lines by name."""

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dist_rec.cli.main import app
from dist_rec.core.errors import UserError
from dist_rec.data.shards import Dataset
from dist_rec.prepare import engine
from dist_rec.prepare import lines as lines_module
from dist_rec.prepare.libfm.lines import read_rows
from dist_rec.prepare.libfm.source import LibFM

DATA = Path(os.environ.get("DIST_REC_DATA", Path(__file__).parents[3] / "shared" / "data")) / "frappe"
RANGES = ((100, 120), (0, 50), (60, 65))


def prepare(
    files: dict[str, list[str]],
    out: Path,
    label: Any = None,
    fitted_from: Path | None = None,
    workers: int | None = None,
) -> engine.Prepared:
    return engine.prepare(LibFM(files, fitted_from, label), out, workers)


def field_lines(seed: int, rows: int) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join([rng.choice(["-1", "1"]), *(f"{rng.randrange(low, high)}:1" for low, high in RANGES)])
        for _ in range(rows)
    ]


def bag_lines(seed: int, rows: int) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join([f"{rng.random():.3f}", *(f"{rng.randrange(40)}:{rng.random():.2f}" for _ in range(rng.randrange(4)))])
        for _ in range(rows)
    ]


def write(path: Path, lines: list[str]) -> str:
    content = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def read(folder: Path, split: str) -> dict[str, list[Any]]:
    data = Dataset(folder)
    return pa.Table.from_batches([data.read_block(*block[:2]) for block in data.blocks(split)]).to_pydict()


def parsed(line: str) -> tuple[float, list[tuple[int, float]]]:
    label, *entries = line.split()
    return float(label), [(int(entry.split(":")[0]), float(entry.split(":")[1])) for entry in entries]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 200)


@pytest.mark.usefixtures("small_blocks")
def test_places_become_columns_of_known_indices(tmp_path: Path) -> None:
    train, test = field_lines(0, 60), field_lines(1, 200)
    files = {"train": [write(tmp_path / "a", train)], "test": [write(tmp_path / "b.gz", test)]}
    manifest = prepare(files, tmp_path / "out", workers=1).manifest
    assert manifest.names("categorical") == ("field_0", "field_1", "field_2")
    for place in range(3):
        known = sorted({parsed(line)[1][place][0] for line in train})
        assert manifest.rows_of(f"field_{place}") == len(known) + 1
        row = {index: row for row, index in enumerate(known, start=1)}
        for split, lines in (("train", train), ("test", test)):
            expected = [row.get(parsed(line)[1][place][0], 0) for line in lines]
            assert read(tmp_path / "out", split)[f"field_{place}"] == expected
    assert read(tmp_path / "out", "test")["label"] == [parsed(line)[0] for line in test]
    assert 0 in read(tmp_path / "out", "test")["field_1"]
    assert manifest.splits["train"].positives is None


@pytest.mark.usefixtures("small_blocks")
def test_other_lines_become_weighted_bags(tmp_path: Path) -> None:
    train, test = bag_lines(0, 30), bag_lines(1, 90)
    files = {"train": [write(tmp_path / "a", train)], "test": [write(tmp_path / "b", test)]}
    manifest = prepare(files, tmp_path / "out", workers=1).manifest
    known = sorted({index for line in train for index, _ in parsed(line)[1]})
    row = {index: row for row, index in enumerate(known, start=1)}
    assert manifest.column("features").weights == "values"
    for split, lines in (("train", train), ("test", test)):
        columns = read(tmp_path / "out", split)
        assert columns["features"] == [[row.get(index, 0) for index, _ in parsed(line)[1]] for line in lines]
        assert [[round(value, 2) for value in values] for values in columns["values"]] == [
            [value for _, value in parsed(line)[1]] for line in lines
        ]


@pytest.mark.parametrize("odd", ["1 100:1 5:1", "1 100:1 5:1 61:1 70:1", "1 5:1 100:1 61:1"])
def test_one_row_of_another_form_makes_bags(tmp_path: Path, odd: str) -> None:
    train = write(tmp_path / "a", [*field_lines(0, 60), odd])
    manifest = prepare({"train": [train]}, tmp_path / "out", workers=1).manifest
    assert manifest.names("bag") == ("features",)
    assert manifest.column("features").weights is None


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("1 3:1 9:2\n-1 4:1 8:1\n", "there are values other than 1"),
        ("1 3:1 9:1\n-1 4:1\n", "rows differ in their number of entries"),
        ("1 3:1 5:1\n-1 4:1 2:1\n1 4:1 3:1\n", "the columns share indices"),
    ],
)
def test_a_bag_is_said_to_have_no_pairs(tmp_path: Path, lines: str, why: str) -> None:
    (tmp_path / "train").write_text(lines)
    prepared = prepare({"train": [str(tmp_path / "train")]}, tmp_path / "out", workers=1)
    (warning,) = prepared.warnings
    assert warning == f"{why}: all entries of a row form one bag, and pairs of them do not interact"


def test_clicks_and_their_share(tmp_path: Path) -> None:
    train = write(tmp_path / "a", ["-1 1:1", "0 2:1", "1 3:1", "1 1:1"])
    manifest = prepare({"train": [train]}, tmp_path / "out", "click", workers=1).manifest
    assert read(tmp_path / "out", "train")["label"] == [0, 0, 1, 1]
    assert manifest.splits["train"].positives == 2
    with pytest.raises(UserError, match=r"a2, line 4: the label 3 is not -1, 0 or 1; try --label rating"):
        prepare(
            {"train": [write(tmp_path / "a2", ["", "1 1:1", "", "3 1:1", ""])]}, tmp_path / "other", "click", workers=1
        )


def test_a_fit_is_applied_to_later_files(tmp_path: Path) -> None:
    train, test = [write(tmp_path / "a", field_lines(0, 60))], [write(tmp_path / "b", field_lines(1, 60))]
    prepare({"train": train, "test": test}, tmp_path / "all", "click", workers=2)
    prepare({"train": train}, tmp_path / "fit", "click", workers=1)
    prepare({"test": test}, tmp_path / "later", fitted_from=tmp_path / "fit", workers=1)
    assert read(tmp_path / "later", "test") == read(tmp_path / "all", "test")
    assert Dataset(tmp_path / "later").manifest.transform == Dataset(tmp_path / "all").manifest.transform
    for lines in (["1 1:1 2:1"], ["1 100:1 5:1 61:1", "1 100:1 5:2 61:1"]):
        odd = {"test": [write(tmp_path / "odd", lines)]}
        with pytest.raises(UserError, match=rf"odd, line {len(lines)} must have 3 entries of value 1, like"):
            prepare(odd, tmp_path / "odd_out", fitted_from=tmp_path / "fit", workers=1)
    with pytest.raises(UserError, match="--label cannot be combined with --fitted-from"):
        prepare({"test": test}, tmp_path / "no", "click", fitted_from=tmp_path / "fit")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x 1:1", "the label 'x' is not a number"),
        ("nan 1:1", "the label 'nan' is not a number"),
        ("1 5", "'5' is not index:value"),
        ("1 1:2:3", "'1:2:3' is not index:value"),
        ("1 -2:1", "'-2:1' is not index:value"),
        ("1 2:", "'2:' is not index:value"),
        ("1 2:inf", "'2:inf' is not index:value"),
        ("1 1.5:1", "'1.5:1' is not index:value"),
        ("1 2:1e99", "'2:1e99' is not index:value"),
    ],
)
@pytest.mark.usefixtures("small_blocks")
def test_a_bad_line_is_named_and_nothing_is_left(tmp_path: Path, line: str, message: str) -> None:
    lines = ["", *field_lines(0, 60)]
    lines[40] = line
    with pytest.raises(UserError) as caught:
        prepare({"train": [write(tmp_path / "bad", lines)]}, tmp_path / "out", workers=1)
    assert str(caught.value) == f"{tmp_path}/bad, line 41: {message}"
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_empty_files_and_files_twice_are_refused(tmp_path: Path) -> None:
    train, empty = write(tmp_path / "a", field_lines(0, 5)), write(tmp_path / "b", ["", " "])
    with pytest.raises(UserError, match="b holds no rows"):
        prepare({"train": [train], "test": [empty]}, tmp_path / "out", workers=1)
    with pytest.raises(UserError, match="is in both --train and --test"):
        prepare({"train": [train], "test": [train]}, tmp_path / "out")
    with pytest.raises(UserError, match="nothing to fit on"):
        prepare({"test": [train]}, tmp_path / "out")


number = st.floats(-1e6, 1e6, width=32)
row = st.tuples(number, st.lists(st.tuples(st.integers(0, 10**17), number), max_size=4))


@given(st.lists(row, min_size=1, max_size=20), st.sampled_from([" ", "  ", "\t"]), st.sampled_from(["\n", "\r\n"]))
def test_rows_are_what_the_lines_say(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], space: str, end: str
) -> None:
    path = tmp_path_factory.mktemp("libfm") / "rows"
    lines = [space.join([repr(label), *(f"{index}:{value!r}" for index, value in entries)]) for label, entries in rows]
    path.write_bytes((end.join(lines) + end).encode())
    (block,) = read_rows(str(path), lambda work, count: None)
    assert block.label_N.tolist() == [label for label, _ in rows]
    assert block.length_N.tolist() == [len(entries) for _, entries in rows]
    assert block.index_V.tolist() == [index for _, entries in rows for index, _ in entries]
    assert block.value_V.tolist() == [value for _, entries in rows for _, value in entries]


def test_the_command_sums_up_and_warns(tmp_path: Path) -> None:
    train = write(tmp_path / "a", ["1 1:1", "1 2:1"])
    arguments = ["prepare", "libfm", "--train", train, "--out", str(tmp_path / "out"), "--json"]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    last = json.loads(ran.stdout.splitlines()[-1])
    assert last["splits"] == {"train": {"rows": 2}}
    assert last["warnings"] == ["the label is 1 in every training row"]
    assert "warning: the label is 1 in every training row" in ran.stderr


@pytest.mark.skipif(not DATA.exists(), reason="the real Frappe rows are not here")
def test_real_frappe_has_ten_fields(tmp_path: Path) -> None:
    names = {"train": "train.rebuilt", "valid": "validation", "test": "test"}
    files = {split: [str(DATA / f"frappe.{name}.libfm.gz")] for split, name in names.items()}
    manifest = prepare(files, tmp_path / "out", workers=1).manifest
    assert {split: of.rows for split, of in manifest.splits.items()} == {"train": 202027, "valid": 57722, "test": 28860}
    train = gzip.decompress(Path(files["train"][0]).read_bytes()).decode().splitlines()
    assert sum(table.rows - 1 for table in manifest.tables.values()) == len(
        {entry for line in train for entry in line.split()[1:]}
    )
    assert len(manifest.tables) == 10
