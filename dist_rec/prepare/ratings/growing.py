"""What grows while files are read: columns of numbers, and codes of texts."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.prepare.ids import id_text, recoded


class GrowingColumn:
    """Numbers that are appended block by block; growing moves pages of memory instead of copying them."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._values_N: NDArray[Any] = np.empty(0, dtype)
        self._size = 0

    def append(self, values_B: NDArray[Any]) -> None:
        """Adds a block."""
        start, self._size = self._size, self._size + values_B.size
        if self._size > self._values_N.size:
            self._values_N.resize(self._size + self._size // 8, refcheck=False)
        self._values_N[start : self._size] = values_B

    def finish(self) -> NDArray[Any]:
        """All numbers, [N]; nothing can be appended any more."""
        self._values_N.resize(self._size, refcheck=False)
        return self._values_N


class GrowingCodes:
    """Codes of texts by first appearance, for blocks that have codes of their own.

    Blocks wait until they are as long as there are known texts, whose lookup is thus paid by as many new ones.
    """

    def __init__(self) -> None:
        self._codes = GrowingColumn(np.int32)
        self._texts: pa.StringArray = pa.array([], pa.string())
        self._waiting: list[pa.DictionaryArray] = []
        self._num_waiting = 0

    def append(self, block: pa.DictionaryArray) -> None:
        """Adds a block of ids, see `dist_rec.prepare.ids`."""
        block = recoded(block, id_text(block.dictionary))
        self._waiting.append(block)
        self._num_waiting += len(block)
        if self._num_waiting >= len(self._texts):
            self._unify()

    def finish(self) -> tuple[NDArray[np.int32], pa.StringArray]:
        """The code of each text, int32 [N], and the texts by code; nothing can be appended any more."""
        self._unify()
        return self._codes.finish(), self._texts

    def _unify(self) -> None:
        known = pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), self._texts)
        known, *blocks = pa.chunked_array([known, *self._waiting]).unify_dictionaries().chunks
        for block in blocks:
            self._codes.append(block.indices.to_numpy())
        self._texts, self._waiting, self._num_waiting = known.dictionary, [], 0
