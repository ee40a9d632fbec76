"""The catalogs of the embedding layer: row-sharded tables of outputs that queries are scored against.

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
from dist_rec.core.table_name import TableName
from dist_rec.embedding.row_shards import RowCut, RowShardOptimizer
from dist_rec.embedding.scores import CatalogScores, TableShard
from dist_rec.embedding.tables import EmbeddingConfig, EmbeddingTable, catalog_table


class Catalog(nn.Module):
    """A table of outputs as one module; `ShardedCatalog` is its sharded form.

    Args:
        table: name, size and settings of the table.
        bias: whether each row has a bias.
        tied: the lookup's table whose weights it shares; None: it has its own.
        cosine: whether the length of a row does not count.
    """

    def __init__(self, table: EmbeddingTable, bias: bool, tied: TableName | None = None, cosine: bool = False) -> None:
        super().__init__()
        self.table, self.tied, self.cosine = table, tied, cosine
        self.weight = nn.Parameter(torch.empty(table.rows, table.dim, device="meta"))
        self.bias = nn.Parameter(torch.empty(table.rows, 1, device="meta")) if bias else None

    def forward(self, queries_BD: Tensor) -> Tensor:
        """Scores of all rows, s = q·w + b, or q·w / ‖w‖ + b, [B, R]."""
        weight_RD = functional.normalize(self.weight) if self.cosine else self.weight
        return functional.linear(queries_BD, weight_RD, None if self.bias is None else self.bias.squeeze(1))


def build_catalog(request: head.Catalog, manifest: Manifest, config: EmbeddingConfig) -> Catalog:
    """A head's catalog on the meta device; raises UserError if its feature is not an id column."""
    tied = None if request.tied is None else TableName(request.tied, manifest.table_of(request.feature))
    return Catalog(catalog_table(request, manifest, config), request.bias, tied, request.cosine)


class ShardedCatalog(
    ShardedModule[Tensor, CatalogScores, CatalogScores, NullShardedModuleContext],
    FusedOptimizerModule,
):
    """The rows of this process. Its output is not a matrix but `CatalogScores`, which losses and ranking evaluate.

    The loss has to be computed in the model's forward: DDP takes no part in the backward pass of an output without
    tensors.

    Args:
        catalog: the catalog on the meta device.
        sharding: row-wise.
        rank: rank of this process.
        device: device of the rows.
    """

    def __init__(self, catalog: Catalog, sharding: ParameterSharding, rank: int, device: torch.device) -> None:
        super().__init__()
        cut = RowCut(sharding.sharding_spec, rank)
        self._table, self._start, self.tied, self._cosine = catalog.table, cut.start, catalog.tied, catalog.cosine
        self._tied_weight = torch.empty(0, catalog.table.dim, device=device).requires_grad_()
        own = self.tied is None
        self.weight = _parameter(torch.empty(cut.size, catalog.table.dim, device=device)) if own else None
        self.bias = None if catalog.bias is None else _parameter(torch.zeros(cut.size, 1, device=device))
        self._optimizer = RowShardOptimizer(catalog.table, cut, self.weight, self.bias)
        self.register_state_dict_post_hook(_as_sharded_tensors)
        self.register_load_state_dict_pre_hook(_from_sharded_tensors)

    def initialise(self, seed: int) -> None:
        """Draws the initial weights, which do not depend on the number of processes; biases start from 0."""
        if self.weight is not None:
            self._table.initialise(self.weight.detach(), seed, self._start, 0)

    def tie(self, rows: Tensor) -> None:
        """Shares the memory of this process's rows of the lookup's table `self.tied`."""
        self._tied_weight = rows.detach().requires_grad_()

    def take_tied_gradient(self) -> Tensor | None:
        """The gradient of the tied rows since the last call, dense or sparse, summed over processes."""
        gradient, self._tied_weight.grad = self._tied_weight.grad, None
        return gradient

    @property
    def fused_optimizer(self) -> RowShardOptimizer:
        """The optimizer of the rows, which updates them in `step`."""
        return self._optimizer

    @property
    def unsharded_module_type(self) -> type[nn.Module]:
        """See `ShardedModule`."""
        return Catalog

    def create_context(self) -> NullShardedModuleContext:
        """An empty context: queries are exchanged only when scores are computed."""
        return NullShardedModuleContext()

    def input_dist(self, ctx: NullShardedModuleContext, queries_BD: Tensor) -> NoWait[NoWait[Tensor]]:
        """Passes the queries on."""
        return NoWait(NoWait(queries_BD))

    def compute(self, ctx: NullShardedModuleContext, dist_input: Tensor) -> CatalogScores:
        """See `CatalogScores`."""
        weight = self._tied_weight if self.weight is None else self.weight
        padding = weight.shape[1] - dist_input.shape[1]  # a lookup's table has columns of zeros at the end
        queries_BD = functional.pad(dist_input.float(), (0, padding))
        return CatalogScores(TableShard(weight, self.bias, self._start, self._cosine), queries_BD)

    def output_dist(self, ctx: NullShardedModuleContext, output: CatalogScores) -> CatalogScores:
        """Passes the scores on; they are computed lazily."""
        return output


def _parameter(local: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(local)
    # TorchRec's mark of a parameter that is updated by the optimizer of its module.
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
    """Shards a `Catalog` to a `ShardedCatalog`; the only sharding is by rows."""

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
        return ShardedCatalog(module, params[str(module.table.name)], env.rank, device)

    @property
    def module_type(self) -> type[Catalog]:
        """See `ModuleSharder.module_type`."""
        return Catalog

    def shardable_parameters(self, module: Catalog) -> dict[str, nn.Parameter]:
        """The weights under the name of the table; biases go with them."""
        return {str(module.table.name): module.weight}

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """By rows."""
        return [ShardingType.ROW_WISE.value]
