"""`dist-rec`: one command with sub-commands. What the user can mend is one line on stderr and exit code 2."""

import sys

import typer

from dist_rec.cli.doctor import doctor
from dist_rec.cli.evaluate import evaluate
from dist_rec.cli.heads import heads
from dist_rec.cli.prepare import prepare
from dist_rec.cli.synthesize import synthesize
from dist_rec.cli.train import train
from dist_rec.core.errors import RESUMABLE, Interrupted, UserError
from dist_rec.core.log import complain, quiet_libraries

app = typer.Typer(
    help="Train recommenders at scale: sharded embeddings, any head, one process or a thousand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(prepare, name="prepare")
for command in (train, evaluate, heads, doctor, synthesize):
    app.command()(command)


def main() -> None:
    """Runs the command line."""
    quiet_libraries()
    try:
        app()
    except UserError as error:
        complain(f"error: {error}")
        sys.exit(2)
    except Interrupted as stopped:
        complain(str(stopped))
        sys.exit(RESUMABLE)
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
