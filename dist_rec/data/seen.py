"""The (user, item) pairs of the training split: a file in the folders that `dist-rec prepare ratings` writes, and
`dist-rec prepare sessions` where there are users.

Shapes: S pairs, each `user * items + item` of rows of the tables.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.data.shards import Dataset, checksum, verified

FILE = "seen.npy"


class Seen(Config):
    """The manifest's entry for the file, `transform.seen`."""

    pairs: int
    checksum: str


def save_seen(folder: Path, pair_S: NDArray[np.int64]) -> Seen:
    """Writes the sorted pairs of the training split, int64 [S]."""
    np.save(folder / FILE, pair_S)
    return Seen(pairs=pair_S.size, checksum=checksum(folder / FILE))


def seen_pairs(dataset: Dataset) -> NDArray[np.int64]:
    """The sorted pairs of the training split, int64 [S], verified and mapped into memory.

    Raises:
        UserError: if the folder has no seen pairs, or they are damaged.
    """
    path, seen = Path(dataset.path, FILE), dataset.manifest.transform.get("seen")
    if seen is None:
        raise UserError(
            f"{dataset.path} has no seen pairs: it was not prepared by `dist-rec prepare ratings`, "
            "or `prepare sessions` with users"
        )
    return np.load(verified(path, seen["checksum"]), mmap_mode="r")
