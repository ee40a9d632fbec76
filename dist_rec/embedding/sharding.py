"""Shards the embedding layer over processes: the plan, fused optimizers, initial weights.

On CPUs the plan is explicit, since TorchRec's planner refuses row-wise sharding there; on GPUs the planner decides for
the tables with sharding "auto".
"""

from typing import Any

import torch.distributed as dist
from rich.table import Table as PrintedTable
from torch import nn
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
    ModuleSharder,
    ShardingPlan,
    ShardingType,
)

from dist_rec.core.errors import UserError
from dist_rec.core.process import Process
from dist_rec.core.table_name import TableName, by_table
from dist_rec.embedding.catalog import Catalog, CatalogSharder, ShardedCatalog
from dist_rec.embedding.kernels import fused_optimizer, kernels, table_names
from dist_rec.embedding.layer import EmbeddingLayer
from dist_rec.embedding.row_rules import Rows
from dist_rec.embedding.sharded_tensors import parts
from dist_rec.embedding.tables import DIM_MULTIPLE, EmbeddingTable, Sharding
from dist_rec.embedding.updates import Replicated, ResolvedTable, resolve_table

# The loader has checked every id and names the row of a wrong one; FBGEMM's check would cost 3 % of a DeepFM's step.
CHECKED = {"bounds_check_mode": BoundsCheckMode.NONE}
LOOKUP_SHARDERS: list[ModuleSharder[nn.Module]] = [
    EmbeddingBagCollectionSharder(fused_params=dict(CHECKED)),
    EmbeddingCollectionSharder(fused_params=dict(CHECKED)),
]
SHARDERS: list[ModuleSharder[Any]] = [*LOOKUP_SHARDERS, CatalogSharder()]
PLANNED: tuple[Sharding, ...] = ("table_wise", "row_wise", "column_wise", "table_row_wise", "grid")


def shard(
    model: nn.Module,
    layer: EmbeddingLayer,
    tables: tuple[EmbeddingTable, ...],
    process: Process,
    seed: int,
) -> DistributedModelParallel:
    """Shards the tables of `layer` and the catalogs of `model`, and wraps the rest of the model in DDP.

    Args:
        model: the whole model; its dense parameters are on the device, tables and catalogs on the meta device.
        layer: its embedding layer.
        tables: the tables of the layer.
        process: this process.
        seed: seed of the initial weights.

    Raises:
        UserError: if a table cannot be sharded as configured.
    """
    resolved = {table.name: resolve_table(table, process.device) for table in tables}
    layer.updates = {name: table.update for name, table in resolved.items()}
    parameters = by_table(layer.named_parameters())
    for name, (table, _, update) in resolved.items():
        if not isinstance(update, Replicated):
            update_class, arguments = fused_optimizer(table, update)
            apply_optimizer_in_backward(update_class, [parameters[name]], arguments)
    plan = _plan(model, resolved, process)
    # On one process DDP would copy gradients to its buckets and back for nothing.
    sharded = DistributedModelParallel(
        model, device=process.device, plan=plan, sharders=SHARDERS, init_data_parallel=process.world > 1
    )
    for name, weights in by_table(sharded.state_dict().items()).items():
        for part in parts(weights):
            resolved[name].table.initialise(part.tensor, seed, part.row, part.column)
    for module in sharded.modules():
        if isinstance(module, ShardedCatalog):
            module.initialise(seed)
            _tie(module, sharded)
    return sharded


def _tie(catalog: ShardedCatalog, model: nn.Module) -> None:
    for kernel in kernels(model):
        for table, rows in zip(table_names(kernel), kernel.split_embedding_weights(), strict=True):
            if table == catalog.tied:
                catalog.tie(rows)


def _plan(model: nn.Module, tables: dict[TableName, ResolvedTable], process: Process) -> ShardingPlan:
    is_open = any(table.sharding == "auto" for table in tables.values())
    plan = _planned(model, tables, process) if is_open else ShardingPlan({})
    owners = place(tuple(table for table, *_ in tables.values()), process.world)
    sharders = {sharder.module_type: sharder for sharder in SHARDERS}
    for path, module in model.named_modules():
        if path in plan.plan or (sharder := sharders.get(type(module))) is None:
            continue
        if isinstance(module, Catalog):
            generators = {str(module.table.name): row_wise(compute_kernel="dense")}
        else:
            names = sorted(by_table(module.named_parameters()), key=str)
            generators = {str(name): _generator(tables[name], owners[name], process) for name in names}
        plan.plan[path] = construct_module_sharding_plan(
            module, generators, sharder, process.local_world, process.world, process.device.type
        )
    return plan


def place(tables: tuple[EmbeddingTable, ...], world: int) -> dict[TableName, int]:
    """Owner of each table: large tables first, each to the process with the fewest columns to look up.

    The columns looked up for a row determine the cost of a step (lookup, exchange); placing large tables first
    balances the bytes as well.
    """
    columns, held = [0] * world, [0] * world
    owners = {}
    for table in sorted(tables, key=lambda table: (-table.bytes, str(table.name))):
        owner = min(range(world), key=lambda rank: (columns[rank], held[rank], rank))
        owners[table.name] = owner
        columns[owner] += table.padded_dim * len(table.features)
        held[owner] += table.bytes
    return owners


def _generator(resolved: ResolvedTable, owner: int, process: Process) -> ParameterShardingGenerator:
    table = resolved.table
    node, nodes = owner // process.local_world, process.world // process.local_world
    match resolved.sharding:
        case "table_wise":
            return table_wise(rank=owner, compute_kernel="fused")
        case "row_wise":
            return row_wise(compute_kernel="fused")
        case "column_wise":
            parts = column_parts(table.padded_dim, process.world)
            return column_wise([(owner + part) % process.world for part in range(parts)], compute_kernel="fused")
        case "table_row_wise":
            return table_row_wise(host_index=node)
        case "grid":
            if nodes > 1 and column_parts(table.padded_dim, nodes) != nodes:
                raise UserError(
                    f"table '{table.name}': grid cannot split {table.padded_dim} columns over {nodes} nodes; "
                    "choose another sharding"
                )
            return grid_shard(host_indexes=list(range(nodes)))
        case "data_parallel":
            return data_parallel()
        case "auto":
            raise AssertionError("resolved before")


def column_parts(columns: int, most: int) -> int:
    """The largest number of column shards, at most `most`, of equal widths that are multiples of four."""
    return max(parts for parts in range(1, most + 1) if columns % (parts * DIM_MULTIPLE) == 0)


def _planned(model: nn.Module, tables: dict[TableName, ResolvedTable], process: Process) -> ShardingPlan:
    constraints = {}
    for name, table in tables.items():
        # Replicated tables have other optimizers, so data_parallel is chosen before planning.
        open_to = PLANNED if table.sharding == "auto" else (table.sharding,)
        constraints[str(name)] = ParameterConstraints(
            sharding_types=[ShardingType.GRID_SHARD.value if kind == "grid" else kind for kind in open_to],
            # Row rules write to the weights directly, so these may not be behind a cache.
            compute_kernels=["fused"] if isinstance(table.update, Rows) else None,
        )
    topology = Topology(
        world_size=process.world, local_world_size=process.local_world, compute_device=process.device.type
    )
    planner = EmbeddingShardingPlanner(topology=topology, constraints=constraints)
    assert dist.group.WORLD is not None
    return planner.collective_plan(model, LOOKUP_SHARDERS, dist.group.WORLD)


def plan_table(model: DistributedModelParallel, world: int) -> PrintedTable:
    """The plan to print: the sharding of each table, and the size of the weights on each process."""
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
