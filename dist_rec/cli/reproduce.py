"""`dist-rec reproduce`: a table of a list of configs, trained with several seeds, beside published results."""

import math
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dist_rec.cli.options import AsJson
from dist_rec.core.errors import UserError
from dist_rec.core.log import to_json

if TYPE_CHECKING:
    from dist_rec.cli.study import Row, Study

LISTS = Path("configs/reproduce")


def reproduce(
    study: Annotated[
        Path, typer.Argument(help="A TOML file with a list of runs, or the name of one in configs/reproduce.")
    ],
    raw: Annotated[Path, typer.Option(help="Folder of the raw data sets.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the prepared data, runs and table.")] = Path("reproduced"),
    only: Annotated[str, typer.Option(help="Only runs whose name contains this text.")] = "",
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds per run, instead of the list's number.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Number of processes that train each run.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Train every config of a list, and print mean scores beside those of papers and of other implementations.

    Started again, the command goes on where it stopped, even within a run; it does not repeat finished runs. The table
    is saved as OUT/NAME.md.

        dist-rec reproduce ctr --raw ~/datasets
    """
    from dist_rec.cli.study import Place, Study

    path = study if study.suffix else LISTS / f"{study}.toml"
    listed = Study.read(path)
    chosen = [run for run in listed.run if only in run.name]
    if not chosen:
        raise UserError(
            f"no run of {path} has {only!r} in its name; its runs: {', '.join(run.name for run in listed.run)}"
        )
    place = Place(path.parent, raw, out, processes)
    rows = []
    for index, run in enumerate(chosen):
        typer.echo(f"[{index + 1}/{len(chosen)}] {run.name}", err=True)
        rows.append(listed.carry_out(run, place, seeds or run.seeds or listed.seeds))
    table = "\n".join(_markdown(listed, rows))
    (out / f"{path.stem}.md").write_text(table + "\n")
    typer.echo(table)
    if as_json:
        typer.echo(to_json({"runs": [row.summary() for row in rows]}))


def _markdown(study: "Study", rows: list["Row"]) -> Iterable[str]:
    shown = [name for name in study.metrics if any(name in row.scores for row in rows)]
    header = ["run", "config", "parameters", *(f"test {name}" for name in shown), "rows/s", "paper", "peer"]
    yield _line(header)
    yield _line(["---"] * len(header))
    for row in rows:
        scores = [_spread(row.scores.get(metric, [])) for metric in shown]
        size, rate = (f"{number:,.0f}" if number else "" for number in (row.parameters, row.rows_per_s))
        made_by = row.run.baseline or Path(row.run.config).stem
        yield _line([row.run.name, made_by, size, *scores, rate, row.run.paper, row.run.peer])


def _spread(values: list[float]) -> str:
    """The mean; of three seeds or more with half of its 95 % interval; and for several the range in brackets."""
    if not values:
        return ""
    shown = f"{mean(values):.4f}"
    if len(values) > 2:
        shown += f" ± {_half_interval(values):.4f}"
    return shown if len(values) == 1 else f"{shown} ({min(values):.4f}–{max(values):.4f})"


def _half_interval(values: list[float]) -> float:
    """Half of the 95 % confidence interval of the mean, by Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def _line(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
