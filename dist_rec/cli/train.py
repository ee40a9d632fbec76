"""`dist-rec train`."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from dist_rec.core.errors import UserError
from dist_rec.core.log import shown


def train(
    config: Annotated[Path, typer.Argument(help="A TOML file; see configs/.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings that replace the file's, such as train.batch=4096.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run-dir", help="Folder of the run. [default: runs/CONFIG-DATE-TIME]", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's newest checkpoint.")] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Resume although config or data have changed since.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print every setting in effect and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, last.")] = False,
) -> None:
    """Train a recommender and evaluate its best checkpoint.

    Alone this is one process; under torchrun it is as many as are started (launch/local.sh, launch/slurm.sbatch).

        dist-rec train configs/dlrm_criteo.toml data.path=data/criteo train.epochs=1

        launch/local.sh 4 configs/dlrm_criteo.toml data.path=data/criteo
    """
    from dist_rec.core.config import read_toml
    from dist_rec.train.config import RunConfig

    settings = RunConfig.parse(read_toml(config, overrides or ()))
    settings.head_config()
    if print_config:
        typer.echo(_toml(settings))
        return
    if resume and run is None:
        raise UserError("--resume needs --run-dir: which run should go on?")
    result = _train(settings, config.stem, run, resume, allow_changes)
    if result is not None and as_json:
        typer.echo(json.dumps(result))


def _train(
    settings: Any, name: str, run: Path | None, resume: bool, allow_changes: bool = False
) -> dict[str, Any] | None:
    from rich.console import Console

    from dist_rec.core.process import on_first, process_group, this_process
    from dist_rec.embedding.sharding import plan_table
    from dist_rec.train.trainer import Trainer

    process = this_process(settings.train.device)
    console = Console(stderr=True)
    with process_group(process):
        folder = on_first(process, lambda: _choose_folder(name, run, resume))
        trainer = Trainer(settings, process, folder)
        if resume:
            trainer.resume(allow_changes)
        with _run_folder(folder, settings) if process.first else nullcontext():
            if process.first:
                console.print(plan_table(trainer.model, process.world))
            result = trainer.fit()
    if not process.first:
        return None
    console.print(_report(result, folder, process.world))
    return {"run": str(folder), **result}


def _choose_folder(name: str, run: Path | None, resume: bool) -> Path:
    from datetime import datetime

    folder = run or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    if folder.exists() and not resume:
        raise UserError(f"{folder} exists already; go on with --resume, or choose another --run-dir")
    return folder


@contextmanager
def _run_folder(folder: Path, settings: Any) -> Iterator[None]:
    """Makes the folder of a run; a run that fails before it began to save leaves none."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(_toml(settings))
    try:
        yield
    except BaseException:
        if new and not (folder / "checkpoints").exists():
            shutil.rmtree(folder)
        raise


def _toml(settings: Any) -> str:
    import tomli_w

    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


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
