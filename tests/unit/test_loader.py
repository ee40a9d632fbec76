"""Batches from shards: every row once with all of its columns, at any world size, from any step, in IPC and Parquet."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Column, Manifest, Shard, Split, Table
from dist_rec.data import shards
from dist_rec.data.loader import Loader, LoaderConfig
from dist_rec.data.shards import CorruptBlock, Dataset, ShardWriter, arrow_schema

COLUMNS = (
    Column(name="click", kind="label"),
    Column(name="row", kind="dense"),
    Column(name="age", kind="dense"),
    Column(name="user", kind="categorical", table="user"),
    Column(name="item", kind="categorical", table="item"),
    Column(name="tags", kind="bag", table="item"),
    Column(name="words", kind="bag", table="user", weights="word_weights"),
    Column(name="word_weights", kind="weight"),
    Column(name="history", kind="sequence", table="item"),
    Column(name="importance", kind="weight"),
)
ROWS = (157, 0, 90)


def table(first: int, rows: int) -> pa.Table:
    """Every value is a function of the row, so that a batch can be checked against it."""
    index = np.arange(first, first + rows)
    return pa.table(
        {
            "click": (index % 2).astype(np.float32),
            "row": index.astype(np.float32),
            "age": (index * 0.5).astype(np.float32),
            "user": (index % 100).astype(np.int32),
            "item": (index % 31).astype(np.int32),
            "tags": [[int(i) % 31] * (int(i) % 4) for i in index],
            "words": [list(range(int(i) % 3)) for i in index],
            "word_weights": [[float(i)] * (int(i) % 3) for i in index],
            "history": [[int(i) % 7, int(i) % 5][: int(i) % 3] for i in index],
            "importance": (index + 1).astype(np.float32),
        }
    )


@pytest.fixture(scope="module", params=["ipc", "parquet"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp(request.param), parquet=request.param == "parquet")


def make(folder: Path, parquet: bool = False) -> Path:
    written, first = [], 0
    for number, rows in enumerate(ROWS):
        if parquet:
            path = f"train/{number}.parquet"
            (folder / "train").mkdir(exist_ok=True)
            pq.write_table(table(first, rows), folder / path, row_group_size=10, write_page_checksum=True)
            written.append(Shard(path=path, rows=rows))
        else:
            with ShardWriter(folder, f"train/{number}.arrows", arrow_schema(COLUMNS), block_rows=16) as writer:
                writer.write(table(first, rows // 3))
                writer.write(table(first + rows // 3, rows - rows // 3))
                written.append(writer.close())
        first += rows
    tables = {"user": Table(rows=100), "item": Table(rows=31)}
    splits = {"train": Split(rows=sum(ROWS), shards=tuple(written)), "empty": Split(rows=0, shards=())}
    Manifest(columns=COLUMNS, tables=tables, splits=splits).save(folder)
    return folder


def load(folder: Path, rank: int, world: int, batch: int, start: int, stop: int, **settings: int) -> list[Batch]:
    config = LoaderConfig(path=str(folder), **{"streams": 8, "window": 20, **settings})
    loader = Loader(Dataset(folder), "train", config, batch=batch, rank=rank, world=world, seed=3)
    return list(loader.batches(start, stop))


def rows_in(batch: Batch) -> list[int]:
    return [int(row) for row in batch.dense[:, 0]]


def check_columns(batch: Batch) -> None:
    rows = rows_in(batch)
    assert batch.dense[:, 1].tolist() == [row * 0.5 for row in rows]
    assert batch.labels.tolist() == [row % 2 for row in rows]
    assert batch.weights.tolist() == [row + 1 for row in rows]
    lists = {name: column.to_dense() for name, column in batch.ids.to_dict().items()}
    lists["words"] = batch.weighted_ids["words"].to_dense()
    for name, values in lists.items():
        assert all(len(ids) == 0 for ids in values[len(rows) :])
        expected = [table(row, 1)[name][0].as_py() for row in rows]
        found = [ids.tolist() for ids in values[: len(rows)]]
        assert found == [ids if isinstance(ids, list) else [ids] for ids in expected]
    weights = [ids.tolist() for ids in batch.weighted_ids["words"].to_dense_weights()[: len(rows)]]
    assert weights == [table(row, 1)["word_weights"][0].as_py() for row in rows]


def test_each_row_once_an_epoch_with_its_columns(folder: Path) -> None:
    batches = load(folder, 0, 1, 50, 0, 10)
    assert [len(batch.labels) for batch in batches] == [50, 50, 50, 50, 47] * 2
    for epoch in (batches[:5], batches[5:]):
        assert sorted(row for batch in epoch for row in rows_in(batch)) == list(range(sum(ROWS)))
    assert rows_in(batches[0]) != rows_in(batches[5])
    for batch in batches:
        check_columns(batch)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=st.integers(1, 16), batch=st.integers(16, 90), start=st.integers(0, 20), data=st.data())
def test_any_world_size_from_any_step(folder: Path, world: int, batch: int, start: int, data: st.DataObject) -> None:
    """Processes may also change in the middle, with other numbers of streams a process, threads or batches ahead."""
    window = data.draw(st.integers(1, 40))
    same = {"streams": 16, "window": window}
    alone = load(folder, 0, 1, batch, 0, start + 3, **same)[start:]
    parts = [load(folder, rank, world, batch, start, start + 3, threads=1, prefetch=1, **same) for rank in range(world)]
    for step, whole in enumerate(alone):
        dealt = [part[step] for part in parts]
        assert [row for part in dealt for row in rows_in(part)] == rows_in(whole)
        assert len({part.ids.stride() for part in dealt}) == 1
        assert sum(float(part.scale) * len(part.labels) for part in dealt) == pytest.approx(world)


def test_other_file_systems(folder: Path) -> None:
    """A dataset under a URI and one in a file system that is not the machine's."""
    assert Dataset(folder.as_uri()).manifest == Dataset(folder).manifest
    elsewhere = pafs.SubTreeFileSystem(str(folder.parent), pafs.LocalFileSystem())
    dataset = Dataset(folder.name, elsewhere)
    loader = Loader(dataset, "train", LoaderConfig(path=folder.name), batch=64)
    assert sum(len(batch.labels) for batch in loader.batches(0, loader.steps_per_epoch)) == sum(ROWS)


def test_only_the_features_that_are_wanted(folder: Path) -> None:
    loader = Loader(Dataset(folder), "train", LoaderConfig(path=str(folder)), batch=64, features=("item", "tags"))
    batch = next(iter(loader.batches(0, 1)))
    assert batch.ids.keys() == ["item", "tags"]
    assert batch.weighted_ids.keys() == []


def test_leaving_early_stops_the_threads(folder: Path) -> None:
    batches = Loader(Dataset(folder), "train", LoaderConfig(path=str(folder)), batch=16).batches(0, 1000)
    next(batches)
    batches.close()


@pytest.mark.parametrize(("world", "batch", "streams"), [(5, 4, 8), (9, 64, 8)])
def test_too_many_processes(tmp_path: Path, world: int, batch: int, streams: int) -> None:
    with pytest.raises(UserError, match=f"{world} processes"):
        load(make(tmp_path), 0, world, batch, 0, 1, streams=streams)


def test_an_empty_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'empty' of .* has no rows"):
        Loader(Dataset(make(tmp_path)), "empty", LoaderConfig(path="x"), batch=8)


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "OPEN_FILES", 1)
    dataset = Dataset(make(tmp_path))
    for shard, index, rows in dataset.blocks("train"):
        assert dataset.read_block(shard, index).num_rows == rows
        files = [file.resolve() for file in Path("/proc/self/fd").iterdir()]
        assert sum(tmp_path in file.parents for file in files) == 1


def test_a_file_that_cannot_be_opened_now_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are not left out, whatever `on_corrupt` says."""
    dataset = Dataset(make(tmp_path))

    def too_many(path: str) -> None:
        raise OSError(24, f"Failed to open local file '{path}'", "Too many open files")

    monkeypatch.setattr(dataset, "_open", too_many)
    loader = Loader(dataset, "train", LoaderConfig(path="x", on_corrupt="skip"), batch=64)
    with pytest.raises(UserError, match=r"block \d+ cannot be read: .*Failed to open") as raised:
        list(loader.batches(0, 1))
    assert not isinstance(raised.value, CorruptBlock)


@pytest.mark.parametrize(("streams", "window", "shared", "twice"), [(3, 7, 0, 2), (12, 1000, 8, 0)])
def test_a_block_is_read_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, streams: int, window: int, shared: int, twice: int
) -> None:
    read: list[tuple[str, int]] = []
    whole = Dataset.read_block

    def counted(dataset: Dataset, shard: Shard, index: int) -> pa.RecordBatch:
        read.append((shard.path, index))
        return whole(dataset, shard, index)

    monkeypatch.setattr(Dataset, "read_block", counted)
    monkeypatch.setattr("dist_rec.data.loader.SHARED_BLOCKS", shared)
    loader = Loader(Dataset(folder), "train", LoaderConfig(path="x", streams=streams, window=window), batch=20)
    list(loader.batches(0, loader.steps_per_epoch))
    # A block that lies across the border of two streams is read by both, unless they read it at about the same time.
    assert len(set(read)) <= len(read) <= len(set(read)) + twice


def test_an_address_that_no_file_system_has() -> None:
    with pytest.raises(UserError, match="'foo://bar' cannot be opened: Unrecognized filesystem"):
        Dataset("foo://bar")


def test_an_id_outside_its_table(tmp_path: Path) -> None:
    manifest = Dataset(make(tmp_path)).manifest
    small = manifest.model_copy(update={"tables": {**manifest.tables, "item": Table(rows=30)}})
    small.save(tmp_path)
    with pytest.raises(UserError, match=r"train/\d.arrows, row \d+: feature '(item|tags)' has id 30, .* 'item' of 30"):
        load(tmp_path, 0, 1, 50, 0, 5)


@pytest.mark.parametrize("column", ["age", "user", "tags", "history"])
def test_empty_values_are_named(tmp_path: Path, column: str) -> None:
    folder = make(tmp_path, parquet=True)
    rows = table(0, ROWS[0])
    values = rows[column].to_pylist()
    values[60] = [3, None] if column == "history" else None
    rows = rows.set_column(rows.schema.get_field_index(column), column, pa.array(values, rows[column].type))
    pq.write_table(rows, folder / "train/0.parquet", row_group_size=10)
    with pytest.raises(UserError, match=f"train/0.parquet, row 60: column '{column}' has an empty value"):
        load(folder, 0, 1, 50, 0, 5)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_found_and_named(tmp_path: Path, damage: str) -> None:
    path = make(tmp_path) / "train/0.arrows"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[:-300] if damage == "truncate" else data)
    if damage == "remove":
        path.unlink()
    with pytest.raises(CorruptBlock, match=r"train/0.arrows, block \d+: .*(checksum|missing)"):
        load(tmp_path, 0, 1, 50, 0, 5)


def test_missing_files_are_found_without_reading(tmp_path: Path) -> None:
    data = Dataset(make(tmp_path))
    data.check_files()
    path = tmp_path / "train/2.arrows"
    content = path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(CorruptBlock, match=r"train/2.arrows: \d+ bytes are missing; prepare the data again"):
        data.check_files()
    path.unlink()
    with pytest.raises(CorruptBlock, match=r"train/2.arrows: the file is missing"):
        data.check_files()


def test_a_manifest_that_counts_other_rows_is_found(tmp_path: Path) -> None:
    make(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    manifest = Manifest.from_json(text, "")
    first, *others = manifest.splits["train"].shards
    block = first.blocks[0].model_copy(update={"rows": first.blocks[0].rows - 1})
    shards = (first.model_copy(update={"blocks": (block, *first.blocks[1:])}), *others)
    split = manifest.splits["train"].model_copy(update={"shards": shards})
    manifest.model_copy(update={"splits": {"train": split}}).save(tmp_path)
    with pytest.raises(CorruptBlock, match=rf"block 0 has {block.rows + 1} rows, not {block.rows} as in manifest"):
        Dataset(tmp_path).read_block(shards[0], 0)


@pytest.mark.parametrize("parquet", [False, True], ids=["ipc", "parquet"])
def test_damage_can_be_left_out_and_is_counted(tmp_path: Path, parquet: bool) -> None:
    """The other rows come as they would, each once; the missing ones are counted on the process that missed them."""
    whole = [set(rows_in(batch)) for batch in load(make(tmp_path, parquet), 0, 1, 40, 0, 7)]
    path = next((tmp_path / "train").glob("0.*"))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    config = LoaderConfig(path=str(tmp_path), streams=8, window=20, on_corrupt="skip")
    loaders = [Loader(Dataset(tmp_path), "train", config, batch=40, rank=rank, world=2, seed=3) for rank in range(2)]
    parts = [list(loader.batches(0, loader.steps_per_epoch)) for loader in loaders]
    seen = [row for part in parts for batch in part for row in rows_in(batch)]
    lost = sum(loader.skipped_rows for loader in loaders)
    assert 0 < lost < 60
    assert len(seen) == len(set(seen)) == sum(ROWS) - lost
    for step, rows in enumerate(whole):
        found = {row for part in parts for row in rows_in(part[step])}
        assert found <= rows
    for batch in parts[0] + parts[1]:
        check_columns(batch)
        assert batch.ids.stride() >= len(batch.labels)
