"""Sharding and update of a lookup's table on the devices of a run, decided once."""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.optim import Optimizer
from torchrec import optim

from dist_rec.core.errors import UserError
from dist_rec.embedding.row_rules import SGD, Adagrad, Adam, RowRule, Rows, RowWiseAdagrad, row_update
from dist_rec.embedding.tables import EmbeddingTable, Sharding

OPTIMIZERS: dict[type[RowRule], type[Optimizer]] = {
    SGD: torch.optim.SGD,
    Adagrad: torch.optim.Adagrad,
    RowWiseAdagrad: optim.RowWiseAdagrad,
    Adam: optim.Adam,
}
"""TorchRec's names of FBGEMM's form of each rule; arguments are the rule's fields and the learning rate."""


@dataclass(frozen=True)
class Fused:
    """An update by FBGEMM in the backward pass: its form of the optimizer, with these arguments."""

    optimizer: type[Optimizer]
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Replicated:
    """An update of a copy on every process by the optimizer itself, from a gradient that DDP has averaged."""

    optimizer: type[Optimizer]
    arguments: dict[str, Any]


Update: TypeAlias = Fused | Rows | Replicated


class ResolvedTable(NamedTuple):
    """A table, its sharding ("auto" is left to TorchRec's planner) and its update."""

    table: EmbeddingTable
    sharding: Sharding
    update: Update


def resolve_table(table: EmbeddingTable, device: torch.device) -> ResolvedTable:
    """Sharding and update of a table; raises UserError if it cannot be sharded or updated as configured.

    The update is fused wherever FBGEMM has a kernel. It has none for FTRL, on CPUs none for Adam, and L2 only in its
    CUDA kernel of row-wise Adagrad (the weight decay of its Adam is decoupled), so all tables with L2 are updated by
    row rules. So are those with momentum and tables tied to a catalog, which adds to their gradients.
    """
    settings, sharding, rows = table.settings, _sharding(table, device), row_update(table.settings)
    no_kernel = settings.optimizer == "ftrl" or (settings.optimizer == "adam" and device.type == "cpu")
    if no_kernel or settings.weight_decay or settings.momentum or table.tied:
        return ResolvedTable(table, sharding, rows)
    kind = Replicated if sharding == "data_parallel" else Fused
    return ResolvedTable(table, sharding, kind(OPTIMIZERS[type(rows.rule)], {"lr": settings.lr, **vars(rows.rule)}))


def _sharding(table: EmbeddingTable, device: torch.device) -> Sharding:
    sharding, settings = table.settings.sharding, table.settings
    if table.tied:
        if sharding not in ("auto", "row_wise"):
            raise UserError(
                f"table '{table.name}': a catalog is tied to it, which needs row_wise; remove sharding={sharding!r}"
            )
        return "row_wise"
    if sharding == "auto" and device.type == "cpu":
        return "table_wise"
    moves_others = settings.optimizer in ("adam", "ftrl") or settings.weight_decay or settings.momentum
    if sharding == "data_parallel" and moves_others:
        raise UserError(
            f"table '{table.name}': data_parallel takes sgd, adagrad and rowwise_adagrad without weight_decay or "
            "momentum, since other updates would change rows outside of the batch; choose another optimizer or sharding"
        )
    if sharding == "data_parallel" and table.pooling == "none" and device.type == "cpu":
        raise UserError(f"table '{table.name}': FBGEMM has no data_parallel sequences on CPUs; choose table_wise")
    return sharding
