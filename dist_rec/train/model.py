"""The whole model of a run: embeddings, head and loss, sharded over the processes."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from dist_rec.core.batch import Batch
from dist_rec.core.head import Head, Inputs, find_head
from dist_rec.core.process import Process
from dist_rec.core.schema import Manifest
from dist_rec.embedding.layer import EmbeddingLayer
from dist_rec.embedding.row_optimizer import RowOptimizer
from dist_rec.embedding.sharding import Cluster, optimizer_class, shard, table_name
from dist_rec.embedding.tables import EmbeddingTable, embedding_tables
from dist_rec.tasks.task import Task
from dist_rec.train.config import OptimizerConfig, RunConfig, TrainConfig


class Output(NamedTuple):
    """What a step leaves for the metrics; B rows of this process."""

    loss: Tensor
    """float32 [], its mean over processes is the mean loss of the global batch."""
    scores: Tensor
    """float32 [B]."""
    labels: Tensor
    weights: Tensor


class Objective(nn.Module):
    """Head and loss, in mixed precision."""

    def __init__(self, head: Head, task: Task, config: TrainConfig, device: torch.device) -> None:
        super().__init__()
        self.head = head
        self._task = task
        self._device_type, self._bf16 = device.type, config.precision == "bf16"

    def forward(self, inputs: Inputs, labels: Tensor, weights: Tensor, scale: Tensor) -> tuple[Tensor, Output]:
        """Loss to differentiate, and what it came from."""
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._bf16):
            scores = self.head(inputs)
        scores = scores.float()
        loss = self._task.loss_sum(scores, labels, weights) * scale
        return loss, Output(loss.detach(), scores.detach(), labels, weights)


class Recommender(nn.Module):
    """Batch → loss. Kept free of branches, so that TorchRec's pipeline can trace it."""

    def __init__(self, embeddings: EmbeddingLayer, objective: Objective) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.objective = objective

    def forward(self, batch: Batch) -> tuple[Tensor, Output]:
        """See `Objective.forward`."""
        return self.objective(self.embeddings(batch), batch.labels, batch.weights, batch.scale)


def features_of(config: RunConfig, manifest: Manifest) -> tuple[str, ...]:
    """The id columns that the head looks up."""
    lookups = find_head(config.head_name).lookups(config.head_config(), manifest)
    return tuple(dict.fromkeys(feature for lookup in lookups for feature in lookup.features))


def build_model(config: RunConfig, manifest: Manifest, process: Process) -> DistributedModelParallel:
    """Builds and shards the model; its initial parameters depend on the config and the data's tables alone."""
    head_class, head_config = find_head(config.head_name), config.head_config()
    lookups = head_class.lookups(head_config, manifest)
    tables: tuple[EmbeddingTable, ...] = embedding_tables(lookups, manifest, config.embedding)
    torch.manual_seed(config.seed)
    head = head_class(head_config, manifest).to(process.device)
    objective = Objective(head, config.build_task(), config.train, process.device)
    model = Recommender(EmbeddingLayer(lookups, tables), objective)
    cluster = Cluster(process.world, process.local_world, process.device)
    return shard(model, model.embeddings, tables, cluster, config.seed)


def count_parameters(config: RunConfig, manifest: Manifest) -> dict[str, int]:
    """Parameters of the tables, without padding, and of the head."""
    head_class, head_config = find_head(config.head_name), config.head_config()
    tables = embedding_tables(head_class.lookups(head_config, manifest), manifest, config.embedding)
    with torch.device("meta"):
        head = head_class(head_config, manifest)
    return {
        "tables": sum(table.rows * table.dim for table in tables),
        "head": sum(parameter.numel() for parameter in head.parameters()),
    }


def build_optimizer(config: RunConfig, model: DistributedModelParallel) -> CombinedOptimizer:
    """All optimizers as one: those of sharded tables, of replicated tables and of dense parameters."""
    rest = dict(in_backward_optimizer_filter(model.named_parameters()))
    replicated = {name: parameter for name, parameter in rest.items() if _is_table(name)}
    dense = {name: parameter for name, parameter in rest.items() if not _is_table(name)}
    optimizers: list[KeyedOptimizer] = [model.fused_optimizer, RowOptimizer(model, config.embedding)]
    for name, parameter in replicated.items():
        update_class, arguments = optimizer_class(config.embedding.settings(table_name(name)))
        optimizers.append(KeyedOptimizerWrapper({name: parameter}, partial(update_class, **arguments)))
    if dense:
        keyed = KeyedOptimizerWrapper(dense, lambda parameters: _dense_optimizer(config.optimizer, parameters))
        clip = config.optimizer.clip_norm
        optimizers.append(GradientClippingOptimizer(keyed, GradientClipping.NORM, clip) if clip else keyed)
    return CombinedOptimizer(optimizers)


def _is_table(parameter: str) -> bool:
    return ".embedding_bags." in parameter or "embeddings.sequences." in parameter


def _dense_optimizer(config: OptimizerConfig, parameters: list[Tensor]) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    match config.name:
        case "adam":
            return torch.optim.Adam(parameters, eps=config.eps, **settings)
        case "adagrad":
            return torch.optim.Adagrad(parameters, eps=config.eps, **settings)
        case "sgd":
            return torch.optim.SGD(parameters, **settings)
