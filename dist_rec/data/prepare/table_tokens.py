"""From columns to labels, and to tokens: the text that a vocabulary or a hash turns into ids.

Shapes: N rows of a chunk, V tokens of a bag or sequence.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.data.prepare.table_schema import Categorical, Cross, IdColumn, Jagged, Label, TableSchema
from dist_rec.data.prepare.table_source import Chunk

CROSS = "\x1f"
"""Between the parts of a cross: ASCII's separator of units, which no text holds."""


class Tokens(NamedTuple):
    """Of a feature."""

    text: pa.StringArray
    """(N,), null where a value is missing; for a bag or sequence (V,), the rows end to end."""
    length_N: NDArray[np.int64] | None
    """Tokens of each row of a bag or sequence."""


def labels_of(chunk: Chunk, label: Label) -> NDArray[np.float64]:
    """The labels of N rows; raises UserError naming a row that has none."""
    if label.positive:
        text = chunk.text(label.column)
        missing_N = text.is_null().to_numpy(zero_copy_only=False)
        positive = pc.is_in(text, pa.array(label.positive, pa.string()))
        label_N = positive.to_numpy(zero_copy_only=False).astype(np.float64)
    else:
        label_N = chunk.numbers(label.column)
        missing_N = np.isnan(label_N)
    if missing_N.any():
        raise UserError(f"{chunk.where(int(missing_N.argmax()))}: the label {label.column} is missing")
    return label_N


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
    """The tokens of a bucketised number: that of bucket i, from 0, is at place i."""
    return pa.array([str(bucket) for bucket in range(len(feature.boundaries) + 1)], pa.string())
