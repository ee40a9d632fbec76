"""A study: a list of runs on prepared data sets, each with several seeds. Finished steps are not repeated.

raw files ── dist-rec prepare ──▶ OUT/data/NAME ── dist-rec train ──▶ OUT/runs/RUN-SEED/result.json ──▶ means
"""

import json
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Self

from pydantic import Field

from dist_rec.core.config import Config, read_toml
from dist_rec.core.errors import UserError
from dist_rec.train.config import RunConfig
from dist_rec.train.run_folder import RunFolder

DIST_REC = ("-m", "dist_rec.cli.main")
LAUNCH = ("-m", "dist_rec.cli.launch", "--standalone", "--nproc-per-node")


class StudyRun(Config):
    """One line of the table."""

    name: str
    """Name in the table."""
    config: str = ""
    """Config file, relative to the folder of the list."""
    baseline: str = ""
    """A command of `dist-rec baseline` instead of a config; it has no seed, and `settings` are its options."""
    data: str
    """Name of one of the study's data sets."""
    settings: tuple[str, ...] = ()
    """Overrides, such as `head.shared=false`; `{runs}` stands for the folder of the runs and `{seed}` for the seed."""
    seeds: int | None = Field(None, gt=0)
    """Number of seeds, instead of the list's."""
    paper: str = ""
    """Result in the paper."""
    peer: str = ""
    """Result of another implementation on the same data."""


class Study(Config):
    """The list of runs."""

    metrics: tuple[str, ...]
    """Metrics that are columns of the table, by their names in the task."""
    seeds: int = Field(3, gt=0)
    """Number of seeds of each run; the table has the means over them."""
    data: dict[str, tuple[str, ...]]
    """Arguments of `dist-rec prepare` for each data set. `{raw}` stands for the folder of the raw data, `{seed}` for
    the seed of the run; with it each seed has a split of its own."""
    run: tuple[StudyRun, ...] = Field(min_length=1)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the list; raises UserError that names the file and the key."""
        study = cls.parse(read_toml(path), f"{path}: ")
        for run in study.run:
            if run.data not in study.data:
                raise UserError(f"{path}: run {run.name!r}: unknown data {run.data!r}; known: {', '.join(study.data)}")
            if bool(run.config) == bool(run.baseline):
                raise UserError(f"{path}: run {run.name!r} needs a config or a baseline, and not both")
        return study

    def carry_out(self, run: StudyRun, place: "Place", seeds: int) -> "Row":
        """Prepares the data and trains, unless that is done already; baselines are fitted again each time."""
        result_of = _fit if run.baseline else _train
        results = [result_of(run, self._prepare(run.data, place, seed), place, seed) for seed in range(seeds)]
        return Row(run, results, self.metrics)

    def _prepare(self, name: str, place: "Place", seed: int) -> Path:
        words = self.data[name]
        data = place.out / "data" / (f"{name}-{seed}" if any("{seed}" in word for word in words) else name)
        if not data.exists():
            filled = [word.format(raw=place.raw, seed=seed) for word in words]
            _python(*DIST_REC, "prepare", *filled, "--out", str(data))
        return data


@dataclass(frozen=True)
class Place:
    """Folders and processes of a study."""

    configs: Path
    """Folder of the list."""
    raw: Path
    """Folder of the raw data sets."""
    out: Path
    """Folder of the prepared data and the runs."""
    processes: int
    """Number of processes that train each run, on this machine."""


@dataclass(frozen=True)
class Row:
    """A line of the table: the results of a run, one for each seed."""

    run: StudyRun
    results: list[dict[str, Any]]
    metrics: tuple[str, ...]

    @property
    def scores(self) -> dict[str, list[float]]:
        """Test scores by metric, one for each seed; null in a result is NaN here."""
        tests = [result["test"] for result in self.results]
        return {
            name: [math.nan if test[name] is None else test[name] for test in tests]
            for name in self.metrics
            if name in tests[0]
        }

    @property
    def rows_per_s(self) -> float:
        """Mean training speed; 0 for a baseline."""
        return mean(result["train"]["rows_per_s"] if "train" in result else 0.0 for result in self.results)

    @property
    def parameters(self) -> int:
        """Parameters of the tables and the dense part together; 0 for a baseline."""
        return sum(self.results[0].get("parameters", {}).values())

    def summary(self) -> dict[str, Any]:
        """The values for `--json`."""
        return {
            "name": self.run.name,
            "parameters": self.parameters,
            "test": {name: mean(values) for name, values in self.scores.items()},
            "rows_per_s": self.rows_per_s,
        }


def _train(run: StudyRun, data: Path, place: Place, seed: int) -> dict[str, Any]:
    runs = place.out / "runs"
    folder = RunFolder(runs / f"{re.sub('[^a-z0-9]+', '_', run.name.lower()).strip('_')}-{seed}")
    config, begun = place.configs / run.config, folder.path.exists()
    own = [setting.format(runs=runs, seed=seed) for setting in run.settings]
    settings = [f"data.path={data}", f"seed={seed}", *own]
    if begun:
        changes = RunConfig.parse(read_toml(config, settings)).changes(folder.config)
        if changes:
            raise UserError(f"{folder} was trained with other settings ({'; '.join(changes)}); remove it to retrain")
    if not folder.ended:
        words = ["train", str(config), *settings, "--run-dir", str(folder), *(["--resume"] if begun else [])]
        _python(*LAUNCH, str(place.processes), *DIST_REC, *words)
    return folder.result


def _fit(run: StudyRun, data: Path, place: Place, seed: int) -> dict[str, Any]:
    output = _python(*DIST_REC, "baseline", run.baseline, str(data), *run.settings, "--json")
    return {"test": json.loads(output.splitlines()[-1])}


def _python(*words: str) -> str:
    """Runs a Python command and returns its stdout; raises UserError if it fails."""
    ended = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise UserError(f"`python {' '.join(words)}` ended with exit code {ended.returncode}; see above")
    return ended.stdout
