"""`dist-rec prepare`: raw files to prepared folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import typer.core
import typer.main

from dist_rec.cli.options import AsJson, Out

if TYPE_CHECKING:
    from dist_rec.prepare.engine import Source


class Lazy(typer.core.TyperGroup):
    """Creates `ratings` and `sessions` only when they are needed: the configs of their flags take time to import."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands."""
        return [*super().list_commands(ctx), "ratings", "sessions"]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command with a name."""
        if cmd_name not in ("ratings", "sessions"):
            return super().get_command(ctx, cmd_name)
        app = typer.Typer(add_completion=False, rich_markup_mode="rich")
        app.command(no_args_is_help=True)(_sessions() if cmd_name == "sessions" else _ratings())
        return typer.main.get_command(app)


def _ratings() -> Callable[..., None]:
    from dist_rec.cli.flags import with_flags
    from dist_rec.prepare.ratings.source import Options
    from dist_rec.prepare.ratings.split import SPLITTERS

    return with_flags(ratings, Options, split=SPLITTERS)


def _sessions() -> Callable[..., None]:
    from dist_rec.cli.flags import with_flags
    from dist_rec.prepare.sessions.options import Options
    from dist_rec.prepare.sessions.split import SPLITTERS

    return with_flags(sessions, Options, split=SPLITTERS)


prepare = typer.Typer(
    cls=Lazy, help="Turn raw files into a folder of shards that describes itself.", no_args_is_help=True
)

Train = Annotated[list[str] | None, typer.Option(help="Training files. Repeatable, as the next two.")]
Valid = Annotated[list[str] | None, typer.Option(help="Validation files.")]
Test = Annotated[list[str] | None, typer.Option(help="Test files.")]
FittedFrom = Annotated[Path | None, typer.Option(help="Reuse the vocabularies and transforms of this prepared folder.")]
WorkerCount = Annotated[int | None, typer.Option(min=1, help="Processes; by the size of the files if not given.")]


@prepare.command(no_args_is_help=True)
def criteo(
    out: Out,
    train: Train = None,
    valid: Valid = None,
    test: Test = None,
    min_count: Annotated[
        int | None,
        typer.Option(help="Values seen fewer times in the training files are unknown (row 0); 2 if not given."),
    ] = None,
    buckets: Annotated[int | None, typer.Option(help="Hash values to this many rows, without a vocabulary.")] = None,
    fitted_from: FittedFrom = None,
    workers: WorkerCount = None,
    as_json: AsJson = False,
) -> None:
    """Prepare Criteo's click logs (Kaggle or Terabyte): a label, 13 integers and 26 hexadecimal categories per line.

    Files are tab-separated, plain or gzipped; an empty field is a missing value. Give files or quoted patterns:

        dist-rec prepare criteo --train 'raw/part_[0-7].tsv.gz' --valid raw/part_8.tsv.gz \\
            --test raw/part_9.tsv.gz --out data

    Integers x become log1p(max(x, 0)), missing ones 0. Categories become rows of a table, by a vocabulary of the
    training files or by hashing; row 0 is for missing and unknown values. Memory does not grow with the size of the
    files. While vocabularies are fitted, the disk holds a second copy of the training rows.

    Prepare later files with the vocabularies of earlier ones:

        dist-rec prepare criteo --fitted-from data --test 'day_24.gz' --out day_24
    """
    from dist_rec.data.workers import preload

    if workers != 1:
        preload("dist_rec.prepare.criteo.source")
    from dist_rec.prepare.criteo.source import Criteo

    _run(Criteo({"train": train, "valid": valid, "test": test}, fitted_from, min_count, buckets), out, workers, as_json)


@prepare.command(no_args_is_help=True)
def table(
    out: Out,
    schema: Annotated[Path | None, typer.Argument(help="Description of the columns.", metavar="SCHEMA.toml")] = None,
    train: Train = None,
    valid: Valid = None,
    test: Test = None,
    fitted_from: FittedFrom = None,
    workers: WorkerCount = None,
    as_json: AsJson = False,
) -> None:
    """Prepare any table, CSV (plain or gzipped) or Parquet, by a schema that describes its columns.

        dist-rec prepare table movies.toml --train 'raw/2024-*.csv.gz' --test raw/2025-01.csv.gz --out data

    A feature reads the column of its own name, unless `column` names another. The schema, movies.toml:

        \\[source]                  # format, separator, header, names, comment
        missing = ["", "?"]
        \\[label]
        column = "watched"
        positive = ["yes"]        # without it: a number, such as a rating
        \\[dense.age]
        transform = "quantile"    # or log1p, standardise, identity
        \\[categorical.user]
        min_count = 2             # a vocabulary of the training rows
        \\[categorical.city]
        buckets = 1000            # hashed
        \\[categorical.age_group]
        column = "age"
        boundaries = [18, 25, 30] # a number in intervals
        \\[bag.genres]              # several ids; "sequence" keeps their order
        separator = "|"
        \\[cross.user_x_city]       # a combination as one id
        of = ["user", "city"]
        buckets = 100000
        \\[valid]                   # used without --valid
        share = 0.1               # of the training rows

    Row 0 of every table is for missing and unknown values. A complete example is configs/data/adult.toml. Prepare
    later files with the quantiles, means and vocabularies of earlier ones:

        dist-rec prepare table --fitted-from data --test raw/2025-02.csv.gz --out later
    """
    from dist_rec.prepare.table.schema import TableSchema
    from dist_rec.prepare.table.source import TableFiles

    parsed = None if schema is None else TableSchema.read(schema)
    _run(TableFiles({"train": train, "valid": valid, "test": test}, fitted_from, parsed), out, workers, as_json)


@prepare.command(no_args_is_help=True)
def libfm(
    out: Out,
    train: Train = None,
    valid: Valid = None,
    test: Test = None,
    label: Annotated[
        Literal["rating", "click"] | None,
        typer.Option(help="rating (if not given): labels as they are; click: -1 becomes 0."),
    ] = None,
    fitted_from: FittedFrom = None,
    workers: WorkerCount = None,
    as_json: AsJson = False,
) -> None:
    """Prepare libFM's files, plain or gzipped: `label index:value …`.

        dist-rec prepare libfm --train frappe.train.libfm --valid frappe.validation.libfm \\
            --test frappe.test.libfm --out data/frappe

    If all rows have the same number of entries, all values are 1, and each position has its own range of indices, then
    the positions become categorical columns field_0, field_1 …. Otherwise a row becomes one bag "features", with
    weights unless all values are 1. Indices of the training files become rows of tables; row 0 is for all others.
    """
    from dist_rec.prepare.libfm.source import LibFM

    _run(LibFM({"train": train, "valid": valid, "test": test}, fitted_from, label), out, workers, as_json)


def ratings(
    files: Annotated[
        list[str], typer.Argument(help="Rating files, plain or gzipped, or quoted patterns.", metavar="FILES")
    ],
    out: Out,
    split: Annotated[str, typer.Option(help="Protocol for training, validation and test.", show_default=False)],
    valid: Annotated[list[str] | None, typer.Option(help="given: files of the validation ratings.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="given, leave-one-out: files of the test ratings.")] = None,
    bounds: Annotated[
        tuple[float, float] | None, typer.Option("--range", help="Lowest and highest valid rating.")
    ] = None,
    separator: Annotated[str | None, typer.Option(help="Field separator; by default that of the first line.")] = None,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Prepare ratings, one per line: `user item rating \\[timestamp]`, separated by tab, comma, '::', ';' or space.

    A header is optional; ids are any text. Each --split has its own options:

        dist-rec prepare ratings train.rating --test test.rating --split leave-one-out \\
            --negatives test.negative --implicit --out data/loo

        dist-rec prepare ratings ratings.dat --split random --test-share 0.1 --layout items --out data/items

        dist-rec prepare ratings ratings.csv --split held-out-users --valid-users 600 --test-users 600 \\
            --min-rating 4 --min-interactions 5 --implicit --layout users --out data/users

        dist-rec prepare ratings u1.base --split given --test u1.test --out data/given

    Users and items become rows of tables by descending count in training; `vocabulary/*.txt` holds the ids. Row 0 is
    for users and items without training ratings; their validation and test ratings are kept. If a user has rated an
    item several times, the newest rating counts. A rating takes 20 bytes of memory, and about 50 at the peak, while
    ratings are sorted and written; a candidate takes 4 bytes.
    """
    from dist_rec.prepare.ratings.source import Options, RatingFiles
    from dist_rec.prepare.ratings.split import splitter

    options = Options.parse({key: settings.pop(key) for key in Options.model_fields}, "--")
    of_split = splitter(split, settings)
    _run(RatingFiles(files, of_split, options, test or [], separator, bounds, valid or []), out, None, as_json)


def sessions(
    files: Annotated[
        list[str], typer.Argument(help="CSV, plain or gzipped, or Parquet, or quoted patterns.", metavar="FILES")
    ],
    out: Out,
    split: Annotated[str, typer.Option(help="What is for training, validation and test.", show_default=False)],
    test: Annotated[list[str] | None, typer.Option(help="given: files of the test; FILES are for training.")] = None,
    valid: Annotated[list[str] | None, typer.Option(help="given: files of the validation.")] = None,
    session: Annotated[str | None, typer.Option(help="Column of the session or basket.")] = None,
    item: Annotated[str | None, typer.Option(help="Column of the item.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of the time.")] = None,
    user: Annotated[str | None, typer.Option(help="Column of the user.")] = None,
    items: Annotated[str | None, typer.Option(help="Parquet column of lists, each a whole session.")] = None,
    separator: Annotated[str | None, typer.Option(help="Of CSV; found in the first line if not given.")] = None,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Prepare sessions: an event a row, or a list of items a row, in columns with or without times and users.

    Columns with usual names (item_id, session_id, visitorid, timestamp …) are found; others are named, or numbered
    from 1 where text has no header. Each split has its own options:

        dist-rec prepare sessions train.parquet --test test.parquet --split given --items items --out data/clicks

        dist-rec prepare sessions clicks.csv.gz --split time --test-days 1 --unknown drop --out data/last_day

        dist-rec prepare sessions baskets.csv --split last-session --validation --out data/baskets

        dist-rec prepare sessions ratings.tsv --user 1 --item 2 --time 4 --layout windows --split fraction \\
            --out data/windows

    A row has a history and targets: the m targets belong to the last m items of the history, each the one that comes
    next; in windows they follow the whole history. Events are in the order of time, ties and files without times in
    that of the file; baskets without times in that of their numbers. Times are dates, or numbers: seconds if below
    10^11, milliseconds below 10^14, then micro- and nanoseconds. Where a user's whole sessions are split, the earlier
    ones come before those of validation and test, without targets. Items become rows by descending count in training;
    row 0 is for those that it never saw. Events are held in memory, about 60 bytes each at the peak.
    """
    from dist_rec.prepare.sessions.form import Columns
    from dist_rec.prepare.sessions.options import Options
    from dist_rec.prepare.sessions.source import SessionFiles
    from dist_rec.prepare.sessions.split import splitter

    options = Options.parse({key: settings.pop(key) for key in Options.model_fields}, "--")
    columns = Columns(session=session, item=item, time=time, user=user, items=items)
    source = SessionFiles(files, splitter(split, settings), options, columns, valid or [], test or [], separator)
    _run(source, out, None, as_json)


def _run(source: "Source[Any]", out: Path, workers: int | None, as_json: bool) -> None:
    """Prepares the files and prints a summary."""
    from dist_rec.prepare.engine import prepare

    prepared = prepare(source, out, workers)
    summary = prepared.summary()
    for name, split in summary["splits"].items():
        clicks = f", {split['click_rate']:.2%} clicks" if "click_rate" in split else ""
        typer.echo(f"{name:<5} {split['rows']:>13,} rows{clicks}")
    tables = prepared.manifest.tables
    typer.echo(f"{len(tables)} tables with {summary['table_rows']:,} rows in all")
    for warning in prepared.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{out}: {summary['rows']:,} rows in {summary['seconds']:.1f} s, {summary['rows_per_s']:,} rows/s")
    if as_json:
        typer.echo(json.dumps({"out": str(out), **summary}))
