"""Random numbers of a training step that do not depend on how its rows are dealt to processes.

Each is a pure function of the seed, the step, the number of the draw within the step, the row's place in the global
batch, and the place within the row. They are generated on the CPU.

Shapes: N rows of a tensor, C columns, B rows of this process, V ids of all of them end to end.
"""

import math
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.core.splitmix import stream, words

IDS = 1 << 20
"""Maximum number of ids of a row with independent random numbers."""


class Noise:
    """The random draws of each step in turn.

    A thread generates a step's bits ahead, during the embedding lookup: draws of the same shapes as in the last step.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "noise")
        self._drawn: dict[int, tuple[int, int]] = {}
        self._ahead: dict[int, Future[Tensor]] = {}
        self.begin(0, 0, 0, 1)

    def begin(self, seed: int, step: int, first_row: int, rows: int) -> None:
        """Begins a global step, in which this process has B `rows` of the global batch, from its row `first_row` on."""
        self._step, self._first_row, self._rows, self._draws = (seed, step), first_row, rows, 0
        for coming in self._ahead.values():
            coming.cancel()
        self._ahead = {
            draw: self._thread.submit(_words, *self._place(draw, *shape)) for draw, shape in self._drawn.items()
        }
        self._drawn = {}

    def bits(self, rows: int, columns: int) -> Tensor:
        """Random bits, int64 [N, C]; each of the B rows of the batch has N / B neighbouring rows.

        They are words of PCG64 (O'Neill 2014), which can jump to any place of its stream.
        """
        draw = self._next_draw()[-1]
        self._drawn[draw] = (rows, columns)
        made = self._ahead.pop(draw).result() if draw in self._ahead else None
        if made is not None and made.shape == (rows, columns):
            return made
        return _words(*self._place(draw, rows, columns))

    def _place(self, draw: int, rows: int, columns: int) -> tuple[tuple[int, ...], int, int, int]:
        """Arguments of `_words`."""
        return (*self._step, draw), self._first_row * rows // max(1, self._rows) * columns, rows, columns

    def uniform_like(self, x_NC: Tensor) -> Tensor:
        """Uniform in [0, 1), float32 of the shape and on the device of x."""
        bits_NC = self.bits(*x_NC.shape).numpy().view(np.uint64)
        return torch.from_numpy(_uniform(bits_NC)).to(x_NC.device)

    def normal_like(self, x_NC: Tensor) -> Tensor:
        """Standard normal, of the shape and type and on the device of x."""
        centred_NC = self.uniform_like(x_NC).mul_(2).add_(2**-24 - 1)
        return centred_NC.erfinv_().mul_(math.sqrt(2)).to(x_NC.dtype)

    def uniform_of_ids(self, lengths_B: Tensor) -> Tensor:
        """Uniform in [0, 1) for each id of the rows, float32 [V]; the lengths of padding rows, beyond B, are 0."""
        bits_V = words(stream(*self._next_draw()), self._places_of_ids(lengths_B))
        return torch.from_numpy(_uniform(bits_V)).to(lengths_B.device)

    def bits_of_ids(self, lengths_B: Tensor, columns: int) -> Tensor:
        """Random bits for each id of the rows, int64 [V, C]."""
        place_V = self._places_of_ids(lengths_B)
        place_VC = place_V[:, np.newaxis] * columns + np.arange(columns)
        bits = words(stream(*self._next_draw()), place_VC.ravel())
        return torch.from_numpy(bits.view(np.int64)).view(place_VC.shape)

    def _places_of_ids(self, lengths_B: Tensor) -> NDArray[np.int64]:
        """A number for each id of the rows that no other of the global batch has, [V]."""
        lengths = lengths_B.cpu().numpy().astype(np.int64)
        ends = lengths.cumsum()
        row_V = np.repeat(self._first_row + np.arange(len(lengths)), lengths)
        place_V = np.arange(len(row_V)) - np.repeat(ends - lengths, lengths)
        return row_V * IDS + place_V

    def _next_draw(self) -> tuple[int, ...]:
        self._draws += 1
        return *self._step, self._draws


noise = Noise()
"""The noise of this process."""


def _words(key: tuple[int, ...], skipped: int, rows: int, columns: int) -> Tensor:
    generator = np.random.PCG64(np.random.SeedSequence(key))
    generator.advance(skipped)
    # Over the full range of uint64 these are the generator's own words, drawn without holding the interpreter's lock.
    words = np.random.Generator(generator).integers(0, 2**64, rows * columns, np.uint64)
    return torch.from_numpy(words.view(np.int64)).view(rows, columns)


def _uniform(bits: NDArray[np.uint64]) -> NDArray[np.float32]:
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
