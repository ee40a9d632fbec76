"""A column of numbers that waits on disk while others are read."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Spool:
    """Grows at its end, in a file without a name that is gone when the process ends.

    Args:
        folder: on the disk to use.
        dtype: of the numbers.
    """

    def __init__(self, folder: Path, dtype: type[np.generic]) -> None:
        self._file, self._dtype = tempfile.TemporaryFile(dir=folder), dtype  # noqa: SIM115  # it lives on

    def append(self, values: NDArray[Any]) -> None:
        """Writes numbers of that type."""
        values.astype(self._dtype, copy=False).tofile(self._file)

    def take(self) -> NDArray[Any]:
        """All numbers since the last call."""
        self._file.seek(0)
        values = np.fromfile(self._file, self._dtype)
        self._file.seek(0)
        self._file.truncate()
        return values
