"""`dist-rec train`."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

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
        typer.echo(to_json(result))


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
        with _run_folder(folder, settings, resume) if process.first else nullcontext():
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
    if folder.exists() and not (folder / "config.toml").is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} is not a run: it holds no config.toml; choose another --run-dir")
    return folder


@contextmanager
def _run_folder(folder: Path, settings: Any, resume: bool) -> Iterator[None]:
    """Makes the folder of a run; a run that fails before it has saved leaves none.

    Raises:
        UserError: if the folder cannot be made, or another run has just made it.
    """
    from dist_rec.train.checkpoint import remove_partial

    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=resume)
        (folder / "config.toml").write_text(_toml(settings))
    except OSError as error:
        raise UserError(f"the folder of the run, {folder}, cannot be written: {error.strerror}") from None
    try:
        yield
    except BaseException:
        if new and not list(folder.glob("checkpoints/step_*")):
            _remove(folder)
        remove_partial(folder / "checkpoints")
        raise


def _remove(folder: Path) -> None:
    # Renamed first: a save under way in another thread or process goes on writing under the old name.
    gone = folder.with_name(f".{folder.name}.gone")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


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
