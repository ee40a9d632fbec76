"""SplitMix64: random numbers that are pure functions of a key, so that no state has to be kept or shared.

Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators" (figure 17): the k-th number of the stream
that starts at `base` is `mix(base + k * GAMMA)`. All arithmetic is modulo 2**64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_rec.core.spans import spans

GAMMA = np.uint64(0x9E3779B97F4A7C15)
U64 = np.uint64


def mix(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit words that flips each bit of the result with probability 1/2 for each bit of the input."""
    word = (word ^ (word >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> U64(27))) * U64(0x94D049BB133111EB)
    return word ^ (word >> U64(31))


def stream(*key: Any) -> NDArray[np.uint64]:
    """The base of the stream of a key of integers or integer arrays, broadcast together."""
    base = np.zeros(1, np.uint64)
    for part in key:
        base = mix((base ^ np.asarray(part).astype(np.uint64)) + GAMMA)
    return base


def words(base: NDArray[np.uint64], index: NDArray[Any]) -> NDArray[np.uint64]:
    """The numbers at these indices of streams, from 0; `base` and `index` are broadcast together."""
    return mix(base + (index.astype(np.uint64) + U64(1)) * GAMMA)


def shuffle_keys(count: int, *key: int) -> NDArray[np.uint64]:
    """The words of `count` places, all different: in their order, the places are a random permutation."""
    base, word_N = stream(*key), np.empty(count, np.uint64)
    for span in spans(count):
        word_N[span] = words(base, np.arange(span.start, span.stop))
    return word_N


def shuffled(count: int, *key: int) -> NDArray[np.int64]:
    """A random permutation of [0, count), drawn for the key: indices sorted by their numbers."""
    return np.argsort(shuffle_keys(count, *key))
