"""`dist-rec evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from dist_rec.cli.options import AsJson
from dist_rec.core.log import shown, to_json


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    data: Annotated[
        Path | None, typer.Option(help="Another prepared folder, made with --fitted-from. \\[default: the run's]")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "test",
    checkpoint: Annotated[str, typer.Option(help="A step, `best` (on the validation split) or `last`.")] = "best",
    as_json: AsJson = False,
) -> None:
    """Compute the exact metrics of a run on a split, on one process or under torchrun."""
    from dist_rec.core.process import process_group, this_process
    from dist_rec.train.run import score_split
    from dist_rec.train.run_folder import RunFolder

    folder = RunFolder(run)
    process = this_process(folder.config.train.device)
    with process_group(process):
        scores = score_split(folder, data, split, checkpoint, process)
    if process.first:
        typer.echo(shown(scores))
        if as_json:
            typer.echo(to_json({"run": str(run), "split": split, **scores}))
