"""From a head's wishes to tables: names, sizes, settings and initial weights."""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.head import Lookup
from dist_rec.core.schema import Manifest

Sharding = Literal["auto", "table_wise", "row_wise", "column_wise", "table_row_wise", "grid", "data_parallel"]
OptimizerName = Literal["rowwise_adagrad", "adagrad", "adam", "sgd"]
INIT_ROWS = 1 << 16
# FBGEMM's CUDA kernels move vectors of four floats.
DIM_MULTIPLE = 4


class TableConfig(Config):
    """Settings of one table that differ from the others'."""

    sharding: Sharding | None = None
    """Overrides `embedding.sharding`."""


class EmbeddingConfig(Config):
    """The sharded embedding layer."""

    optimizer: OptimizerName = "rowwise_adagrad"
    """Fused into the backward pass; only the rows of the batch are read and written."""
    lr: float = Field(0.02, gt=0)
    """Learning rate."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator of Adagrad and Adam."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of Adam's first moment."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of Adam's second moment."""
    init: float = Field(0.01, ge=0)
    """Initial weights are uniform in [-init, init]."""
    sharding: Sharding = "auto"
    """How tables are split over processes; "auto" asks TorchRec's planner on GPUs and is "table_wise" on CPUs."""
    tables: dict[str, TableConfig] = {}
    """Settings by table name, as the plan prints them (`lookup/table`) or the data's name for all lookups."""


@dataclass(frozen=True)
class EmbeddingTable:
    """One weight matrix, [rows, padded_dim]."""

    name: str
    """`lookup/table`."""
    rows: int
    dim: int
    """Columns that the head asked for."""
    padded_dim: int
    features: tuple[str, ...]
    pooling: Literal["sum", "mean", "none"]
    weighted: bool
    init: float
    sharding: Sharding

    @property
    def bytes(self) -> int:
        """Size of the weights."""
        return self.rows * self.padded_dim * 4

    def initial_rows(self, seed: int, start: int, stop: int) -> NDArray[np.float32]:
        """Initial weights of rows [start, stop), [stop - start, padded_dim].

        A pure function of the seed, the table's name and the row: the same whatever the number of processes and the
        sharding. Padding columns are zero, so they stay zero.
        """
        parts = []
        for chunk in range(start // INIT_ROWS, -(-stop // INIT_ROWS)):
            first = chunk * INIT_ROWS
            sequence = np.random.SeedSequence([seed, zlib.crc32(self.name.encode()), chunk])
            uniform = np.random.Generator(np.random.Philox(sequence)).random((INIT_ROWS, self.dim), np.float32)
            parts.append(uniform[max(start - first, 0) : stop - first])
        weights = np.zeros((stop - start, self.padded_dim), np.float32)
        weights[:, : self.dim] = (np.concatenate(parts) * 2 - 1) * self.init if parts else 0
        return weights

    @torch.no_grad()
    def initialise(self, shard: Tensor, seed: int, row: int, column: int) -> None:
        """Fills a shard that begins at (row, column) of the table."""
        for start in range(0, shard.shape[0], INIT_ROWS):
            stop = min(start + INIT_ROWS, shard.shape[0])
            weights = self.initial_rows(seed, row + start, row + stop)[:, column : column + shard.shape[1]]
            shard[start:stop].copy_(torch.from_numpy(weights))


def embedding_tables(
    lookups: tuple[Lookup, ...], manifest: Manifest, config: EmbeddingConfig
) -> tuple[EmbeddingTable, ...]:
    """The tables behind a head's lookups: one for each lookup and each table of ids that its features index.

    Raises:
        UserError: if a feature is not an id column, or `embedding.tables` names an unknown table.
    """
    tables = [table for lookup in lookups for table in _tables_of(lookup, manifest, config)]
    known = {table.name for table in tables} | {table.name.split("/", 1)[1] for table in tables}
    unknown = [name for name in config.tables if name not in known]
    if unknown:
        raise UserError(f"embedding.tables: no table {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return tuple(tables)


def _tables_of(lookup: Lookup, manifest: Manifest, config: EmbeddingConfig) -> list[EmbeddingTable]:
    features: dict[tuple[str, bool], list[str]] = {}
    for feature in lookup.features:
        manifest.rows_of(feature)
        column = manifest.column(feature)
        assert column.table is not None
        features.setdefault((column.table, column.weights is not None), []).append(feature)
    if len({table for table, _ in features}) < len(features):
        raise UserError(f"lookup {lookup.name!r}: weighted and unweighted features share a table")
    tables = []
    for (table, weighted), names in features.items():
        name = f"{lookup.name}/{table}"
        own = config.tables.get(name, config.tables.get(table, TableConfig()))
        tables.append(
            EmbeddingTable(
                name=name,
                rows=manifest.tables[table].rows,
                dim=lookup.dim,
                padded_dim=-(-lookup.dim // DIM_MULTIPLE) * DIM_MULTIPLE,
                features=tuple(names),
                pooling=lookup.pooling,
                weighted=weighted,
                init=config.init if lookup.init is None else lookup.init,
                sharding=own.sharding or config.sharding,
            )
        )
    return tables
