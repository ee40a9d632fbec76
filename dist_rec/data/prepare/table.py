"""Tables of any kind, CSV or Parquet, to a prepared folder, by a schema.

    files ──count──▶ quantiles, means, vocabularies ──encode──▶ shards + manifest
           (training rows alone)                    (all files)

Both passes read chunk by chunk; files are dealt to processes.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest, Split, Table
from dist_rec.data.prepare.prepared import Prepared, bytes_of, copy_fit, find_splits, worker_count, write_splits
from dist_rec.data.prepare.table_encode import EncodeFile, table_rows
from dist_rec.data.prepare.table_fit import FitFile, Statistics, Transform, vocabulary_file
from dist_rec.data.prepare.table_schema import TableSchema, Valid
from dist_rec.data.shards import Dataset, new_folder
from dist_rec.data.workers import Workers


def prepare(
    schema: TableSchema | None,
    patterns: Mapping[str, Sequence[str]],
    out: Path,
    fitted_from: Path | None = None,
    workers: int | None = None,
) -> Prepared:
    """Turns files into a prepared folder; nothing of it is left if that fails.

    Args:
        schema: what the columns mean; None takes that of `fitted_from`.
        patterns: files or glob patterns of each split: train, valid, test.
        out: the folder to make.
        fitted_from: a folder prepared before, whose quantiles, means and vocabularies are applied instead of new ones.
        workers: processes; for None as many as there are processors, fewer for few or small files.

    Raises:
        UserError: for options that contradict each other, and for every fault of the input.
    """
    began = time.perf_counter()
    files = find_splits(patterns)
    earlier = None if fitted_from is None else _fitted_transform(fitted_from, schema)
    if earlier is None and (schema is None or "train" not in files):
        needed = "no schema; give one" if schema is None else "nothing to fit on; give --train"
        raise UserError(f"{needed}, or --fitted-from with a folder prepared before")
    features = earlier.features if earlier else schema
    assert features is not None
    held_out = features.valid if "train" in files and "valid" not in files else None
    with new_folder(out) as folder, Workers(workers or worker_count(files), __name__) as pool:
        warnings: list[str] = []
        if earlier and fitted_from:
            copy_fit(fitted_from, {vocabulary_file(table): of for table, of in earlier.vocabulary.items()}, folder)
            transform = earlier
        else:
            statistics = _count(files["train"], features, held_out, pool)
            transform, warnings = statistics.fit(features, folder), statistics.warnings(features)
        splits = _encode(files, transform, held_out, folder, pool)
        tables = {table: Table(rows=rows) for table, rows in table_rows(features, folder).items()}
        empty = [table for table, of in tables.items() if of.rows == 1]
        warnings += [
            f"table {table} has one row only, that of unknown ids: no value comes as often as its min_count"
            for table in empty
        ]
        manifest = Manifest(
            columns=features.columns,
            tables=tables,
            splits=splits,
            transform=transform.model_dump(mode="json", exclude_defaults=True) | {"source": "table"},
        )
        manifest.save(folder)
    return Prepared(manifest, time.perf_counter() - began, tuple(warnings))


def _fitted_transform(fitted_from: Path, schema: TableSchema | None) -> Transform:
    values = Dataset(fitted_from).manifest.transform
    if values.get("source") != "table":
        raise UserError(f"--fitted-from {fitted_from} was not prepared by `dist-rec prepare table`")
    transform = Transform.parse(values, f"{fitted_from}/manifest.json: transform.")
    if schema is not None and schema != transform.features:
        raise UserError(f"the schema is not that of --fitted-from {fitted_from}; leave it out to apply that fit")
    return transform


def _count(files: Sequence[str], schema: TableSchema, held_out: Valid | None, pool: Workers) -> Statistics:
    tasks = [FitFile(file, index, schema, held_out) for index, file in enumerate(files)]
    total = Statistics()
    for statistics in pool.run(tasks, "read train", bytes_of(files)):
        total.merge(statistics)
    if not total.rows:
        raise UserError("no training row is left; lower valid.share, or give more rows")
    return total


def _encode(
    files: Mapping[str, Sequence[str]], transform: Transform, held_out: Valid | None, folder: Path, pool: Workers
) -> dict[str, Split]:
    tasks = [
        EncodeFile(file, split, index, transform, folder, held_out if split == "train" else None)
        for split, of_split in files.items()
        for index, file in enumerate(of_split)
    ]
    return write_splits(tasks, [task.path for task in tasks], pool)
