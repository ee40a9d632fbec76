"""The model of a run, sharded over the processes, and its optimizers."""

from functools import partial

import torch
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from dist_rec.core.head import RecurrentHead
from dist_rec.core.process import Process
from dist_rec.core.table_name import TableName
from dist_rec.embedding.catalog import build_catalog
from dist_rec.embedding.layer import EmbeddingLayer, embedding_layer
from dist_rec.embedding.row_optimizer import RowOptimizer
from dist_rec.embedding.sharding import shard
from dist_rec.embedding.updates import Replicated
from dist_rec.train.config import RunConfig
from dist_rec.train.dense_gradient import MeasuredOptimizer
from dist_rec.train.dense_optimizer import dense_optimizer
from dist_rec.train.lane_state import LaneState
from dist_rec.train.recommender import Objective, Precise, Recommender
from dist_rec.train.spec import Spec


def build_model(spec: Spec, process: Process) -> DistributedModelParallel:
    """Builds and shards the model; its initial parameters depend only on the config and the tables of the data."""
    config = spec.config
    torch.manual_seed(config.seed)
    head = spec.build_head().to(process.device)
    catalog = None if spec.catalog is None else build_catalog(spec.catalog, spec.manifest, config.embedding)
    embeddings = EmbeddingLayer(spec.lookups, spec.tables)
    precise = Precise(head, config.train.precision, process.device, spec.catalog, _lane_state(spec, process))
    model = Recommender(embeddings, precise, catalog, Objective(spec.task))
    return shard(model, model.embeddings, spec.tables, process, config.seed)


def _lane_state(spec: Spec, process: Process) -> LaneState | None:
    if not issubclass(spec.head_class, RecurrentHead):
        return None
    train, size = spec.config.train, spec.head_class.state_size(spec.head_config)
    dtype = torch.float64 if train.precision == "fp64" else torch.float32
    return LaneState(train.batch, train.eval_batch, size, process, dtype)


def build_optimizer(config: RunConfig, model: DistributedModelParallel) -> CombinedOptimizer:
    """One optimizer that combines those of the sharded tables, the replicated tables and the dense parameters."""
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
        keyed = KeyedOptimizerWrapper(dense, partial(dense_optimizer, config.optimizer))
        optimizers.append(MeasuredOptimizer(keyed, config.optimizer.clip_norm))
    return CombinedOptimizer(optimizers)
