"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="Folder to create.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
