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
WITH_MOMENTUM = ("sgd", "adagrad")
INIT_ROWS = 1 << 16
# FBGEMM's CUDA kernels move vectors of four floats.
DIM_MULTIPLE = 4


class TableSettings(Config):
    """Initial weights, optimizer and sharding of a table."""

    optimizer: OptimizerName = "rowwise_adagrad"
    """Update rule; every rule reads and writes only the rows of the batch."""
    lr: float = Field(0.02, gt=0)
    """Learning rate; α of FTRL."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator of Adagrad and Adam."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of Adam's first moment."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of Adam's second moment."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """μ of SGD and Adagrad: the share of its last step that a row goes on by, each time that it is in the batch."""
    l1: float = Field(0.0, ge=0)
    """λ₁ of FTRL: a weight is 0 as long as the sum of its gradients is below it."""
    l2: float = Field(0.0, ge=0)
    """λ₂ of FTRL: L2 penalty, which FTRL adds once and not in every step."""
    beta: float = Field(1.0, gt=0)
    """β of FTRL: the rate of an element is lr / (beta + √(sum of its squared gradients))."""
    weight_decay: float = Field(0.0, ge=0)
    """L2: weight_decay times the weight is added to the gradients of the rows of the batch only. A rare row is decayed
    rarely; decay of the whole table would shrink it to 0 between its occurrences."""
    init: float = Field(0.01, ge=0)
    """Initial weights are uniform in [-init, init]; FTRL's paper starts from 0."""
    sharding: Sharding = "auto"
    """How a table is split over processes; "auto" is TorchRec's choice on GPUs and "table_wise" on CPUs."""


class EmbeddingConfig(TableSettings):
    """Settings of the sharded embedding layer: for all tables, and for single lookups and tables."""

    lookups: dict[str, TableSettings] = {}
    """Settings by the name of a head's lookup or catalog; they override those for all tables."""
    tables: dict[str, TableSettings] = {}
    """Settings by table name, `lookup/table` as in the printed plan or the data's `table` for all lookups."""

    @field_serializer("lookups", "tables")
    def _only_what_differs(self, settings: dict[str, TableSettings]) -> dict[str, dict[str, Any]]:
        return {name: own.model_dump(exclude_unset=True) for name, own in settings.items()}

    def settings(self, table: TableName, init: float | None = None) -> TableSettings:
        """Settings of a table: its own override those of the data's table, the lookup, the head and all tables.

        Args:
            table: name of the table.
            init: the head's request.

        Raises:
            UserError: if they have momentum, and an optimizer that takes none.
        """
        values = {name: getattr(self, name) for name in TableSettings.model_fields}
        if init is not None:
            values["init"] = init
        for own in (self.lookups.get(table.lookup), self.tables.get(table.table), self.tables.get(str(table))):
            if own is not None:
                values |= {name: getattr(own, name) for name in own.model_fields_set}
        if values["momentum"] and values["optimizer"] not in WITH_MOMENTUM:
            raise UserError(
                f"table '{table}': momentum is for {' and '.join(WITH_MOMENTUM)}, not for {values['optimizer']}"
            )
        return TableSettings(**values)


@dataclass(frozen=True)
class EmbeddingTable:
    """One weight matrix, [rows, padded_dim]."""

    name: TableName
    rows: int
    dim: int
    """Columns that the head requests."""
    padded_dim: int
    features: tuple[str, ...]
    pooling: Literal["sum", "mean", "sqrtn", "none"]
    weighted: bool
    settings: TableSettings
    tied: bool = False
    """Whether a catalog shares its weights; it is then sharded by rows and updated by a row rule."""

    @property
    def bytes(self) -> int:
        """Size of the weights."""
        return self.rows * self.padded_dim * 4

    def initial_rows(self, seed: int, start: int, stop: int) -> NDArray[np.float32]:
        """Initial weights of rows [start, stop), [stop - start, padded_dim].

        They depend only on the seed, the table's name and the row, not on the number of processes or the sharding.
        Padding columns are zero, and updates keep them zero.
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
    """The tables of a head's lookups: one for each lookup and each table of ids that its features index.

    Args:
        lookups: the head's requests.
        manifest: the data's tables.
        config: settings of the tables and of the catalogs.
        catalogs: the head's requests for catalogs, whose tables `catalog_table` makes.

    Raises:
        UserError: if a feature is not an id column, or `embedding.lookups` or `embedding.tables` has an unknown name.
    """
    tied = {_tied_table(catalog, lookups, manifest) for catalog in catalogs if catalog.tied is not None}
    tables = [
        replace(table, tied=table.name in tied) for lookup in lookups for table in _tables_of(lookup, manifest, config)
    ]
    requests = [*(lookup.name for lookup in lookups), *(catalog.name for catalog in catalogs)]
    if twice := next((name for name in requests if requests.count(name) > 1), None):
        raise UserError(f"the head requests two lookups or catalogs named {twice!r}; rename one of them")
    _check_names("lookup", set(config.lookups), set(requests))
    names = [table.name for table in (*tables, *(catalog_table(catalog, manifest, config) for catalog in catalogs))]
    _check_names("table", set(config.tables), {*map(str, names), *(name.table for name in names)})
    return tuple(tables)


def catalog_table(catalog: Catalog, manifest: Manifest, config: EmbeddingConfig) -> EmbeddingTable:
    """The table of a head's catalog; raises UserError if its feature is not an id column."""
    rows = manifest.rows_of(catalog.feature)
    name = TableName(catalog.name, manifest.table_of(catalog.feature))
    settings = config.settings(name, catalog.init)
    return EmbeddingTable(name, rows, catalog.dim, catalog.dim, (catalog.feature,), "none", False, settings)


def _tied_table(catalog: Catalog, lookups: tuple[Lookup, ...], manifest: Manifest) -> TableName:
    """The lookup's table whose weights a catalog shares."""
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
            raise UserError(f"lookup {lookup.name!r}: dropout needs weighted bags, but {feature!r} has no weights")
    if len({table for table, _ in features}) < len(features):
        raise UserError(f"lookup {lookup.name!r}: weighted and unweighted features share a table; request two lookups")
    tables = []
    for (table, weighted), names in features.items():
        name, rows = TableName(lookup.name, table), manifest.tables[table].rows
        padded_dim = -(-lookup.dim // DIM_MULTIPLE) * DIM_MULTIPLE
        settings, of = config.settings(name, lookup.init), tuple(names)
        tables.append(EmbeddingTable(name, rows, lookup.dim, padded_dim, of, lookup.pooling, weighted, settings))
    return tables
