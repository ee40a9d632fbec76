"""`dist-rec synthesize`: raw click logs with a known signal."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from dist_rec.cli.options import AsJson, Out


def synthesize(
    out: Out,
    rows: Annotated[int, typer.Option(min=1, help="Rows in all files together.")] = 200_000,
    files: Annotated[int, typer.Option(min=1, help="Number of files part_0.tsv.gz, part_1.tsv.gz, …")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the click model and the rows.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per processor if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write raw files in Criteo's format, with clicks drawn from a known model, to try everything without real data.

    Ids are skewed and some values are missing. truth.json holds the best AUC and logloss that any model can reach:

        dist-rec synthesize --rows 200000 --out raw
        dist-rec prepare criteo --train 'raw/part_[0-7].tsv.gz' --valid raw/part_8.tsv.gz \\
            --test raw/part_9.tsv.gz --out data
    """
    from dist_rec.data.workers import preload

    if workers != 1:
        preload("dist_rec.data.synthetic")
    from dist_rec.data.synthetic import synthesize as synthesize_files

    truth = synthesize_files(rows, out, files, seed, workers)
    typer.echo(
        f"{out}: {truth.rows:,} rows in {files} files, {truth.click_rate:.2%} clicks; "
        f"the best AUC is {truth.bayes_auc:.4f}, the best logloss {truth.bayes_logloss:.4f}"
    )
    if as_json:
        typer.echo(json.dumps({"out": str(out), "files": files, **asdict(truth)}))


def synthesize_sessions(
    out: Out,
    users: Annotated[int, typer.Option(min=1, help="Users, of 4 to 12 sessions each.")] = 2000,
    genres: Annotated[int, typer.Option(min=1, help="Genres; each session is about one.")] = 20,
    brands: Annotated[int, typer.Option(min=1, help="Brands; each user keeps to one.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of everything.")] = 0,
) -> None:
    """Write a log of sessions whose next item depends on a brand that a user keeps to over all sessions.

    A session does not tell the brand at its beginning, so a model that remembers the user is ahead of others:

        dist-rec synthesize-sessions --out raw
        dist-rec prepare sessions raw/sessions.csv.gz --split last-session --out data
    """
    from dist_rec.data.synthetic_sessions import FILE
    from dist_rec.data.synthetic_sessions import synthesize_sessions as write_sessions

    events = write_sessions(out, users, genres, brands, seed)
    typer.echo(f"{out / FILE}: {events:,} events of {users:,} users")
