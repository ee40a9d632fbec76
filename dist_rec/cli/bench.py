"""`dist-rec bench`: throughput beside an upper limit and a peer, measured in the same run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dist_rec.cli.options import AsJson

if TYPE_CHECKING:
    from dist_rec.data.loader import Loader

bench = typer.Typer(help="Measure throughput beside an upper limit and a peer in the same run.", no_args_is_help=True)

DENSE, CATEGORICAL, TABLE_ROWS, SHARDS = 13, 26, 1000, 16
PEER_ROWS = 2_000_000


@bench.callback()
def _group() -> None:
    """Keeps `data` a sub-command: typer would run an only command without its name."""


@bench.command()
def data(
    rows: Annotated[int, typer.Option(help="Rows to generate, in Criteo's layout.")] = 2_000_000,
    batch: Annotated[int, typer.Option(help="Rows in a batch.")] = 8192,
    as_json: AsJson = False,
) -> None:
    """Stream shuffled shards as batches: rows/s, beside a memory copy and TorchRec's in-memory pipeline.

    Also the growth of resident memory while streaming, and the quality of the shuffle beside a true permutation.
    """
    import tempfile

    from dist_rec.data.loader import Loader, LoaderConfig
    from dist_rec.data.shards import Dataset

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "data"
        _make(folder, rows)
        loader = Loader(Dataset(folder), "train", LoaderConfig(path=str(folder)), batch=batch)
        found: dict[str, Any] = {"rows": rows, "batch": batch, **_stream(loader)}
        found["copy_rows_per_s"] = _copy_rate(loader)
        found["ratio_to_copy"] = found["rows_per_s"] / found["copy_rows_per_s"]
        found["torchrec_in_memory_rows_per_s"] = _torchrec_rate(Path(temporary), min(rows, PEER_ROWS), batch)
        found["shuffle"] = _shuffle_quality(loader, rows)
    typer.echo(f"streaming, row shuffle on       {found['rows_per_s']:>13,.0f} rows/s, one process")
    typer.echo(f"copy of the same bytes          {found['copy_rows_per_s']:>13,.0f} rows/s")
    typer.echo(
        f"TorchRec, npy in memory         {found['torchrec_in_memory_rows_per_s']:>13,.0f} rows/s, no row shuffle"
    )
    typer.echo(f"resident memory grew by         {found['grown_mb']:>13,.0f} MB over {rows:,} rows")
    for name, (ours, permutation) in found["shuffle"].items():
        typer.echo(f"{name:<46} {ours:>9.4f}, a true permutation {permutation:.4f}")
    if as_json:
        typer.echo(json.dumps(found))


def _make(folder: Path, rows: int) -> None:
    import numpy as np
    import pyarrow as pa

    from dist_rec.core.schema import Column, Manifest, Split, Table
    from dist_rec.data.shards import ShardWriter, arrow_schema

    # The first two numbers of a row encode its index, exactly in float32.
    columns = (
        Column(name="label", kind="label"),
        *(Column(name=f"int_{index}", kind="dense") for index in range(DENSE)),
        *(Column(name=f"cat_{index}", kind="categorical", table=f"cat_{index}") for index in range(CATEGORICAL)),
    )
    schema, random = arrow_schema(columns), np.random.default_rng(0)
    shards = []
    for number in range(SHARDS):
        first, last = rows * number // SHARDS, rows * (number + 1) // SHARDS
        with ShardWriter(folder, f"train/{number:05d}.arrows", schema) as writer:
            for start in range(first, last, 1 << 17):
                index = np.arange(start, min(start + (1 << 17), last))
                values = {
                    column.name: random.integers(0, TABLE_ROWS, len(index), np.int32)
                    if column.kind == "categorical"
                    else random.random(len(index), np.float32)
                    for column in columns
                }
                values |= {"int_0": (index >> 12).astype(np.float32), "int_1": (index & 4095).astype(np.float32)}
                writer.write(pa.table(values, schema))
            shards.append(writer.close())
    tables = {f"cat_{index}": Table(rows=TABLE_ROWS) for index in range(CATEGORICAL)}
    Manifest(columns=columns, tables=tables, splits={"train": Split(rows=rows, shards=tuple(shards))}).save(folder)


def _stream(loader: "Loader") -> dict[str, float]:
    import time

    for _ in loader.batches(0, min(20, loader.steps_per_epoch)):
        pass
    before = peak = _resident_mb()
    started, seen = time.perf_counter(), 0
    for batch in loader.batches(0, loader.steps_per_epoch):
        seen += len(batch.labels)
        peak = max(peak, _resident_mb())
    assert seen == loader.rows
    return {"rows_per_s": seen / (time.perf_counter() - started), "grown_mb": peak - before}


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def _copy_rate(loader: "Loader") -> float:
    """Rows per second of copying a batch in memory: an upper limit."""
    import time

    import torch

    batch = next(iter(loader.batches(0, 1)))
    tensors = (batch.dense, batch.ids.values(), batch.ids.lengths(), batch.labels, batch.weights)
    size = sum(tensor.nbytes for tensor in tensors)
    source, target = torch.ones(64, size, dtype=torch.uint8), torch.zeros(64, size, dtype=torch.uint8)
    rates = []
    for _ in range(10):
        started = time.perf_counter()
        for place in range(64):
            target[place].copy_(source[place])
        rates.append(64 * len(batch.labels) / (time.perf_counter() - started))
    return sorted(rates)[5]


def _torchrec_rate(folder: Path, rows: int, batch: int) -> float:
    import time

    import numpy as np
    from torchrec.datasets.criteo import InMemoryBinaryCriteoIterDataPipe

    random = np.random.default_rng(0)
    np.save(folder / "dense.npy", random.random((rows, DENSE), np.float32))
    np.save(folder / "sparse.npy", random.integers(0, TABLE_ROWS, (rows, CATEGORICAL), np.int32))
    np.save(folder / "labels.npy", np.zeros((rows, 1), np.int32))
    files = ([str(folder / f"{name}.npy")] for name in ("dense", "sparse", "labels"))
    pipe = InMemoryBinaryCriteoIterDataPipe("train", *files, batch_size=batch, rank=0, world_size=1)
    started = time.perf_counter()
    seen = sum(len(item.labels) for item in pipe)
    return seen / (time.perf_counter() - started)


def _shuffle_quality(loader: "Loader", rows: int) -> dict[str, tuple[float, float]]:
    """Measures of randomness of the loader's order, each beside that of a true permutation."""
    import numpy as np

    from dist_rec.data.shards import BLOCK_ROWS

    batches = [batch.dense[:, :2].long() for batch in loader.batches(0, loader.steps_per_epoch)]
    loaded = np.concatenate([(pair[:, 0] * 4096 + pair[:, 1]).numpy() for pair in batches])
    size = len(batches[0])

    def measures(order: np.ndarray) -> dict[str, float]:
        full_batches = order[: rows // size * size].reshape(-1, size)
        blocks = np.sort(full_batches // BLOCK_ROWS, axis=1)
        shares = np.stack([(full_batches * SHARDS // rows == shard).mean(1) for shard in range(SHARDS)])
        return {
            "correlation of order and position": abs(float(np.corrcoef(order, np.arange(rows))[0, 1])),
            "blocks that a batch draws from": float((np.diff(blocks, axis=1) > 0).sum(1).mean() + 1),
            "deviation of a shard's share in a batch": float(shares.std() * SHARDS),
        }

    ours, permutation = measures(loaded), measures(np.random.default_rng(1).permutation(rows))
    return {name: (value, permutation[name]) for name, value in ours.items()}
