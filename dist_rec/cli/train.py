"""`dist-rec train`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from dist_rec.cli.options import AsJson
from dist_rec.core.errors import UserError
from dist_rec.core.log import shown, to_json


def train(
    config: Annotated[Path, typer.Argument(help="A TOML file; see configs/.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings that replace the file's, such as train.batch=4096.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run-dir", help="Folder of the run. \\[default: runs/CONFIG-DATE-TIME]", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --run-dir.")] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Resume even if the config has changed.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings in effect and stop.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a recommender and evaluate its best checkpoint.

    This starts one process; to start several, use torchrun (launch/local.sh, launch/slurm.sbatch).

        dist-rec train configs/dlrm_criteo.toml data.path=data/criteo train.epochs=1

        launch/local.sh 4 configs/dlrm_criteo.toml data.path=data/criteo
    """
    from dist_rec.core.config import read_toml
    from dist_rec.train.config import RunConfig

    settings = RunConfig.parse(read_toml(config, overrides or ()))
    settings.head_config()
    if print_config:
        typer.echo(settings.to_toml())
        return
    if resume and run is None:
        raise UserError("--resume needs --run-dir, the folder of the run to go on with")
    result = _train(settings, config.stem, run, resume, allow_changes)
    if result is not None and as_json:
        typer.echo(to_json(result))


def _train(settings: Any, name: str, run: Path | None, resume: bool, allow_changes: bool) -> dict[str, Any] | None:
    from datetime import datetime

    from rich.console import Console

    from dist_rec.core.process import on_first, process_group, this_process
    from dist_rec.embedding.sharding import plan_table
    from dist_rec.train.run_folder import RunFolder, reserve
    from dist_rec.train.trainer import Trainer

    process = this_process(settings.train.device)
    console = Console(stderr=True)
    with process_group(process), ExitStack() as stack:
        new = Path(f"runs/{name}-{datetime.now():%Y%m%d-%H%M%S}")
        folder = RunFolder(run or on_first(process, lambda: reserve(new)))
        on_first(process, lambda: stack.enter_context(folder.owned(resume, reserved=run is None)))
        trainer = Trainer(settings, process, folder)
        if resume:
            trainer.resume(allow_changes)
        on_first(process, lambda: folder.make(settings))
        if process.first:
            console.print(plan_table(trainer.model, process.world))
        result = trainer.fit()
    if not process.first:
        return None
    console.print(_report(result, folder.path, process.world))
    if (stop := result["stop"])["reason"] == "patience":
        train, best = settings.train, settings.task.best
        console.print(
            f"stopped early, after step {stop['step']} of {stop['steps']}: no better {best} than that of step "
            f"{result['best_step']} in {train.patience} evaluations (train.patience)",
            soft_wrap=True,
        )
    return {"run": str(folder), **result}


def _report(result: dict[str, Any], folder: Path, world: int) -> Any:
    from rich.table import Table

    printed = Table(title=f"Run {folder}", title_justify="left", show_header=False)
    trained = result["train"]
    for split in ("valid", "test"):
        if split in result:
            printed.add_row(split, shown(result[split]))
    if result["best_step"] is not None:
        printed.add_row("best step", str(result["best_step"]))
    rate = f"{trained['rows_per_s']:,.0f} rows/s on {world} process{'es' if world > 1 else ''}"
    printed.add_row("training", f"{trained['rows']:,} rows in {trained['steps']:,} steps, {rate}")
    printed.add_row("time", "  ".join(f"{name} {value:.1f} s" for name, value in trained["seconds"].items()))
    printed.add_row("next", f"dist-rec evaluate {folder}   |   tensorboard --logdir {folder}")
    return printed
