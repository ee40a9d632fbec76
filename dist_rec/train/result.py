"""`result.json` of a run folder."""

import json
import logging
from pathlib import Path
from typing import Any

from dist_rec.core.log import to_json

log = logging.getLogger(__name__)


def read_result(folder: Path) -> dict[str, Any]:
    """The result that a run wrote; empty if there is none."""
    try:
        return json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return {}


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Writes it whole or not at all; a full disk costs a warning, not the run."""
    path, partial = folder / "result.json", folder / ".result.json.partial"
    try:
        partial.write_text(to_json(result, indent=1) + "\n")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        log.warning("%s was not written: %s", path, error)
