"""Lookups of a process that has all tables: the kernels of TorchRec's sharded collections on the batch as it is.

Where nothing is exchanged, the collections still sort ids by process, wait for their numbers and put embeddings back in
order, which takes longer than the lookup of a small batch.
"""

from typing import Any

from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor


def local_bags(sharded: Any, ids: KeyedJaggedTensor) -> list[KeyedTensor]:
    """Sums of the bags of a sharded `EmbeddingBagCollection`, a keyed tensor for each kind of sharding."""
    found = []
    for lookup in sharded._lookups:
        features, keys, dims = _names(lookup)
        found.append(KeyedTensor(keys, dims, lookup(_of(ids, features))))
    return found


def local_sequences(sharded: Any, ids: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
    """Embeddings of the ids of a sharded `EmbeddingCollection`, by key."""
    found = {}
    for lookup in sharded._lookups:
        features, keys, dims = _names(lookup)
        own = _of(ids, features)
        x_VD = lookup(own).view(-1, dims[0])
        parts = x_VD.split(own.length_per_key()) if len(keys) > 1 else [x_VD]
        lengths_FP = own.lengths().view(len(keys), -1)
        for key, part_VD, lengths_P in zip(keys, parts, lengths_FP, strict=True):
            found[key] = JaggedTensor(part_VD, lengths=lengths_P)
    return found


def _names(lookup: Any) -> tuple[list[str], list[str], list[int]]:
    """Features, keys of the embeddings and columns of each, in the order of a lookup's kernels."""
    groups = getattr(lookup, "module", lookup).grouped_configs  # a replicated lookup is in a wrapper
    features = [name for group in groups for name in group.feature_names()]
    keys = [name for group in groups for name in group.embedding_names()]
    return features, keys, [dim for group in groups for dim in group.embedding_dims()]


def _of(ids: KeyedJaggedTensor, features: list[str]) -> KeyedJaggedTensor:
    """The ids of some features in order; neighbours are viewed, since `permute` copies all of them."""
    known = ids.keys()
    places = [known.index(feature) for feature in features]
    first, end = places[0], places[-1] + 1
    if places != [*range(first, end)]:
        return ids.permute(places)
    bounds, stride, weights = ids.offset_per_key(), ids.stride(), ids.weights_or_none()
    values = slice(bounds[first], bounds[end])
    return KeyedJaggedTensor(
        features,
        ids.values()[values],
        None if weights is None else weights[values],
        ids.lengths()[first * stride : end * stride],
        stride=stride,
    )
