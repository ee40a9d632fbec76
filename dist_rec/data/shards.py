"""Shards on disk: written as Arrow IPC in checksummed blocks, read block by block from IPC or Parquet.

A block is read by its byte range (from the manifest), so that any `pyarrow.fs` file system will do, nothing is
mapped into memory, and a damaged byte is found before it is trained on.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.core.schema import MANIFEST, Block, Column, Manifest, Shard

BLOCK_ROWS = 4096
OPEN_FILES = 64
"""Shards that a data set keeps open."""


class CorruptBlock(UserError):
    """A block whose bytes differ from those that were written."""


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema of shards with these columns (see `Column.kind`)."""
    weight_lists = {column.weights for column in columns if column.weights}
    return pa.schema([(column.name, _arrow_type(column, column.name in weight_lists)) for column in columns])


def lists(values: NDArray[Any], lengths_N: NDArray[np.integer]) -> pa.ListArray:
    """The bags or sequences of N rows, from the values of all rows end to end."""
    offsets = np.zeros(lengths_N.size + 1, np.int32)
    lengths_N.cumsum(dtype=np.int32, out=offsets[1:])
    return pa.ListArray.from_arrays(offsets, values)


def _arrow_type(column: Column, jagged: bool) -> pa.DataType:
    if column.kind == "categorical":
        return pa.int32()
    if column.kind in ("bag", "sequence"):
        return pa.list_(pa.int32())
    return pa.list_(pa.float32()) if jagged else pa.float32()


class ShardWriter:
    """Writes tables of any length into one shard of equal blocks (the last one may be short).

    `path` is relative to the data set's folder, such as `train/00000.arrows`; `schema` comes from `arrow_schema`.
    """

    def __init__(self, folder: Path, path: str, schema: pa.Schema, block_rows: int = BLOCK_ROWS) -> None:
        self._path, self._schema, self._block_rows = path, schema, block_rows
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        self._file = pa.OSFile(str(folder / path), "wb")
        self._file.write(schema.serialize())
        self._waiting: list[pa.Table] = []
        self._blocks: list[Block] = []

    def write(self, table: pa.Table) -> None:
        """Appends rows; a last incomplete block waits for the next call."""
        waiting = pa.concat_tables([*self._waiting, table])
        full = waiting.num_rows // self._block_rows * self._block_rows
        for start in range(0, full, self._block_rows):
            self._write_block(waiting.slice(start, self._block_rows))
        self._waiting = [waiting.slice(full)]

    def _write_block(self, rows: pa.Table) -> None:
        batch = rows.cast(self._schema).combine_chunks().to_batches()[0]
        message = batch.serialize()
        offset = self._file.tell()
        self._file.write(message)
        checksum = xxhash.xxh3_64_hexdigest(message)
        self._blocks.append(Block(offset=offset, bytes=message.size, rows=batch.num_rows, checksum=checksum))

    def close(self) -> Shard:
        """Writes the last block and returns the manifest's entry."""
        for rest in self._waiting:
            if rest.num_rows:
                self._write_block(rest)
        self._file.write(b"\xff\xff\xff\xff\x00\x00\x00\x00")
        self._file.close()
        return Shard(path=self._path, rows=sum(block.rows for block in self._blocks), blocks=tuple(self._blocks))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the `with` block ends without an error; else nothing is left.

    Raises:
        UserError: if `out` exists already, or the disk is full or a file is not accessible inside the `with` block.
    """
    if out.exists():
        raise UserError(f"{out} exists already; remove it or choose another --out")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    new_parents = [parent for parent in partial.parents if not parent.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(out)
    except OSError as error:
        where = str(error.filename or out).replace(str(partial), str(out))
        raise UserError(f"{where}: {error.strerror or f'{error}; is the disk full?'}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # on success, they are not empty
            for parent in new_parents:
                parent.rmdir()


def checksum(path: Path) -> str:
    """xxh3_64 of a file, 16 hex digits."""
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verified(path: Path, expected: str) -> Path:
    """The path of a file beside the shards; raises UserError unless it has this checksum."""
    if not path.exists() or checksum(path) != expected:
        raise UserError(f"{path} is missing or damaged; prepare the data again")
    return path


class Dataset:
    """A prepared folder, on a local disk or under any URI that `pyarrow.fs` knows (`s3://…`, `gs://…`)."""

    def __init__(self, path: str | Path, filesystem: pafs.FileSystem | None = None) -> None:
        self.path = str(path)
        if filesystem is None and "://" in self.path:
            filesystem, self._root = _from_uri(self.path)
        else:
            self._root = self.path
        self._fs = filesystem or pafs.LocalFileSystem()
        # A file that leaves the cache closes when no thread reads from it any more.
        self._open = lru_cache(OPEN_FILES)(lambda path: self._fs.open_input_file(f"{self._root}/{path}"))
        try:
            with self._fs.open_input_file(f"{self._root}/{MANIFEST}") as file:
                text = file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.path} holds no {MANIFEST}; prepare the data with `dist-rec prepare`") from None
        except OSError as error:
            raise UserError(f"{self.path}/{MANIFEST} cannot be read: {str(error).splitlines()[0]}") from None
        self.manifest = Manifest.from_json(text, f"{self.path}/{MANIFEST}")
        self.schema = arrow_schema(self.manifest.columns)

    def blocks(self, split: str) -> list[tuple[Shard, int, int]]:
        """Every block of a split in the order of the files: (shard, index in the shard, rows)."""
        listed = []
        for shard in self.manifest.split(split).shards:
            rows = [block.rows for block in shard.blocks]
            if _is_parquet(shard):
                with _damage_named(f"{self.path}/{shard.path}", parquet=True):
                    metadata = pq.ParquetFile(self._open(shard.path)).metadata
                    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            listed += [(shard, index, count) for index, count in enumerate(rows)]
        return listed

    def check_files(self) -> None:
        """Checks that every shard of every split exists and is long enough, without reading it.

        Raises:
            CorruptBlock: naming the first shard that is missing or too short.
        """
        shards = [shard for split in self.manifest.splits.values() for shard in split.shards]
        infos = self._fs.get_file_info([f"{self._root}/{shard.path}" for shard in shards])
        for shard, info in zip(shards, infos, strict=True):
            if not info.is_file:
                raise CorruptBlock(f"{self.path}/{shard.path}: the file is missing; prepare the data again")
            if shard.blocks and info.size < (needed := shard.blocks[-1].offset + shard.blocks[-1].bytes):
                raise CorruptBlock(
                    f"{self.path}/{shard.path}: {needed - info.size} bytes are missing; prepare the data again"
                )

    def read_block(self, shard: Shard, index: int) -> pa.RecordBatch:
        """Reads and checks one block.

        Raises:
            CorruptBlock: naming the shard and the block, if a byte differs, bytes are missing or the file is gone.
            UserError: naming them, if the system cannot read a file that may be intact.
        """
        where, parquet = f"{self.path}/{shard.path}, block {index}", _is_parquet(shard)
        with _damage_named(where, parquet):
            return self._read_parquet(shard, index) if parquet else self._read_ipc(shard, index, where)

    def _read_ipc(self, shard: Shard, index: int, where: str) -> pa.RecordBatch:
        block = shard.blocks[index]
        data = self._open(shard.path).read_at(block.bytes, block.offset)
        if len(data) != block.bytes:
            missing = block.bytes - len(data)
            raise CorruptBlock(f"{where}: {missing} of {block.bytes} bytes are missing; prepare the data again")
        if xxhash.xxh3_64_hexdigest(data) != block.checksum:
            raise CorruptBlock(f"{where}: the bytes do not match their checksum; prepare the data again")
        batch = pa.ipc.read_record_batch(pa.py_buffer(data), self.schema)
        if (found := batch.num_rows) != block.rows:
            raise CorruptBlock(f"{where} has {found} rows, not {block.rows} as in {MANIFEST}; prepare the data again")
        return batch

    def _read_parquet(self, shard: Shard, index: int) -> pa.RecordBatch:
        file = pq.ParquetFile(self._open(shard.path), page_checksum_verification=True)
        table = file.read_row_group(index, columns=self.schema.names)
        return table.cast(self.schema).combine_chunks().to_batches()[0]


@contextmanager
def _damage_named(where: str, parquet: bool) -> Iterator[None]:
    """Raises CorruptBlock for damage, and UserError for failures of the system, such as too many open files."""
    try:
        yield
    except FileNotFoundError:
        raise CorruptBlock(f"{where}: the file is missing; prepare the data again") from None
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        # Errors of the system have a number; Parquet's reader raises OSError without one for bytes it cannot decode.
        if isinstance(error, pa.ArrowInvalid) or (parquet and error.errno is None):
            raise CorruptBlock(f"{where}: unreadable ({reason}); prepare the data again") from None
        raise UserError(f"{where} cannot be read: {reason}") from None


def _from_uri(uri: str) -> tuple[pafs.FileSystem, str]:
    try:
        return pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"data {uri!r} cannot be opened: {str(error).splitlines()[0]}") from None


def _is_parquet(shard: Shard) -> bool:
    return shard.path.endswith(".parquet")
