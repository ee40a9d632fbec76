"""The whole model of a run: embeddings, head and loss, sharded over the processes."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.head import Catalog, CatalogHead, Head, Lookup, find_head
from dist_rec.core.process import Process
from dist_rec.core.schema import Manifest
from dist_rec.core.table_name import TableName
from dist_rec.embedding.catalog import build_catalog
from dist_rec.embedding.layer import EmbeddingLayer, embedding_layer
from dist_rec.embedding.row_optimizer import RowOptimizer
from dist_rec.embedding.sharding import Cluster, shard
from dist_rec.embedding.tables import EmbeddingTable, embedding_tables
from dist_rec.embedding.updates import Replicated
from dist_rec.tasks.task import CatalogTask, PairTask, Task
from dist_rec.train.config import OptimizerConfig, RunConfig
from dist_rec.train.recommender import CatalogObjective, CatalogRecommender, Encoder, Objective, Recommender


class Parts(NamedTuple):
    """What a config asks for, resolved against the data."""

    head_class: type[Head]
    head_config: Config
    lookups: tuple[Lookup, ...]
    catalog: Catalog | None
    tables: tuple[EmbeddingTable, ...]
    """Of the lookups."""


def parts_of(config: RunConfig, manifest: Manifest) -> Parts:
    """Raises UserError if head, data and settings do not fit."""
    head_class, head_config = find_head(config.head_name), config.head_config()
    lookups = head_class.lookups(head_config, manifest)
    catalog = head_class.catalog(head_config, manifest) if issubclass(head_class, CatalogHead) else None
    catalogs = () if catalog is None else (catalog,)
    return Parts(
        head_class, head_config, lookups, catalog, embedding_tables(lookups, manifest, config.embedding, catalogs)
    )


def features_of(config: RunConfig, manifest: Manifest, training: bool) -> tuple[str, ...]:
    """The id columns that head and task read."""
    parts = parts_of(config, manifest)
    features = [feature for lookup in parts.lookups for feature in lookup.features]
    if parts.catalog is not None:
        features.append(parts.catalog.feature)
    return tuple(dict.fromkeys([*features, *config.build_task().columns(training)]))


def build_model(config: RunConfig, manifest: Manifest, process: Process) -> DistributedModelParallel:
    """Builds and shards the model; its initial parameters depend on the config and the data's tables alone."""
    parts, task = parts_of(config, manifest), config.build_task()
    _check_columns(task, manifest)
    torch.manual_seed(config.seed)
    head = parts.head_class(parts.head_config, manifest).to(process.device)
    embeddings = EmbeddingLayer(parts.lookups, parts.tables)
    model: Recommender | CatalogRecommender
    if parts.catalog is None:
        if not isinstance(task, PairTask):
            raise UserError(
                f"task {config.task.name!r} needs a head of a catalog; {config.head_name!r} scores row by row"
            )
        model = Recommender(embeddings, Objective(head, task, config.train, process.device))
    else:
        if not isinstance(task, CatalogTask):
            raise UserError(f"task {config.task.name!r} judges row by row; head {config.head_name!r} scores a catalog")
        assert isinstance(head, CatalogHead)
        catalog = build_catalog(parts.catalog, manifest, config.embedding)
        encoder = Encoder(head, config.train, process.device)
        objective = CatalogObjective(head, parts.catalog.feature, task)
        model = CatalogRecommender(embeddings, encoder, catalog, objective)
    cluster = Cluster(process.world, process.local_world, process.device)
    return shard(model, model.embeddings, parts.tables, cluster, config.seed)


def _check_columns(task: Task, manifest: Manifest) -> None:
    """What the evaluation needs is missed before an epoch of training, not after."""
    training = manifest.splits.keys() <= {"train"}
    known = {column.name for column in manifest.columns}
    for name in task.columns(training):
        if name not in known:
            raise UserError(
                f"the task reads the column {name!r}, and the data has {', '.join(sorted(known))}; "
                "see `dist-rec prepare ratings --help` for what makes it"
            )


def count_parameters(config: RunConfig, manifest: Manifest) -> dict[str, int]:
    """Parameters of the tables, without padding, and of the head."""
    parts = parts_of(config, manifest)
    with torch.device("meta"):
        head = parts.head_class(parts.head_config, manifest)
    tables = sum(table.rows * table.dim for table in parts.tables)
    if parts.catalog is not None:
        tables += manifest.rows_of(parts.catalog.feature) * (parts.catalog.dim + parts.catalog.bias)
    return {"tables": tables, "head": sum(parameter.numel() for parameter in head.parameters())}


def build_optimizer(config: RunConfig, model: DistributedModelParallel) -> CombinedOptimizer:
    """All optimizers as one: those of sharded tables, of replicated tables and of dense parameters."""
    optimizers: list[KeyedOptimizer] = [model.fused_optimizer, RowOptimizer(model)]
    updates, dense = embedding_layer(model).updates, {}
    for name, parameter in in_backward_optimizer_filter(model.named_parameters()):
        if (table := TableName.of_parameter(name)) is None:
            dense[name] = parameter
        else:
            update = updates[table]
            assert isinstance(update, Replicated), f"{name}: {update}"
            optimizers.append(KeyedOptimizerWrapper({name: parameter}, partial(update.optimizer, **update.arguments)))
    if dense:
        keyed = KeyedOptimizerWrapper(dense, lambda parameters: _dense_optimizer(config.optimizer, parameters))
        clip = config.optimizer.clip_norm
        optimizers.append(GradientClippingOptimizer(keyed, GradientClipping.NORM, clip) if clip else keyed)
    return CombinedOptimizer(optimizers)


def _dense_optimizer(config: OptimizerConfig, parameters: list[Tensor]) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    match config.name:
        case "adam":
            return torch.optim.Adam(parameters, eps=config.eps, **settings)
        case "adagrad":
            return torch.optim.Adagrad(parameters, eps=config.eps, **settings)
        case "sgd":
            return torch.optim.SGD(parameters, **settings)
