"""`dist-rec prepare`: raw files to prepared folders."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dist_rec.data.prepare.criteo import Prepared

prepare = typer.Typer(help="Turn raw files into a folder of shards that describes itself.", no_args_is_help=True)


@prepare.command(no_args_is_help=True)
def criteo(
    out: Annotated[Path, typer.Option(help="The folder to make.", show_default=False)],
    train: Annotated[list[str] | None, typer.Option(help="Training files. Repeatable, as the next two.")] = None,
    valid: Annotated[list[str] | None, typer.Option(help="Validation files.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Test files.")] = None,
    min_count: Annotated[
        int | None,
        typer.Option(help="Values seen less often in the training files are unknown, row 0. 2 if not given."),
    ] = None,
    buckets: Annotated[int | None, typer.Option(help="Hash the values to this many rows instead.")] = None,
    fitted_from: Annotated[
        Path | None, typer.Option(help="Apply the vocabularies or the hashing of this prepared folder.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one for each processor if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Prepare Criteo's click logs, Kaggle or Terabyte: a label, 13 integers, 26 hexadecimal categories a line.

    Files are plain or gzipped, tab-separated, an empty field is missing. Give files or quoted patterns:

        dist-rec prepare criteo --train 'raw/part_[0-7].tsv.gz' --valid raw/part_8.tsv.gz \\
            --test raw/part_9.tsv.gz --out data

    Integers x become log1p(max(x, 0)), missing ones 0. Categories become rows of a table by a vocabulary of the
    training files, or by hashing; row 0 is for missing and unknown values. Memory stays the same whatever the size
    of the files; while a vocabulary is fitted, the disk holds the training rows a second time.

    Later files are prepared with the tables of earlier ones:

        dist-rec prepare criteo --fitted-from data --test 'day_24.gz' --out day_24
    """
    from dist_rec.data.workers import preload

    if workers != 1:
        preload("dist_rec.data.prepare.criteo")
    from dist_rec.data.prepare.criteo import prepare as prepare_criteo

    patterns = {"train": train or [], "valid": valid or [], "test": test or []}
    prepared = prepare_criteo(patterns, out, min_count, buckets, fitted_from, workers)
    _print(prepared, out)
    if as_json:
        typer.echo(json.dumps({"out": str(out), **prepared.summary()}))


def _print(prepared: "Prepared", out: Path) -> None:
    summary = prepared.summary()
    for name, split in summary["splits"].items():
        typer.echo(f"{name:<5} {split['rows']:>13,} rows, {split['click_rate']:.2%} clicks")
    tables = prepared.manifest.tables
    typer.echo(f"{len(tables)} tables with {summary['table_rows']:,} rows in all")
    typer.echo(f"{out}: {summary['rows']:,} rows in {summary['seconds']:.1f} s, {summary['rows_per_s']:,} rows/s")
