"""`dist-rec`: one command with sub-commands. An error of the user is one line on stderr and exit code 2."""

import os
import sys
import traceback
from typing import Any

import typer

from dist_rec.cli.baseline import baseline
from dist_rec.cli.bench import bench
from dist_rec.cli.doctor import doctor, self_test
from dist_rec.cli.evaluate import evaluate
from dist_rec.cli.heads import heads
from dist_rec.cli.prepare import prepare
from dist_rec.cli.reproduce import reproduce
from dist_rec.cli.synthesize import synthesize, synthesize_sessions
from dist_rec.cli.train import train
from dist_rec.core.errors import RESUMABLE, Interrupted, UserError
from dist_rec.core.log import complain, quiet_libraries

INTERRUPTED = 130
# The class of click, or of the copy of click that newer versions of typer contain.
UsageError: type[Any] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="Train recommenders at scale: sharded embeddings, any head, one process or a thousand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(prepare, name="prepare")
app.add_typer(baseline, name="baseline")
app.add_typer(bench, name="bench")
for command in (train, evaluate, reproduce, heads, doctor, synthesize, synthesize_sessions):
    app.command()(command)
app.command(hidden=True)(self_test)


def main() -> None:
    """Runs the command line and ends the process."""
    quiet_libraries()
    code = _run()
    sys.stdout.flush()
    sys.stderr.flush()
    # Skips the interpreter's teardown, in which a thread of Gloo that wakes up aborts the process; after an error
    # NCCL would wait there for processes that have ended.
    os._exit(code)


def _run() -> int:
    try:
        code = app(prog_name="dist-rec", standalone_mode=False) or 0
    except UserError as error:
        return complain(f"error: {error}", 2)
    except UsageError as error:
        return _misused(error)
    except Interrupted as stopped:
        return complain(str(stopped), RESUMABLE)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        if error.filename is None:
            return complain(traceback.format_exc().rstrip(), 1)
        return complain(f"error: {error.filename}: {error.strerror}", 2)
    except Exception:
        return complain(traceback.format_exc().rstrip(), 1)
    return complain("interrupted", code) if code == INTERRUPTED else code


def _misused(error: Any) -> int:
    message = error.format_message()
    if message:
        complain(f"error: {message.rstrip('.')}; see {error.ctx.command_path} --help", error.exit_code)
    return error.exit_code


if __name__ == "__main__":
    main()
