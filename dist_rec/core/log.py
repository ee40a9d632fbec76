"""Messages of a command beside its result, and results as text."""

import json
import logging
import math
import os
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NOTES = "DIST_REC_NOTES"
"""Environment variable in which the launcher passes the folder for notes."""


def quiet_libraries() -> None:
    """Hides warnings of libraries that the user cannot act on; DIST_REC_VERBOSE=1 shows them."""
    if os.environ.get("DIST_REC_VERBOSE"):
        return
    # torch and torchrec deprecate functions that TorchRec itself uses.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("torch.fx._symbolic_trace", "torchrec"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # FBGEMM 1.7 is missing from its own table of compatible versions.
    logging.getLogger().addFilter(lambda record: "_fbgemm_torch_compat_table" not in str(record.msg))


@dataclass(frozen=True)
class Note:
    """The reason why one of many processes ended, left for the launcher to report."""

    rank: int
    code: int
    """Exit code."""
    message: str
    time: float
    """Seconds since the epoch."""


def complain(message: str, code: int) -> int:
    """Prints why this process ends with exit code `code`, and returns that code.

    Under `dist_rec.cli.launch` it writes a note instead, so that the launcher prints a message of many processes once.
    """
    named = os.environ.get("RANK", "0")
    rank = int(named) if named.isdecimal() else 0
    if folder := os.environ.get(NOTES):
        attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        partial = Path(folder, f".{rank}")
        partial.write_text(json.dumps(asdict(Note(rank, code, message, time.time()))))
        partial.rename(Path(folder, f"{attempt:04}.{rank}"))
    else:
        print(message if rank == 0 else f"[process {rank}] {message}", file=sys.stderr, flush=True)
    return code


def read_notes(folder: Path) -> list[Note]:
    """The notes of the newest attempt, the earliest first."""
    files = sorted(folder.glob("[0-9][0-9][0-9][0-9].*"))
    newest = [file for file in files if file.stem == files[-1].stem]
    return sorted((Note(**json.loads(file.read_text())) for file in newest), key=lambda note: note.time)


def to_json(value: Any, indent: int | None = None) -> str:
    """Standard JSON: NaN and infinity become null, such as the AUC of rows of one class."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(scores: dict[str, float]) -> str:
    """Metrics on one line: the number of rows in full, the others with five decimals."""
    return "  ".join(
        f"{name} {value:,.0f}" if name == "rows" else f"{name} {value:.5f}" for name, value in scores.items()
    )
