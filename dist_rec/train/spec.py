"""The specification of a run: a config resolved against the manifest of the data."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.head import Catalog, CatalogHead, Head, Lookup, RecurrentHead, find_head
from dist_rec.core.process import Process
from dist_rec.core.schema import Kind, Manifest
from dist_rec.data.lanes import Columns, LaneLoader
from dist_rec.data.loader import Loader
from dist_rec.data.shards import Dataset
from dist_rec.embedding.tables import EmbeddingTable, catalog_table, embedding_tables
from dist_rec.tasks.task import Task, Transform
from dist_rec.train.config import TASKS, RunConfig


@dataclass(frozen=True)
class Spec:
    """Head, lookups, tables and task of a run, from which its parts are built."""

    config: RunConfig
    manifest: Manifest
    head_class: type[Head]
    head_config: Config
    lookups: tuple[Lookup, ...]
    catalog: Catalog | None
    tables: tuple[EmbeddingTable, ...]
    """Tables of the lookups."""
    task: Task
    lanes: Columns | None
    """For a recurrent head, the columns of its events."""

    def build_head(self) -> Head:
        """The head, with initial parameters drawn from torch's generator."""
        return self.head_class(self.head_config, self.manifest)

    def count_parameters(self) -> dict[str, int]:
        """Parameters of the tables, without padding, and of the head."""
        with torch.device("meta"):
            head = self.build_head()
        tables = sum(table.rows * table.dim for table in self.tables)
        if self.catalog is not None:
            tables += self.manifest.rows_of(self.catalog.feature) * (self.catalog.dim + self.catalog.bias)
        return {"tables": tables, "head": sum(parameter.numel() for parameter in head.parameters())}

    def learning_rates(self) -> dict[str, float]:
        """By the config: `lr` of the dense parameters, `embedding_lr` of all tables, or of each if they differ."""
        catalogs = () if self.catalog is None else (self.catalog,)
        tables = [*self.tables, *(catalog_table(of, self.manifest, self.config.embedding) for of in catalogs)]
        by_table = {f"embedding_lr/{table.name}": table.settings.lr for table in tables}
        if len({*by_table.values()}) == 1:
            by_table = {"embedding_lr": tables[0].settings.lr}
        return {"lr": self.config.optimizer.lr, **by_table}

    def training_loader(self, dataset: Dataset, process: Process) -> Loader | LaneLoader:
        """Shuffled batches of the training split, as the task trains on them."""
        transform = self.task.for_training(dataset, self.config.seed)
        columns = self._features(self.task.training_columns)
        return self._loader(dataset, "train", process, self.config.train.batch, columns, transform, shuffle=True)

    def evaluation_loader(self, dataset: Dataset, split: str, process: Process) -> Loader | LaneLoader:
        """Batches of any split in the order of the files, as the task evaluates them."""
        transform = self.task.for_evaluation(dataset)
        columns = self._features(self.task.evaluation_columns)
        return self._loader(dataset, split, process, self.config.train.eval_batch, columns, transform, shuffle=False)

    def _loader(
        self,
        dataset: Dataset,
        split: str,
        process: Process,
        batch: int,
        features: tuple[str, ...],
        transform: Transform | None,
        shuffle: bool,
    ) -> Loader | LaneLoader:
        config = self.config
        place: dict[str, Any] = {"rank": process.rank, "world": process.world, "seed": config.seed}
        how: dict[str, Any] = {"shuffle": shuffle, "transform": transform, **place}
        if self.lanes is None:
            return Loader(dataset, split, config.data, batch=batch, features=features, **how)
        read = replace(self.lanes, bags=tuple(name for name in self.lanes.bags if name in features))
        return LaneLoader(dataset, split, config.data, lanes=batch, columns=read, **how)

    def _features(self, of_task: tuple[str, ...]) -> tuple[str, ...]:
        """The id columns that head and task read."""
        features = [feature for lookup in self.lookups for feature in lookup.features]
        if self.catalog is not None:
            features.append(self.catalog.feature)
        return tuple(dict.fromkeys([*features, *of_task]))


def resolve(config: RunConfig, manifest: Manifest) -> Spec:
    """The specification of a run; raises UserError if head, task, data and settings do not fit together."""
    head_class, head_config = find_head(config.head_name), config.head_config()
    lookups = head_class.lookups(head_config, manifest)
    catalog = head_class.catalog(head_config, manifest) if issubclass(head_class, CatalogHead) else None
    catalogs = () if catalog is None else (catalog,)
    tables = embedding_tables(lookups, manifest, config.embedding, catalogs)
    task_class = next(task for task in TASKS if isinstance(config.task, task.Config))
    if ("rows" if catalog is None else "catalog") not in task_class.judges:
        scored, other = ("row by row", "a head of a catalog") if catalog is None else ("a catalog", "a head of rows")
        raise UserError(f"task {config.task.name!r} needs {other}; head {config.head_name!r} scores {scored}")
    task = task_class(config.task, None if catalog is None else catalog.feature)
    _check_columns(task, manifest)
    lanes = None
    if issubclass(head_class, RecurrentHead):
        assert catalog is not None
        lanes = _lane_columns(config.head_name, manifest, lookups, catalog.feature, head_class.unit(head_config), task)
    return Spec(config, manifest, head_class, head_config, lookups, catalog, tables, task, lanes)


def _lane_columns(
    head: str, manifest: Manifest, lookups: tuple[Lookup, ...], targets: str, unit: str | None, task: Task
) -> Columns:
    """The columns that a recurrent head reads; raises UserError if they are no sessions, or the task reads others."""
    needed: dict[str, tuple[Kind, ...]] = {
        feature: ("sequence", "categorical") for lookup in lookups for feature in lookup.features
    }
    needed |= {targets: ("sequence",), **({} if unit is None else {unit: ("categorical",)})}
    kinds = {name: manifest.column(name).kind for name in needed}
    for name, kind in kinds.items():
        if kind not in needed[name]:
            raise UserError(
                f"head {head!r} reads sessions event by event: column {name!r} must be {' or '.join(needed[name])}, "
                f"and it is {kind}; prepare the data with `dist-rec prepare sessions`"
            )
    bags = task.evaluation_columns
    for name in bags:
        if manifest.column(name).kind != "bag":
            raise UserError(f"head {head!r} reads sessions event by event: the task's column {name!r} must be a bag")
    if task.training_columns:
        raise UserError(
            f"head {head!r} reads sessions event by event, and the task's {', '.join(task.training_columns)} by rows; "
            "draw samples instead of negatives"
        )
    events = tuple(name for name, kind in kinds.items() if kind == "sequence" and name != targets)
    rows = tuple(name for name, kind in kinds.items() if kind == "categorical")
    return Columns(events, targets, rows, unit, bags)


def _check_columns(task: Task, manifest: Manifest) -> None:
    """Finds a missing column before the training, even if only the evaluation reads it."""
    known = {column.name for column in manifest.columns}
    evaluated = manifest.splits.keys() - {"train"}
    for name in task.evaluation_columns if evaluated else task.training_columns:
        if name not in known:
            raise UserError(
                f"the task reads the column {name!r}, and the data has {', '.join(sorted(known))}; "
                "prepare the data again (`dist-rec prepare ratings --help`), or name another column in [task]"
            )
