"""Ids of any kind as codes: 0, 1, … in the order of first appearance, learnt chunk by chunk.

Shapes: N values, K distinct ones.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.prepare.ids import recoded
from dist_rec.prepare.sessions.spool import Spool
from dist_rec.prepare.table.chunks import Chunk

PENDING = 1 << 18
"""Distinct values of chunks that wait at least until they are made one."""


class Codes:
    """A vocabulary that grows. What chunks bring waits until it is as much as is known, so that growth is linear.

    Args:
        what: of which the ids are, for messages.
        folder: on the disk where codes wait.
    """

    def __init__(self, what: str, folder: Path) -> None:
        self._what, self._settled = what, Spool(folder, np.int32)
        self._known = pa.array([], pa.large_string())
        self._pending: list[pa.DictionaryArray] = []
        self._waiting = 0

    def add(self, chunk: Chunk, column: str) -> None:
        """Appends a column of ids, see `dist_rec.prepare.ids`.

        Raises:
            UserError: naming the row of a missing id or of one with a line break.
        """
        encoded = chunk.columns[column].dictionary_encode()
        code = encoded.indices
        if code.null_count:
            raise self._missing(chunk, code.is_null())
        text = Chunk(chunk.path, {column: encoded.dictionary}, chunk.missing, chunk.where).text(column)
        if text.null_count:
            raise self._missing(chunk, pc.is_in(code, pc.indices_nonzero(text.is_null()).cast(code.type)))
        broken = pc.match_substring(text, "\n")
        if pc.any(broken).as_py():
            row = pc.index(pc.is_in(code, pc.indices_nonzero(broken).cast(code.type)), True).as_py()
            raise UserError(f"{chunk.where(row)}: the {self._what} has a line break; remove it")
        block = recoded(encoded, text)
        self._pending.append(pa.DictionaryArray.from_arrays(block.indices, block.dictionary.cast(pa.large_string())))
        self._waiting += len(block.dictionary)
        if self._waiting >= max(PENDING, len(self._known)):
            self._settle()

    def _missing(self, chunk: Chunk, among: pa.BooleanArray) -> UserError:
        return UserError(f"{chunk.where(pc.index(among, True).as_py())}: the {self._what} is missing; add it")

    def _settle(self) -> None:
        if not self._pending:
            return
        # Arrow would keep the memory of the chunks read so far and of the hash table, more than all that stays.
        pa.default_memory_pool().release_unused()
        chunks = [pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), self._known), *self._pending]
        self._pending, self._waiting = [], 0
        known, *chunks = pa.chunked_array(chunks).unify_dictionaries().chunks
        self._known = known.dictionary
        for chunk in chunks:
            self._settled.append(chunk.indices.to_numpy())
        del known, chunks, chunk
        pa.default_memory_pool().release_unused()

    def take(self) -> NDArray[np.int32]:
        """The codes of all values since the last call, (N,)."""
        self._settle()
        return self._settled.take()

    @property
    def values(self) -> pa.Array:
        """The text of each code that was taken, (K,)."""
        return self._known
