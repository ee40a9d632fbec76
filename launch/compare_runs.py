"""Compares loss curve and test AUC of runs with those of another: `compare_runs.py EXPECTED RUN …` (run folders)."""

import json
import sys
from pathlib import Path

# Sums in another order differ by rounding, and optimizers amplify the difference.
LOSS, AUC = 2e-3, 2e-3


def curve(folder: Path) -> dict[int, float]:
    """Training loss by step."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def main(expected: Path, *runs: Path) -> None:
    """Prints the largest differences of each run; exits with an error if one is too large."""
    losses, auc = curve(expected), json.loads((expected / "result.json").read_text())["test"]["auc"]
    for run in runs:
        others = curve(run)
        if others.keys() != losses.keys() or not losses:
            sys.exit(f"error: {run} logged other steps than {expected}, or none")
        loss_gap = max(abs(others[step] - loss) for step, loss in losses.items())
        auc_gap = abs(json.loads((run / "result.json").read_text())["test"]["auc"] - auc)
        print(
            f"{run.name}: losses within {loss_gap:.1e} (allowed {LOSS}), test AUC within {auc_gap:.1e} (allowed {AUC})"
        )
        if not (loss_gap <= LOSS and auc_gap <= AUC):
            sys.exit(f"error: {run} does not train like {expected}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
