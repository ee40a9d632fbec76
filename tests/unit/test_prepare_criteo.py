"""Raw Criteo lines to a prepared folder: equal to the slow way, whatever the form of the input and the workers."""

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from dist_rec.cli.main import app
from dist_rec.core.errors import UserError
from dist_rec.data.shards import Dataset
from dist_rec.prepare import engine
from dist_rec.prepare import lines as lines_module
from dist_rec.prepare.criteo import encode as encode_module
from dist_rec.prepare.criteo import rows as rows_module
from dist_rec.prepare.criteo.source import Criteo
from tests.unit import criteo_by_hand as by_hand

DATA = Path(os.environ.get("DIST_REC_DATA", Path(__file__).parents[3] / "shared" / "data")) / "criteo_kaggle_137k"


def prepare(files: dict[str, list[str]], out: Path, workers: int | None = None, **options: Any) -> engine.Prepared:
    return engine.prepare(Criteo(files, **options), out, workers)


def random_lines(seed: int, rows: int) -> list[str]:
    rng = random.Random(seed)
    lines = []
    for _ in range(rows):
        integers = [rng.choice(["", "-1", "-3", str(rng.randrange(10 ** rng.randrange(1, 12)))]) for _ in range(13)]
        values = [rng.randrange(4 ** (1 + field % 8)) * 0x9E3779B1 % 2**32 for field in range(26)]
        categories = [rng.choice(["", f"{value:08x}", f"{value:08x}"]) for value in values]
        lines.append("\t".join([rng.choice("01"), *integers, *categories]))
    return lines


def write(path: Path, lines: list[str], *, zipped: bool = False, end: str = "\n", ended: bool = True) -> str:
    content = (end.join(lines) + (end if ended else "")).encode()
    path.write_bytes(gzip.compress(content, 1) if zipped else content)
    return str(path)


def read(folder: Path, split: str) -> dict[str, list[float]]:
    data = Dataset(folder)
    batches = [data.read_block(shard, block) for shard, block, _ in data.blocks(split)]
    return pa.Table.from_batches(batches).to_pydict()


def assert_columns_equal(got: dict[str, list[float]], expected: dict[str, list[float]]) -> None:
    assert got.keys() == expected.keys()
    for name, column in expected.items():
        if name.startswith("int_"):
            assert_allclose(got[name], column, rtol=1e-6, err_msg=name)
        else:
            assert got[name] == column, name


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, list[str]]:
    """Files of every form: plain and gzipped, both line ends, with and without the last one."""
    return {
        "train": [
            write(tmp_path / "a", random_lines(0, 300)),
            write(tmp_path / "b", random_lines(1, 200), zipped=True, ended=False),
        ],
        "valid": [write(tmp_path / "c", random_lines(2, 100), end="\r\n", ended=False)],
        "test": [write(tmp_path / "d.gz", random_lines(3, 1), end="\r\n", zipped=True)],
    }


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces a file, shards a piece and segments a shard."""
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 3 << 10)
    monkeypatch.setattr(lines_module, "PIECE_BYTES", 20 << 10)
    monkeypatch.setattr(rows_module, "SEGMENT_ROWS", 30)
    monkeypatch.setattr(encode_module, "SHARD_SEGMENTS", 2)


@pytest.mark.parametrize("min_count", [1, 2, 7])
@pytest.mark.usefixtures("small_pieces")
def test_vocabularies_equal_the_slow_way(tmp_path: Path, raw: dict[str, list[str]], min_count: int) -> None:
    prepared = prepare(raw, tmp_path / "out", min_count=min_count, workers=1)
    train = by_hand.read("\n".join(random_lines(0, 300) + random_lines(1, 200)))
    vocabularies = by_hand.fit(train, min_count)
    assert_columns_equal(read(tmp_path / "out", "train"), by_hand.encode(train, vocabularies))
    for split, seed, rows in (("valid", 2, 100), ("test", 3, 1)):
        lines = by_hand.read("\n".join(random_lines(seed, rows)))
        assert_columns_equal(read(tmp_path / "out", split), by_hand.encode(lines, vocabularies))
    manifest = Dataset(tmp_path / "out").manifest
    assert manifest == prepared.manifest
    assert list(manifest.splits) == ["train", "valid", "test"]
    assert [manifest.tables[f"cat_{index}"].rows for index in range(26)] == [len(rows) + 1 for rows in vocabularies]
    assert manifest.splits["train"].positives == sum(line[0] == "1" for line in train)
    assert len(manifest.splits["train"].shards) > 8
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "train", "valid", "test", "vocabulary", "manifest.json"
    }  # fmt: skip


@pytest.mark.parametrize("options", [{"min_count": 2}, {"buckets": 50}])
@pytest.mark.usefixtures("small_pieces")
def test_a_fit_is_applied_to_later_files(tmp_path: Path, raw: dict[str, list[str]], options: dict[str, Any]) -> None:
    prepare(raw, tmp_path / "all", **options, workers=1)
    prepare({"train": raw["train"]}, tmp_path / "fit", **options, workers=1)
    prepare({"test": raw["valid"]}, tmp_path / "later", fitted_from=tmp_path / "fit", workers=1)
    prepare({"test": raw["valid"]}, tmp_path / "latest", fitted_from=tmp_path / "later", workers=1)
    assert read(tmp_path / "later", "test") == read(tmp_path / "all", "valid")
    assert read(tmp_path / "latest", "test") == read(tmp_path / "all", "valid")
    assert Dataset(tmp_path / "later").manifest.tables == Dataset(tmp_path / "all").manifest.tables
    assert Dataset(tmp_path / "later").manifest.transform == Dataset(tmp_path / "all").manifest.transform


def test_hashing_needs_no_fit_and_keeps_missing_apart(tmp_path: Path, raw: dict[str, list[str]]) -> None:
    manifest = prepare(raw, tmp_path / "out", buckets=50, workers=1).manifest
    assert {table.rows for table in manifest.tables.values()} == {51}
    columns = read(tmp_path / "out", "valid")
    lines = by_hand.read("\n".join(random_lines(2, 100)))
    for index in range(26):
        ids = columns[f"cat_{index}"]
        assert [value == 0 for value in ids] == [not line[14 + index] for line in lines]
        assert max(ids) <= 50
        by_text = {line[14 + index]: value for line, value in zip(lines, ids, strict=True)}
        assert [by_text[line[14 + index]] for line in lines] == ids


@pytest.mark.parametrize("options", [{"min_count": 2}, {"buckets": 50}])
def test_the_bytes_do_not_depend_on_the_workers(
    tmp_path: Path, raw: dict[str, list[str]], options: dict[str, Any]
) -> None:
    prepare(raw, tmp_path / "one", **options, workers=1)
    prepare(raw, tmp_path / "two", **options, workers=2)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


GOOD = random_lines(4, 1)[0].split("\t")


def changed(field: int, text: str) -> str:
    return "\t".join([*GOOD[: field - 1], text, *GOOD[field:]])


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("\t".join(GOOD[:39]), "line 180 has 39 tab-separated fields, not 40"),
        ("\t".join([*GOOD, ""]), "line 180 has 41 tab-separated fields, not 40"),
        ("", "line 180 has 1 tab-separated fields, not 40"),
        (changed(1, "2"), "line 180, field 1 (label): '2' is not 0 or 1"),
        (changed(1, ""), "line 180, field 1 (label): '' is not 0 or 1"),
        (changed(1, "10"), "line 180, field 1 (label): '10' is not 0 or 1"),
        (changed(4, "1.5"), "line 180, field 4 (int_2): '1.5' is not an integer of at most 16 digits"),
        (changed(14, "-"), "line 180, field 14 (int_12): '-' is not an integer of at most 16 digits"),
        (changed(14, "1" * 17), f"line 180, field 14 (int_12): '{'1' * 17}' is not an integer of at most 16 digits"),
        (changed(15, "0123456g"), "line 180, field 15 (cat_0): '0123456g' is not a hexadecimal number of at most"),
        (changed(40, "123456789"), "line 180, field 40 (cat_25): '123456789' is not a hexadecimal number of at most"),
    ],
)
@pytest.mark.usefixtures("small_pieces")
def test_a_bad_line_is_named_and_nothing_is_left(tmp_path: Path, line: str, message: str, zipped: bool) -> None:
    lines = random_lines(5, 300)
    lines[179] = line
    raw = tmp_path / "raw"
    raw.mkdir()
    path = write(raw / "bad", lines, zipped=zipped)
    with pytest.raises(UserError) as caught:
        prepare({"train": [path]}, tmp_path / "out", workers=1)
    assert str(caught.value).startswith(f"{path}, {message}")
    assert list(tmp_path.iterdir()) == [raw]


def test_impossible_requests_are_refused(tmp_path: Path, raw: dict[str, list[str]]) -> None:
    out, train, test = tmp_path / "out", {"train": raw["train"]}, {"test": raw["test"]}
    (tmp_path / "empty.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(UserError, match="no input"):
        prepare({"train": []}, out)
    with pytest.raises(UserError, match="nothing to fit on; give --train, or --fitted-from"):
        prepare(test, out)
    with pytest.raises(UserError, match="choose one"):
        prepare(train, out, min_count=2, buckets=10)
    with pytest.raises(UserError, match="--buckets 0 must be"):
        prepare(train, out, buckets=0)
    with pytest.raises(UserError, match="--min-count 0 must be"):
        prepare(train, out, min_count=0)
    with pytest.raises(UserError, match="is in both --train and --test"):
        prepare({**train, "test": raw["train"][:1]}, out)
    with pytest.raises(UserError, match="holds no rows"):
        prepare({**train, "test": [str(tmp_path / "empty.gz")]}, out, workers=1)
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        prepare(test, out, fitted_from=tmp_path)
    assert not out.exists()


@pytest.mark.parametrize("how", [{"min_count": 1}, {"buckets": 5}])
def test_an_integer_that_is_never_there_is_named(tmp_path: Path, how: dict[str, int]) -> None:
    fields = [line.split("\t") for line in random_lines(5, 50)]
    lines = ["\t".join([*of[:4], "", *of[5:]]) for of in fields]
    files = {"train": [write(tmp_path / "train", lines)], "test": [write(tmp_path / "test", random_lines(6, 9))]}
    prepared = prepare(files, tmp_path / "out", workers=1, **how)
    assert prepared.warnings == ("int_3 is missing or not above 0 in every training row",)


def test_a_failure_leaves_no_parent_folders(tmp_path: Path) -> None:
    train = {"train": [write(tmp_path / "train", ["1\t2"])]}
    with pytest.raises(UserError, match="train, line 1 has 2 tab-separated fields, not 40"):
        prepare(train, tmp_path / "new" / "deep" / "out", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
    with pytest.raises(UserError, match="train/out: Not a directory"):
        prepare({"train": [write(tmp_path / "train", random_lines(5, 5))]}, tmp_path / "train" / "out", workers=1)


def test_a_fit_that_is_not_criteo_s_or_is_damaged_is_refused(tmp_path: Path, raw: dict[str, list[str]]) -> None:
    test = {"test": raw["test"]}
    fitted = tmp_path / "fitted"
    prepare({"train": raw["train"]}, fitted, workers=1)
    with pytest.raises(UserError, match="exists already"):
        prepare(test, fitted, fitted_from=fitted)
    with pytest.raises(UserError, match="--min-count cannot be combined with --fitted-from"):
        prepare(test, tmp_path / "out", min_count=3, fitted_from=fitted)
    vocabulary = fitted / "vocabulary" / "cat_7.npy"
    damaged = bytearray(vocabulary.read_bytes())
    damaged[-1] ^= 1
    vocabulary.write_bytes(damaged)
    with pytest.raises(UserError, match=r"cat_7\.npy is missing or damaged"):
        prepare(test, tmp_path / "out", fitted_from=fitted, workers=1)
    manifest = json.loads((fitted / "manifest.json").read_text())
    manifest["transform"] = {"source": "ratings"}
    (fitted / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="was not prepared by `dist-rec prepare criteo`"):
        prepare(test, tmp_path / "out", fitted_from=fitted)


def test_the_command_sums_up(tmp_path: Path, raw: dict[str, list[str]]) -> None:
    arguments = ["--train", raw["train"][0], "--train", raw["train"][1], "--test", raw["test"][0], "--workers", "1"]
    ran = CliRunner().invoke(app, ["prepare", "criteo", *arguments, "--out", str(tmp_path / "out"), "--json"])
    assert ran.exit_code == 0, ran.output
    last = json.loads(ran.stdout.splitlines()[-1])
    assert last["rows"] == 501
    assert last["splits"]["train"]["rows"] == 500
    manifest = Dataset(tmp_path / "out").manifest
    assert last["table_rows"] == sum(table.rows for table in manifest.tables.values())
    assert last["splits"]["train"]["click_rate"] == pytest.approx((manifest.splits["train"].positives or 0) / 500)
    assert last["rows_per_s"] > 0


@pytest.mark.skipif(not DATA.exists(), reason="the real Criteo rows are not here")
def test_real_rows_equal_the_slow_way(tmp_path: Path) -> None:
    parts = {
        "train": [str(DATA / f"part_{index}.tsv.gz") for index in (0, 1)],
        "test": [str(DATA / "part_9.tsv.gz")],
    }
    prepare(parts, tmp_path / "out", workers=1)
    lines = {
        split: by_hand.read("".join(gzip.decompress(Path(part).read_bytes()).decode() for part in of_split))
        for split, of_split in parts.items()
    }
    vocabularies = by_hand.fit(lines["train"], min_count=2)
    for split in parts:
        assert_columns_equal(read(tmp_path / "out", split), by_hand.encode(lines[split], vocabularies))


def test_what_was_hardly_meant_is_said(tmp_path: Path) -> None:
    lines = ["\t".join(["0", *line.split("\t")[1:-1], ""]) for line in random_lines(0, 50)]
    prepared = prepare({"train": [write(tmp_path / "a", lines)]}, tmp_path / "out", min_count=1, workers=1)
    assert prepared.warnings == (
        "table 'cat_25' has only the row of unknown ids: its features carry no information",
        "the label is 0 in all 50 training rows",
    )
