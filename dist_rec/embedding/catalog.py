"""The catalog face of the embedding layer: tables of outputs, cut by rows, that queries are scored against.

A `Catalog` is built on the meta device and sharded by `dist_rec.embedding.sharding`: no process ever holds it whole.

Shapes: B queries, D dimension, R rows.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    ModuleSharder,
    NoWait,
    NullShardedModuleContext,
    ParameterSharding,
    ShardedModule,
    ShardedTensor,
    ShardingEnv,
    ShardingType,
)
from torchrec.optim.fused import EmptyFusedOptimizer, FusedOptimizerModule

from dist_rec.core import head
from dist_rec.core.schema import Manifest
from dist_rec.embedding.row_shards import RowCut, RowShardOptimizer
from dist_rec.embedding.scores import CatalogScores, TableShard
from dist_rec.embedding.tables import EmbeddingConfig, EmbeddingTable, catalog_table


class Catalog(nn.Module):
    """A table of outputs as one module: what a `ShardedCatalog` computes, without its means.

    Args:
        table: name, size and settings.
        bias: whether each row has one.
    """

    def __init__(self, table: EmbeddingTable, bias: bool) -> None:
        super().__init__()
        self.table = table
        self.weight = nn.Parameter(torch.empty(table.rows, table.dim, device="meta"))
        self.bias = nn.Parameter(torch.empty(table.rows, 1, device="meta")) if bias else None

    def forward(self, queries_BD: Tensor) -> Tensor:
        """Scores of all rows, s = q·w + b, [B, R]."""
        return functional.linear(queries_BD, self.weight, None if self.bias is None else self.bias.squeeze(1))


def build_catalogs(wishes: tuple[head.Catalog, ...], manifest: Manifest, config: EmbeddingConfig) -> nn.ModuleDict:
    """A head's catalogs by table, `catalog/table`, on the meta device; raises UserError if a feature holds no ids."""
    catalogs = [Catalog(catalog_table(wish, manifest, config), wish.bias) for wish in wishes]
    return nn.ModuleDict({catalog.table.name: catalog for catalog in catalogs})


class ShardedCatalog(
    ShardedModule[Tensor, CatalogScores, CatalogScores, NullShardedModuleContext],
    FusedOptimizerModule,
):
    """The rows of this process. Its output is not a matrix but `CatalogScores`, which losses and ranking ask.

    Args:
        catalog: on meta.
        sharding: row-wise.
        rank: this process's.
        device: where the rows are to be.
    """

    def __init__(self, catalog: Catalog, sharding: ParameterSharding, rank: int, device: torch.device) -> None:
        super().__init__()
        cut = RowCut(sharding.sharding_spec, rank)
        self._table, self._start = catalog.table, cut.start
        self.weight = _parameter(torch.empty(cut.size, catalog.table.dim, device=device))
        self.bias = None if catalog.bias is None else _parameter(torch.zeros(cut.size, 1, device=device))
        self._optimizer = RowShardOptimizer(catalog.table, cut, self.weight, self.bias)
        self.register_state_dict_post_hook(_as_sharded_tensors)
        self.register_load_state_dict_pre_hook(_from_sharded_tensors)

    def initialise(self, seed: int) -> None:
        """Draws the initial weights, the same whatever the number of processes; biases start from 0."""
        self._table.initialise(self.weight.detach(), seed, self._start, 0)

    @property
    def fused_optimizer(self) -> RowShardOptimizer:
        """Updates the rows in its `step`."""
        return self._optimizer

    @property
    def unsharded_module_type(self) -> type[nn.Module]:
        """What it was made from."""
        return Catalog

    def create_context(self) -> NullShardedModuleContext:
        """Nothing is kept between the stages of a lookup; queries are exchanged when scores are asked for."""
        return NullShardedModuleContext()

    def input_dist(self, ctx: NullShardedModuleContext, queries_BD: Tensor) -> NoWait[NoWait[Tensor]]:
        """Passes the queries on."""
        return NoWait(NoWait(queries_BD))

    def compute(self, ctx: NullShardedModuleContext, dist_input: Tensor) -> CatalogScores:
        """See `CatalogScores`."""
        return CatalogScores(TableShard(self.weight, self.bias, self._start), dist_input.float())

    def output_dist(self, ctx: NullShardedModuleContext, output: CatalogScores) -> CatalogScores:
        """Passes the scores on; they wait for nothing until they are asked."""
        return output


def _parameter(local: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(local)
    # TorchRec's sign that a parameter is updated by the optimizer of its module.
    vars(parameter)["_in_backward_optimizers"] = [EmptyFusedOptimizer()]
    return parameter


def _as_sharded_tensors(module: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name, whole in module.fused_optimizer.params.items():
        state[prefix + name] = whole


def _from_sharded_tensors(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, parameter in module.named_parameters():
        value = state.get(prefix + name)
        if isinstance(value, ShardedTensor):
            state[prefix + name] = next((shard.tensor for shard in value.local_shards()), parameter.detach())


class CatalogSharder(ModuleSharder[Catalog]):
    """Makes a `Catalog` a `ShardedCatalog`; the only sharding is by rows."""

    def shard(
        self,
        module: Catalog,
        params: EmbeddingModuleShardingPlan,
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedCatalog:
        """See `ModuleSharder.shard`."""
        assert device is not None
        return ShardedCatalog(module, params[module.table.name], env.rank, device)

    @property
    def module_type(self) -> type[Catalog]:
        """What it shards."""
        return Catalog

    def shardable_parameters(self, module: Catalog) -> dict[str, nn.Parameter]:
        """The weights under the name of the table; biases go with them."""
        return {module.table.name: module.weight}

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """By rows."""
        return [ShardingType.ROW_WISE.value]
