"""What a command prints that is not its result."""

import logging
import os
import sys
import warnings


def quiet_libraries() -> None:
    """Keeps notices that the user can do nothing about off the screen; DIST_REC_VERBOSE=1 shows them."""
    if os.environ.get("DIST_REC_VERBOSE"):
        return
    # torch and torchrec deprecate what TorchRec itself uses.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("torch.fx._symbolic_trace", "torchrec"):
        logging.getLogger(name).setLevel(logging.ERROR)


def complain(message: str) -> None:
    """Prints an error; processes other than the first say which they are."""
    rank = os.environ.get("RANK", "0")
    print(message if rank == "0" else f"[process {rank}] {message}", file=sys.stderr, flush=True)


def shown(scores: dict[str, float]) -> str:
    """Metrics on one line: counts in full, the rest with five digits."""
    return "  ".join(
        f"{name} {value:,.0f}" if name == "rows" else f"{name} {value:.5f}" for name, value in scores.items()
    )
