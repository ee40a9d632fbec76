"""A study: a list of runs on prepared data sets, each with several seeds; what is done already is kept.

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
    """What the table calls it."""
    config: str = ""
    """File of the config, relative to the list's folder."""
    baseline: str = ""
    """Instead of a config, a command of `dist-rec baseline`; it has no seed, and `settings` are its options."""
    data: str
    """One of the study's data sets."""
    settings: tuple[str, ...] = ()
    """Overrides, such as `head.shared=false`; `{runs}` stands for the folder of the runs and `{seed}` for the seed."""
    seeds: int | None = Field(None, gt=0)
    """Instead of the list's."""
    paper: str = ""
    """What the paper reports."""
    peer: str = ""
    """What a peer's code gives on the same data."""


class Study(Config):
    """The list."""

    metrics: tuple[str, ...]
    """Columns of the table, by the names that the tasks give them."""
    seeds: int = Field(3, gt=0)
    """Runs of each line; the table has their means."""
    data: dict[str, tuple[str, ...]]
    """For each data set the arguments of `dist-rec prepare`: `{raw}` stands for the folder of the raw data and `{seed}`
    for the seed of the run, so that each has a split of its own."""
    run: tuple[StudyRun, ...] = Field(min_length=1)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the list; raises UserError that names the file and the key."""
        study = cls.parse(read_toml(path), f"{path}: ")
        for run in study.run:
            if run.data not in study.data:
                raise UserError(f"{path}: run {run.name!r} is on data {run.data!r}; known: {', '.join(study.data)}")
            if bool(run.config) == bool(run.baseline):
                raise UserError(f"{path}: run {run.name!r} needs a config or a baseline, and not both")
        return study

    def carry_out(self, run: StudyRun, place: "Place", seeds: int) -> "Row":
        """Prepares the data and trains, unless that is done; baselines are fit anew."""
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
    """Where a study is carried out."""

    configs: Path
    """Folder of the list."""
    raw: Path
    """Folder of the raw data sets."""
    out: Path
    """Folder of the prepared data and the runs."""
    processes: int
    """That train together, on this machine."""


@dataclass(frozen=True)
class Row:
    """A line of the table: the results of a run, one for each seed."""

    run: StudyRun
    results: list[dict[str, Any]]
    metrics: tuple[str, ...]

    @property
    def scores(self) -> dict[str, list[float]]:
        """Test scores by metric, one for each seed; null is what is not a number."""
        tests = [result["test"] for result in self.results]
        return {
            name: [math.nan if test[name] is None else test[name] for test in tests]
            for name in self.metrics
            if name in tests[0]
        }

    @property
    def rows_per_s(self) -> float:
        """Mean training speed; 0 of a baseline."""
        return mean(result["train"]["rows_per_s"] if "train" in result else 0.0 for result in self.results)

    @property
    def parameters(self) -> int:
        """Of the tables and the dense part together; 0 of a baseline."""
        return sum(self.results[0].get("parameters", {}).values())

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
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
            raise UserError(f"{folder} was trained with other settings ({'; '.join(changes)}); remove it to train anew")
    if not folder.result:
        words = ["train", str(config), *settings, "--run-dir", str(folder), *(["--resume"] if begun else [])]
        _python(*LAUNCH, str(place.processes), *DIST_REC, *words)
    return folder.result


def _fit(run: StudyRun, data: Path, place: Place, seed: int) -> dict[str, Any]:
    said = _python(*DIST_REC, "baseline", run.baseline, str(data), *run.settings, "--json")
    return {"test": json.loads(said.splitlines()[-1])}


def _python(*words: str) -> str:
    """What the command says on stdout."""
    ended = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise UserError(f"`python {' '.join(words)}` ended with exit code {ended.returncode}; see above")
    return ended.stdout
