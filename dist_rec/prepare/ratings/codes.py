"""Codes of very many ratings: looked up, counted and grouped in little memory beside the result.

NumPy makes 8 bytes of every index; here that is true of a span at a time.

Shapes: N ratings, M of them, K codes.
"""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dist_rec.core.spans import spans

Value = TypeVar("Value", bound=np.generic)
Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]
PLACE_BITS = 32


def gather(value_K: NDArray[Value], code_N: Codes) -> NDArray[Value]:
    """The value of each code, [N]."""
    value_N = np.empty(code_N.size, value_K.dtype)
    for span in spans(code_N.size):
        value_N[span] = value_K[code_N[span]]
    return value_N


def count(code_N: Codes, among_N: Mask, codes: int) -> NDArray[np.int64]:
    """How many of the ratings `among_N` have each of K codes, int64 [K]."""
    count_K = np.zeros(codes, np.int64)
    for span in spans(code_N.size):
        count_K += np.bincount(code_N[span][among_N[span]], minlength=codes)
    return count_K


def group(code_N: Codes, among_N: Mask) -> NDArray[np.int32]:
    """The places of the ratings `among_N` by ascending code, in their own order within each, int32 [M]."""
    key_M = np.flatnonzero(among_N)
    for span in spans(key_M.size):
        key_M[span] |= code_N[key_M[span]].astype(np.int64) << PLACE_BITS
    key_M.sort()
    key_M &= (1 << PLACE_BITS) - 1
    return key_M.astype(np.int32)


def group_spans(code_N: Codes, among_N: Mask, codes: int) -> Iterator[NDArray[np.int32]]:
    """The same places, span by span: each has all the ratings of its codes."""
    place_M, end_K = group(code_N, among_N), count(code_N, among_N, codes).cumsum()
    start = 0
    for span in spans(place_M.size):
        stop = int(end_K[np.searchsorted(end_K, span.stop)])
        if stop > start:
            yield place_M[start:stop]
        start = stop
