"""How often training saw each item: a file of the folders that `dist-rec prepare sessions` makes.

Shapes: I rows of the item table.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.data.shards import Dataset, checksum, verified

FILE = "counts.npy"


class Counts(Config):
    """What the manifest says of the file, as `transform.counts`."""

    events: int
    checksum: str


def save_counts(folder: Path, count_I: NDArray[np.int64]) -> Counts:
    """Writes the training events of each item; 0 for row 0, the unknown."""
    np.save(folder / FILE, count_I)
    return Counts(events=int(count_I.sum()), checksum=checksum(folder / FILE))


def load_counts(dataset: Dataset) -> NDArray[np.int64]:
    """The training events of each item, int64 [I], verified.

    Raises:
        UserError: if the folder has no counts, or not those that it was prepared with.
    """
    path, counts = Path(dataset.path, FILE), dataset.manifest.transform.get("counts")
    if counts is None:
        raise UserError(f"{dataset.path} was not prepared by `dist-rec prepare sessions`: it has no counts of items")
    return np.load(verified(path, counts["checksum"]))
