"""`dist-rec prepare ratings`, whose flags are the fields of its configs."""

from typing import Annotated, Any, Literal

import typer

from dist_rec.cli.flags import with_flags
from dist_rec.cli.prepare import AsJson, Out, run
from dist_rec.prepare.ratings.source import Options, RatingFiles
from dist_rec.prepare.ratings.split import SPLITTERS, splitter

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(no_args_is_help=True)
@with_flags(Options, *SPLITTERS.values())
def ratings(
    files: Annotated[
        list[str], typer.Argument(help="Rating files, plain or gzipped, or quoted patterns.", metavar="FILES")
    ],
    out: Out,
    split: Annotated[
        Literal[tuple(SPLITTERS)],  # type: ignore[valid-type]
        typer.Option(help="What is for training, validation and test.", show_default=False),
    ],
    test: Annotated[list[str] | None, typer.Option(help="leave-one-out: files of the test ratings.")] = None,
    bounds: Annotated[
        tuple[float, float] | None, typer.Option("--range", help="Lowest and highest rating that may occur.")
    ] = None,
    separator: Annotated[str | None, typer.Option(help="Between fields; found in the first line if not given.")] = None,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Prepare ratings: `user item rating \\[timestamp]` a line, separated by tab, comma, '::', ';' or space.

    With or without a header; ids are any text. Each split has a protocol's name, and its own options:

        dist-rec prepare ratings train.rating --test test.rating --split leave-one-out \\
            --negatives test.negative --implicit --out data/loo

        dist-rec prepare ratings ratings.dat --split random --test-share 0.1 --layout items --out data/items

        dist-rec prepare ratings ratings.csv --split held-out-users --valid-users 600 --test-users 600 \\
            --min-rating 4 --min-interactions 5 --implicit --layout users --out data/users

    Users and items become rows by descending count in training (`vocabulary/*.txt` keeps the ids); row 0 is for those
    that training never saw, and such validation and test ratings are kept. Of several ratings of an item by a user the
    newest counts. Ratings are held in memory: 20 bytes each, about 250 at the peak, while they are sorted and written.
    """
    options = Options.parse({key: settings.pop(key) for key in Options.model_fields}, "--")
    run(RatingFiles(files, splitter(split, settings), options, test or [], separator, bounds), out, None, as_json)
