"""Labels and tokens of chunks; a token is the text that a vocabulary or a hash maps to a row of a table.

Shapes: N rows of a chunk, V tokens of a bag or sequence, K distinct ones.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.prepare.ids import id_text
from dist_rec.prepare.table.chunks import Chunk
from dist_rec.prepare.table.schema import Categorical, Cross, IdColumn, Jagged, Label, TableSchema

CROSS = "\x1f"
"""Separates the parts of a cross: ASCII's unit separator, which does not occur in text."""


class Tokens(NamedTuple):
    """The tokens of a feature."""

    text: pa.StringArray
    """(N,), null if a value is missing; for a bag or sequence (V,), the rows end to end."""
    length_N: NDArray[np.int64] | None
    """Number of tokens of each row of a bag or sequence."""


def labels_of(chunk: Chunk, label: Label) -> NDArray[np.float64]:
    """The labels of N rows; raises UserError naming a row without a label."""
    if label.positive:
        text = chunk.text(label.column)
        missing_N = text.is_null().to_numpy(zero_copy_only=False)
        positive = pc.is_in(text, _as_ids(label.positive, chunk.columns[label.column].type))
        label_N = positive.to_numpy(zero_copy_only=False).astype(np.float64)
    else:
        label_N = chunk.numbers(label.column)
        missing_N = np.isnan(label_N)
    if missing_N.any():
        where = chunk.where(int(missing_N.argmax()))
        raise UserError(f"{where}: the label {label.column} is missing; remove the row")
    return label_N


def _as_ids(values: tuple[str, ...], of: pa.DataType) -> pa.StringArray:
    """Values as those of a column of a type are read: 1.0 is 1, and so is true among booleans."""
    if pa.types.is_boolean(of):
        values = tuple({"true": "1", "false": "0"}.get(value.lower(), value) for value in values)
    return id_text(pa.array(values, pa.string()))


def tokens_of(chunk: Chunk, schema: TableSchema, name: str, feature: IdColumn | Cross) -> Tokens:
    """The tokens of an id feature in N rows."""
    if isinstance(feature, Jagged):
        return Tokens(*chunk.lists(feature.column or name, feature.separator))
    if isinstance(feature, Cross):
        parts = [_categorical(chunk, part, schema.categorical[part]) for part in feature.of]
        return Tokens(pc.binary_join_element_wise(*parts, CROSS), None)
    assert isinstance(feature, Categorical)
    return Tokens(_categorical(chunk, name, feature), None)


def _categorical(chunk: Chunk, name: str, feature: Categorical) -> pa.StringArray:
    column = feature.column or name
    if not feature.boundaries:
        return chunk.text(column)
    number_N = chunk.numbers(column)
    bucket_N = np.searchsorted(feature.boundaries, number_N, side="right")
    return pa.array(bucket_N, mask=np.isnan(number_N)).cast(pa.string())


def bucket_tokens(feature: Categorical) -> pa.StringArray:
    """The tokens of a bucketised number: bucket i, from 0, has the one at index i."""
    return pa.array([str(bucket) for bucket in range(len(feature.boundaries) + 1)], pa.string())


@dataclass(frozen=True)
class Vocabulary:
    """Maps the i-th value, from 1, to row i, and all others to row 0."""

    values: pa.StringArray

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return len(self.values) + 1

    def __call__(self, text: pa.StringArray) -> NDArray[np.int32]:
        """The row of each token, (V,)."""
        place = pc.index_in(text, self.values, skip_nulls=True).fill_null(-1)
        return place.to_numpy(zero_copy_only=False) + np.int32(1)


@dataclass(frozen=True)
class Buckets:
    """Maps a value to row 1 + xxh3_64(UTF-8) mod buckets, and missing values to row 0."""

    buckets: int

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.buckets + 1

    def __call__(self, text: pa.StringArray) -> NDArray[np.int32]:
        """The row of each token, (V,)."""
        distinct = text.dictionary_encode()
        values = distinct.dictionary.cast(pa.binary()).to_pylist()
        hash_K = np.fromiter(map(xxhash.xxh3_64_intdigest, values), np.uint64, len(values))
        row_K1 = np.append(hash_K % np.uint64(self.buckets) + np.uint64(1), np.uint64(0)).astype(np.int32)
        return row_K1[distinct.indices.fill_null(len(values)).to_numpy()]
