"""From a head's requests to tables: names, sizes, settings and initial weights."""

import zlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_serializer
from torch import Tensor

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.head import Catalog, Lookup
from dist_rec.core.schema import Manifest
from dist_rec.core.table_name import TableName

Sharding = Literal["auto", "table_wise", "row_wise", "column_wise", "table_row_wise", "grid", "data_parallel"]
OptimizerName = Literal["rowwise_adagrad", "adagrad", "adam", "sgd", "ftrl"]
INIT_ROWS = 1 << 16
# FBGEMM's CUDA kernels move vectors of four floats.
DIM_MULTIPLE = 4


class TableSettings(Config):
    """How a table starts, learns and is split."""

    optimizer: OptimizerName = "rowwise_adagrad"
    """Update rule; only the rows of the batch are read and written, whatever the rule."""
    lr: float = Field(0.02, gt=0)
    """Learning rate; α of FTRL."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator of Adagrad and Adam."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of Adam's first moment."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of Adam's second moment."""
    l1: float = Field(0.0, ge=0)
    """λ₁ of FTRL: weights whose gradients' sum stays below it are 0."""
    l2: float = Field(0.0, ge=0)
    """λ₂ of FTRL: pulls the weights to 0, once and not in every step."""
    beta: float = Field(1.0, gt=0)
    """β of FTRL: the rate of an element is lr / (beta + √(sum of its squared gradients))."""
    weight_decay: float = Field(0.0, ge=0)
    """Times the weight is added to the gradient (L2) of the rows of the batch only: a rare row is decayed rarely, where
    decay of the whole table would draw it to 0 between its appearances."""
    init: float = Field(0.01, ge=0)
    """Initial weights are uniform in [-init, init]; FTRL's paper starts from 0."""
    sharding: Sharding = "auto"
    """How tables are split over processes; "auto" asks TorchRec's planner on GPUs and is "table_wise" on CPUs."""


class EmbeddingConfig(TableSettings):
    """The sharded embedding layer: settings of all tables, and of some."""

    lookups: dict[str, TableSettings] = {}
    """Settings of a head's lookup that differ from the others', by its name."""
    tables: dict[str, TableSettings] = {}
    """Settings by table name, as the plan prints them (`lookup/table`) or the data's name for all lookups."""

    @field_serializer("lookups", "tables")
    def _only_what_differs(self, settings: dict[str, TableSettings]) -> dict[str, dict[str, Any]]:
        return {name: own.model_dump(exclude_unset=True) for name, own in settings.items()}

    def settings(self, table: TableName, init: float | None = None) -> TableSettings:
        """Settings of a table: its own come before those of the data's table, the lookup, the head and all tables.

        Args:
            table: its name.
            init: what the head asks for.
        """
        values = {name: getattr(self, name) for name in TableSettings.model_fields}
        if init is not None:
            values["init"] = init
        for own in (self.lookups.get(table.lookup), self.tables.get(table.table), self.tables.get(str(table))):
            if own is not None:
                values |= {name: getattr(own, name) for name in own.model_fields_set}
        return TableSettings(**values)


@dataclass(frozen=True)
class EmbeddingTable:
    """One weight matrix, [rows, padded_dim]."""

    name: TableName
    rows: int
    dim: int
    """Columns that the head asked for."""
    padded_dim: int
    features: tuple[str, ...]
    pooling: Literal["sum", "mean", "sqrtn", "none"]
    weighted: bool
    settings: TableSettings
    tied: bool = False
    """Whether a catalog scores against it too: it is cut by rows then, and updated by a row rule."""

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
            sequence = np.random.SeedSequence([seed, zlib.crc32(str(self.name).encode()), chunk])
            uniform = np.random.Generator(np.random.Philox(sequence)).random((INIT_ROWS, self.dim), np.float32)
            parts.append(uniform[max(start - first, 0) : stop - first])
        weights = np.zeros((stop - start, self.padded_dim), np.float32)
        weights[:, : self.dim] = (np.concatenate(parts) * 2 - 1) * self.settings.init if parts else 0
        return weights

    @torch.no_grad()
    def initialise(self, shard: Tensor, seed: int, row: int, column: int) -> None:
        """Fills a shard that begins at (row, column) of the table."""
        for start in range(0, shard.shape[0], INIT_ROWS):
            stop = min(start + INIT_ROWS, shard.shape[0])
            weights = self.initial_rows(seed, row + start, row + stop)[:, column : column + shard.shape[1]]
            shard[start:stop].copy_(torch.from_numpy(weights))


def embedding_tables(
    lookups: tuple[Lookup, ...],
    manifest: Manifest,
    config: EmbeddingConfig,
    catalogs: tuple[Catalog, ...] = (),
) -> tuple[EmbeddingTable, ...]:
    """The tables behind a head's lookups: one for each lookup and each table of ids that its features index.

    Args:
        lookups: the head's requests.
        manifest: the data's tables.
        config: settings of the tables.
        catalogs: its requests for outputs, which `config` may name as well; their tables are `catalog_table`'s.

    Raises:
        UserError: if a feature is not an id column, or `embedding.lookups` or `embedding.tables` has an unknown name.
    """
    tied = {_tied_table(catalog, lookups, manifest) for catalog in catalogs if catalog.tied is not None}
    tables = [
        replace(table, tied=table.name in tied) for lookup in lookups for table in _tables_of(lookup, manifest, config)
    ]
    requests = [*(lookup.name for lookup in lookups), *(catalog.name for catalog in catalogs)]
    if twice := next((name for name in requests if requests.count(name) > 1), None):
        raise UserError(f"the head asks for two lookups or catalogs named {twice!r}")
    _check_names("lookup", set(config.lookups), set(requests))
    names = [table.name for table in (*tables, *(catalog_table(catalog, manifest, config) for catalog in catalogs))]
    _check_names("table", set(config.tables), {*map(str, names), *(name.table for name in names)})
    return tuple(tables)


def catalog_table(catalog: Catalog, manifest: Manifest, config: EmbeddingConfig) -> EmbeddingTable:
    """The table behind a head's catalog; raises UserError if its feature is not an id column."""
    rows = manifest.rows_of(catalog.feature)
    name = TableName(catalog.name, manifest.table_of(catalog.feature))
    settings = config.settings(name, catalog.init)
    return EmbeddingTable(name, rows, catalog.dim, catalog.dim, (catalog.feature,), "none", False, settings)


def _tied_table(catalog: Catalog, lookups: tuple[Lookup, ...], manifest: Manifest) -> TableName:
    """The lookup's table that a catalog scores against."""
    ids = manifest.table_of(catalog.feature)
    for lookup in lookups:
        tables = [manifest.table_of(feature) for feature in lookup.features]
        if lookup.name == catalog.tied and lookup.dim == catalog.dim and ids in tables:
            return TableName(lookup.name, ids)
    raise UserError(
        f"catalog {catalog.name!r}: no lookup {catalog.tied!r} of {catalog.dim} columns has the table {ids!r}"
    )


def _check_names(kind: str, used: set[str], known: set[str]) -> None:
    if unknown := sorted(used - known):
        raise UserError(f"embedding.{kind}s: no {kind} {unknown[0]!r}; known: {', '.join(sorted(known))}")


def _tables_of(lookup: Lookup, manifest: Manifest, config: EmbeddingConfig) -> list[EmbeddingTable]:
    features: dict[tuple[str, bool], list[str]] = {}
    for feature in lookup.features:
        column = manifest.column(feature)
        features.setdefault((manifest.table_of(feature), column.weights is not None), []).append(feature)
        if lookup.dropout and column.weights is None:
            raise UserError(f"lookup {lookup.name!r} drops ids of weighted bags alone; {feature!r} has no weights")
    if len({table for table, _ in features}) < len(features):
        raise UserError(f"lookup {lookup.name!r}: weighted and unweighted features share a table")
    tables = []
    for (table, weighted), names in features.items():
        name, rows = TableName(lookup.name, table), manifest.tables[table].rows
        padded_dim = -(-lookup.dim // DIM_MULTIPLE) * DIM_MULTIPLE
        settings, of = config.settings(name, lookup.init), tuple(names)
        tables.append(EmbeddingTable(name, rows, lookup.dim, padded_dim, of, lookup.pooling, weighted, settings))
    return tables
