"""Splits the embedding layer over processes: the plan, fused optimizers, initial weights.

On CPUs the plan is explicit, since TorchRec's planner refuses row-wise sharding there; on GPUs the planner places the
tables that are left to it ("auto").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from rich.table import Table as PrintedTable
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.sharding_plan import (
    ParameterShardingGenerator,
    column_wise,
    construct_module_sharding_plan,
    data_parallel,
    grid_shard,
    row_wise,
    table_row_wise,
    table_wise,
)
from torchrec.distributed.types import (
    BoundsCheckMode,
    EmbeddingModuleShardingPlan,
    ModuleSharder,
    ShardedTensor,
    ShardingPlan,
    ShardingType,
)
from torchrec.optim import Adam, RowWiseAdagrad

from dist_rec.core.errors import UserError
from dist_rec.embedding.catalog import Catalog, CatalogSharder, ShardedCatalog
from dist_rec.embedding.layer import EmbeddingLayer
from dist_rec.embedding.row_optimizer import kernels, rows_only
from dist_rec.embedding.row_rules import row_rule
from dist_rec.embedding.tables import DIM_MULTIPLE, EmbeddingTable, Sharding, TableSettings

# The loader has checked every id, and names the row of a wrong one; FBGEMM's check costs 3 % of a DeepFM's step.
CHECKED = {"bounds_check_mode": BoundsCheckMode.NONE}
LOOKUP_SHARDERS: list[ModuleSharder[nn.Module]] = [
    EmbeddingBagCollectionSharder(fused_params=dict(CHECKED)),
    EmbeddingCollectionSharder(fused_params=dict(CHECKED)),
]
CATALOG_SHARDER = CatalogSharder()
PLANNER_TYPES: dict[Sharding, ShardingType] = {
    "table_wise": ShardingType.TABLE_WISE,
    "row_wise": ShardingType.ROW_WISE,
    "column_wise": ShardingType.COLUMN_WISE,
    "table_row_wise": ShardingType.TABLE_ROW_WISE,
    "grid": ShardingType.GRID_SHARD,
    "data_parallel": ShardingType.DATA_PARALLEL,
}


@dataclass(frozen=True)
class Cluster:
    """The processes that share the tables."""

    world: int
    local_world: int
    """Processes on this node."""
    device: torch.device


def optimizer_class(settings: TableSettings) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """The optimizer of a table and its arguments, by FBGEMM's names; it runs the fused form of the same."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD, {"lr": settings.lr}
    arguments: dict[str, Any] = {"lr": settings.lr, "eps": settings.eps}
    if settings.optimizer == "adam":
        return Adam, {**arguments, "beta1": settings.beta1, "beta2": settings.beta2}
    if settings.optimizer == "adagrad":
        return torch.optim.Adagrad, arguments
    assert settings.optimizer == "rowwise_adagrad"
    return RowWiseAdagrad, arguments


def shard(
    model: nn.Module,
    layer: EmbeddingLayer,
    tables: tuple[EmbeddingTable, ...],
    cluster: Cluster,
    seed: int,
) -> DistributedModelParallel:
    """Shards the tables of `layer` and the catalogs of `model`, and wraps the rest of the model in DDP.

    Args:
        model: the whole model; its dense parameters are on the device, tables and catalogs on meta.
        layer: its embedding layer.
        tables: what the layer was built from.
        cluster: the processes.
        seed: of the initial weights.

    Raises:
        UserError: if a table cannot be sharded as configured.
    """
    by_name = {table.name: table for table in tables}
    chosen = {table.name: _chosen(table, cluster) for table in tables}
    for name, parameter in layer.named_parameters():
        table = by_name[table_name(name)]
        if chosen[table.name] != "data_parallel":
            by_rule = _by_rule(table, cluster)
            update_class, arguments = rows_only(table) if by_rule else optimizer_class(table.settings)
            apply_optimizer_in_backward(update_class, [parameter], arguments)
    make_plan = _planned if "auto" in chosen.values() else _explicit
    plan = make_plan(model, tables, chosen, cluster)
    for path, catalog in _catalogs(model):
        plan.plan[path] = _by_rows(catalog, cluster)
    sharders = [*LOOKUP_SHARDERS, CATALOG_SHARDER]
    # Alone, DDP would copy gradients to its buckets and back for nobody.
    sharded = DistributedModelParallel(
        model, device=cluster.device, plan=plan, sharders=sharders, init_data_parallel=cluster.world > 1
    )
    for name, weights in local_shards(sharded.state_dict()):
        if table_name(name) in by_name:
            by_name[table_name(name)].initialise(weights.tensor, seed, weights.row, weights.column)
    for module in sharded.modules():
        if isinstance(module, ShardedCatalog):
            module.initialise(seed)
            for rows in (rows for name, rows in _local_tables(sharded) if name == module.tied):
                module.tie(rows)
    return sharded


def _by_rule(table: EmbeddingTable, cluster: Cluster) -> bool:
    return table.tied or row_rule(table.settings, cluster.device) is not None


def _local_tables(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for kernel in kernels(model):
        for table, rows in zip(kernel.config.embedding_tables, kernel.split_embedding_weights(), strict=True):
            yield table.name, rows


def _chosen(table: EmbeddingTable, cluster: Cluster) -> Sharding:
    sharding = table.settings.sharding
    if table.tied:
        if sharding not in ("auto", "row_wise"):
            raise UserError(
                f"table {table.name!r}: a catalog is tied to it, so it is cut by rows; remove sharding={sharding!r}"
            )
        return "row_wise"
    if sharding == "auto" and cluster.device.type == "cpu":
        sharding = "table_wise"
    if sharding == "data_parallel" and (table.settings.optimizer in ("adam", "ftrl") or table.settings.weight_decay):
        raise UserError(
            f"table {table.name!r}: data_parallel takes sgd, adagrad and rowwise_adagrad without weight_decay, since "
            "others would move rows that are not in the batch; choose another optimizer or sharding"
        )
    if sharding == "data_parallel" and table.pooling == "none" and cluster.device.type == "cpu":
        raise UserError(f"table {table.name!r}: FBGEMM has no data_parallel sequences on CPUs; choose table_wise")
    return sharding


@dataclass(frozen=True)
class LocalShard:
    """A part of a table that this process holds; `tensor` begins at (row, column)."""

    tensor: Tensor
    row: int
    column: int


def local_shards(state: dict[str, object]) -> Iterator[tuple[str, LocalShard]]:
    """The local parts of every sharded or replicated matrix of a state dict."""
    for name, value in state.items():
        if isinstance(value, ShardedTensor):
            for part in value.local_shards():
                row, column = part.metadata.shard_offsets
                yield name, LocalShard(part.tensor, row, column)
        elif isinstance(value, Tensor) and value.dim() == 2:
            yield name, LocalShard(value, 0, 0)


def table_name(parameter: str) -> str:
    """`…embedding_bags.lookup/table.weight` → `lookup/table`."""
    return parameter.rsplit(".", 2)[-2]


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, ModuleSharder[nn.Module]]]:
    for path, module in model.named_modules():
        for sharder in LOOKUP_SHARDERS:
            if type(module) is sharder.module_type:
                yield path, module, sharder


def _explicit(
    model: nn.Module, tables: tuple[EmbeddingTable, ...], chosen: dict[str, Sharding], cluster: Cluster
) -> ShardingPlan:
    owners = place(tables, cluster.world)
    by_name = {table.name: table for table in tables}
    plans = {}
    for path, module, sharder in _modules(model):
        names = {table_name(name) for name, _ in module.named_parameters()}
        generators = {name: _generator(by_name[name], chosen[name], owners[name], cluster) for name in sorted(names)}
        plans[path] = construct_module_sharding_plan(
            module,
            generators,
            sharder=sharder,
            local_size=cluster.local_world,
            world_size=cluster.world,
            device_type=cluster.device.type,
        )
    return ShardingPlan(plans)


def _catalogs(model: nn.Module) -> Iterator[tuple[str, Catalog]]:
    for path, module in model.named_modules():
        if isinstance(module, Catalog):
            yield path, module


def _by_rows(catalog: Catalog, cluster: Cluster) -> EmbeddingModuleShardingPlan:
    return construct_module_sharding_plan(
        catalog,
        {catalog.table.name: row_wise(compute_kernel="dense")},
        sharder=CATALOG_SHARDER,
        local_size=cluster.local_world,
        world_size=cluster.world,
        device_type=cluster.device.type,
    )


def place(tables: tuple[EmbeddingTable, ...], world: int) -> dict[str, int]:
    """Owner of each table: the large ones first, each to the process with the fewest columns to look up.

    Columns looked up for a row are what a step costs (lookup, exchange); dealing the large tables first spreads the
    bytes as well.
    """
    columns, held = [0] * world, [0] * world
    owners = {}
    for table in sorted(tables, key=lambda table: (-table.bytes, table.name)):
        owner = min(range(world), key=lambda rank: (columns[rank], held[rank], rank))
        owners[table.name] = owner
        columns[owner] += table.padded_dim * len(table.features)
        held[owner] += table.bytes
    return owners


def _generator(table: EmbeddingTable, sharding: Sharding, owner: int, cluster: Cluster) -> ParameterShardingGenerator:
    node, nodes = owner // cluster.local_world, cluster.world // cluster.local_world
    match sharding:
        case "table_wise":
            return table_wise(rank=owner, compute_kernel="fused")
        case "row_wise":
            return row_wise(compute_kernel="fused")
        case "column_wise":
            parts = column_parts(table.padded_dim, cluster.world)
            return column_wise([(owner + part) % cluster.world for part in range(parts)], compute_kernel="fused")
        case "table_row_wise":
            return table_row_wise(host_index=node)
        case "grid":
            if nodes > 1 and column_parts(table.padded_dim, nodes) != nodes:
                raise UserError(f"table {table.name!r}: {table.padded_dim} columns cannot be cut for {nodes} nodes")
            return grid_shard(host_indexes=list(range(nodes)))
        case "data_parallel":
            return data_parallel()
        case "auto":
            raise AssertionError("resolved before")


def column_parts(columns: int, most: int) -> int:
    """The largest number of equal column shards, at most `most`, whose widths are multiples of four."""
    return max(parts for parts in range(1, most + 1) if columns % (parts * DIM_MULTIPLE) == 0)


def _planned(
    model: nn.Module, tables: tuple[EmbeddingTable, ...], chosen: dict[str, Sharding], cluster: Cluster
) -> ShardingPlan:
    constraints = {}
    for table in tables:
        # Replicas have optimizers of their own, so they are chosen before there is a plan.
        open_to = set(PLANNER_TYPES) - {"data_parallel"} if chosen[table.name] == "auto" else {chosen[table.name]}
        constraints[table.name] = ParameterConstraints(
            sharding_types=[kind.value for sharding, kind in PLANNER_TYPES.items() if sharding in open_to],
            # Row rules write to the weights where they are, so these may not hide behind a cache.
            compute_kernels=["fused"] if _by_rule(table, cluster) else None,
        )
    topology = Topology(
        world_size=cluster.world, local_world_size=cluster.local_world, compute_device=cluster.device.type
    )
    planner = EmbeddingShardingPlanner(topology=topology, constraints=constraints)
    assert dist.group.WORLD is not None
    return planner.collective_plan(model, LOOKUP_SHARDERS, dist.group.WORLD)


def plan_table(model: DistributedModelParallel, world: int) -> PrintedTable:
    """The plan for people: how each table is cut, and the bytes of weights that each process holds."""
    printed = PrintedTable(title="Embedding tables", title_justify="left")
    for heading in ("table", "rows", "dim", "sharding", "processes"):
        printed.add_column(heading, justify="right" if heading in ("rows", "dim") else "left")
    held = [0] * world
    for module in model.plan.plan.values():
        for name, parameter in module.items():
            spec = parameter.sharding_spec
            rows, dim, ranks = 0, 0, list(range(world))
            if spec is not None:
                ranks = [part.placement.rank() for part in spec.shards]
                rows = max(part.shard_offsets[0] + part.shard_sizes[0] for part in spec.shards)
                dim = max(part.shard_offsets[1] + part.shard_sizes[1] for part in spec.shards)
                for part, rank in zip(spec.shards, ranks, strict=True):
                    held[rank] += part.shard_sizes[0] * part.shard_sizes[1] * 4
            printed.add_row(name, f"{rows:,}", str(dim), parameter.sharding_type, ",".join(map(str, ranks)))
    printed.caption = "weights: " + ", ".join(
        f"process {rank} {size / 2**20:.1f} MiB" for rank, size in enumerate(held)
    )
    return printed
