"""The lookups of the embedding layer: from a batch to the embeddings that a head requests.

The layer is built on the meta device and sharded by `dist_rec.embedding.sharding`.
"""

from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import (
    EmbeddingBagCollection,
    EmbeddingCollection,
    get_embedding_names_by_table,
)
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from dist_rec.core.batch import Batch
from dist_rec.core.head import Inputs, Lookup, Sequence
from dist_rec.core.noise import noise
from dist_rec.core.table_name import TableName
from dist_rec.embedding.local import local_bags, local_sequences
from dist_rec.embedding.tables import EmbeddingTable
from dist_rec.embedding.updates import Update


class EmbeddingLayer(nn.Module):
    """TorchRec collections for bags, weighted bags and sequences.

    The order of keys in the output of a sharded collection depends on the plan, so it is always regrouped by key.

    Args:
        lookups: the head's requests.
        tables: from `embedding_tables`.
    """

    def __init__(self, lookups: tuple[Lookup, ...], tables: tuple[EmbeddingTable, ...]) -> None:
        super().__init__()
        self.dims = {table.name: table.dim for table in tables}
        self.updates: dict[TableName, Update] = {}
        """Update of each table; known once the layer is sharded."""
        self.is_local = False
        """Whether lookups go straight to the kernels, since this process has all tables."""
        bags = [table for table in tables if table.pooling != "none" and not table.weighted]
        weighted = [table for table in tables if table.pooling != "none" and table.weighted]
        sequences = [table for table in tables if table.pooling == "none"]
        self.bags = _collection(EmbeddingBagCollection, EmbeddingBagConfig, bags)
        self.weighted_bags = _collection(EmbeddingBagCollection, EmbeddingBagConfig, weighted, is_weighted=True)
        dropout = {feature: lookup.dropout for lookup in lookups if lookup.dropout for feature in lookup.features}
        self.drop_ids = _DropIds(dropout) if dropout else None
        self.sequences = _collection(EmbeddingCollection, EmbeddingConfig, sequences)
        keys = {**_keys(bags), **_keys(weighted)}
        pooled = tuple(lookup for lookup in lookups if lookup.pooling != "none")
        self.regroup = _Regroup(pooled, keys) if pooled else None
        self.split = _Split(tuple(lookup for lookup in lookups if lookup.pooling == "none"), _keys(sequences))

    def forward(self, batch: Batch) -> Inputs:
        """Looks up a batch of B rows; see `Inputs` for the shapes."""
        pooled, sequences = {}, {}
        found: list[KeyedTensor] = []
        if self.bags is not None:
            found += self._sums(self.bags, batch.ids)
        if self.weighted_bags is not None:
            weighted_ids = batch.weighted_ids if self.drop_ids is None else self.drop_ids(batch.weighted_ids)
            found += self._sums(self.weighted_bags, weighted_ids)
        if self.regroup is not None:
            pooled = self.regroup(found, batch.rows, batch.ids, batch.weighted_ids)
        if self.sequences is not None:
            of_keys = local_sequences(self.sequences, batch.ids) if self.is_local else self.sequences(batch.ids)
            sequences = self.split(of_keys, batch.rows)
        return Inputs(dense=batch.dense, pooled=pooled, sequences=sequences, step=batch.step)

    def _sums(self, collection: nn.Module, ids: KeyedJaggedTensor) -> list[KeyedTensor]:
        return local_bags(collection, ids) if self.is_local else [collection(ids)]


def embedding_layer(model: nn.Module) -> EmbeddingLayer:
    """The embedding layer of a model."""
    return next(module for module in model.modules() if isinstance(module, EmbeddingLayer))


class _DropIds(nn.Module):
    """Drops ids of weighted bags in training: their weights are set to 0.

    Args:
        dropout: dropout probability by feature; 0 for the others.
    """

    def __init__(self, dropout: dict[str, float]) -> None:
        super().__init__()
        self._dropout = dropout

    def forward(self, ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
        if not self.training:
            return ids
        weights_V = torch.cat([self._dropped(key, ids[key]) for key in ids.keys()])  # noqa: SIM118
        return KeyedJaggedTensor(ids.keys(), ids.values(), weights_V, ids.lengths(), stride=ids.stride())

    def _dropped(self, key: str, bag: JaggedTensor) -> Tensor:
        p = self._dropout.get(key, 0.0)
        return bag.weights() * (noise.uniform_of_ids(bag.lengths()) >= p) / (1 - p) if p else bag.weights()


class _Regroup(nn.Module):
    """Keyed tensors of sums → one tensor [B, F, D] for each lookup.

    Means are computed here, since TorchRec omits the division under some kinds of sharding. Adjacent columns are
    viewed; others are joined by `torch.stack`, since on CPUs TorchRec's `KTRegroupAsDict` copies row by row, which took
    most of a step.
    """

    def __init__(self, lookups: tuple[Lookup, ...], keys: dict[tuple[str, str], str]) -> None:
        super().__init__()
        self._lookups, self._divisors = lookups, {"mean": JaggedTensor.lengths, "sqrtn": _norms}
        self._keys = {lookup.name: [keys[lookup.name, feature] for feature in lookup.features] for lookup in lookups}
        self._first = {own[0]: name for name, own in self._keys.items()}

    def forward(
        self, found: list[KeyedTensor], rows: int, ids: KeyedJaggedTensor, weighted_ids: KeyedJaggedTensor
    ) -> dict[str, Tensor]:
        columns: dict[str, Tensor] = {}
        blocks: dict[str, Tensor] = {}
        for keyed in found:
            runs = self._runs(keyed.keys())
            if runs is None:
                columns |= keyed.to_dict()
            else:
                blocks |= zip(runs, _split(keyed, [len(self._keys[name]) for name in runs]), strict=True)
        unweighted = ids.keys()
        pooled = {}
        for lookup in self._lookups:
            x_BFD = blocks.get(lookup.name)
            if x_BFD is None:
                x_BFD = torch.stack([columns[key] for key in self._keys[lookup.name]], dim=1)
            x_BFD = _narrow(x_BFD, rows, lookup.dim)
            if (divisor := self._divisors.get(lookup.pooling)) is not None:
                bags = [(ids if name in unweighted else weighted_ids)[name] for name in lookup.features]
                divisor_BF = torch.stack([divisor(bag)[:rows] for bag in bags], dim=1)
                x_BFD = x_BFD / divisor_BF.masked_fill(divisor_BF == 0, 1).unsqueeze(2)
            pooled[lookup.name] = x_BFD
        return pooled

    def _runs(self, keys: list[str]) -> list[str] | None:
        """The lookups in order, if the keys are those of whole lookups one after the other; otherwise None."""
        runs, start = [], 0
        while start < len(keys):
            name = self._first.get(keys[start])
            if name is None or keys[start : start + len(self._keys[name])] != self._keys[name]:
                return None
            runs.append(name)
            start += len(self._keys[name])
        return runs


def _split(keyed: KeyedTensor, features: list[int]) -> list[Tensor]:
    """Views [P, F, D] of consecutive features, F for each view."""
    ends = [0, *accumulate(features)]
    offsets = keyed.offset_per_key()
    widths = [offsets[stop] - offsets[start] for start, stop in pairwise(ends)]
    parts = keyed.values().split(widths, dim=1) if len(widths) > 1 else [keyed.values()]
    return [part.unflatten(1, (count, -1)) for part, count in zip(parts, features, strict=True)]


def _narrow(x_PFD: Tensor, rows: int, dim: int) -> Tensor:
    """The first rows and columns, [B, F, D]; `split`'s gradient is one copy, that of a slice zeros and a copy."""
    if len(x_PFD) > rows:
        x_PFD = x_PFD[:rows]
    return x_PFD.split((dim, x_PFD.shape[2] - dim), dim=2)[0] if x_PFD.shape[2] > dim else x_PFD


class _Split(nn.Module):
    """Jagged tensors by key → sequences by lookup and feature."""

    def __init__(self, lookups: tuple[Lookup, ...], keys: dict[tuple[str, str], str]) -> None:
        super().__init__()
        self._lookups, self._keys = lookups, keys

    def forward(self, found: dict[str, JaggedTensor], rows: int) -> dict[str, dict[str, Sequence]]:
        return {
            lookup.name: {feature: self._sequence(found, lookup, feature, rows) for feature in lookup.features}
            for lookup in self._lookups
        }

    def _sequence(self, found: dict[str, JaggedTensor], lookup: Lookup, feature: str, rows: int) -> Sequence:
        jagged = found[self._keys[lookup.name, feature]]
        return Sequence(jagged.values()[:, : lookup.dim], jagged.lengths()[:rows])


def _norms(bag: JaggedTensor) -> Tensor:
    """L2 norm of the weights of each row, [B]; each weight is 1 if the bag has none."""
    weights_V, lengths_B = bag.weights_or_none(), bag.lengths()
    if weights_V is None:
        return lengths_B.sqrt()
    rows_B = torch.arange(len(lengths_B), device=lengths_B.device)
    row_V = rows_B.repeat_interleave(lengths_B, output_size=len(weights_V))
    return weights_V.new_zeros(len(lengths_B)).index_add(0, row_V, weights_V.square()).sqrt()


def _collection(kind: Any, config: Any, tables: list[EmbeddingTable], **options: bool) -> Any:
    """A TorchRec collection of the tables on the meta device, None without tables; bags are summed."""
    return kind(_configs(config, tables), device=torch.device("meta"), **options) if tables else None


def _configs(config: Any, tables: list[EmbeddingTable]) -> list[Any]:
    return [
        config(
            name=str(table.name),
            num_embeddings=table.rows,
            embedding_dim=table.padded_dim,
            feature_names=list(table.features),
        )
        for table in tables
    ]


def _keys(tables: list[EmbeddingTable]) -> dict[tuple[str, str], str]:
    """(lookup, feature) → the key under which TorchRec returns it."""
    names = get_embedding_names_by_table(_configs(EmbeddingConfig, tables))
    return {
        (table.name.lookup, feature): key
        for table, keys in zip(tables, names, strict=True)
        for feature, key in zip(table.features, keys, strict=True)
    }
