"""The files of a preparation, and the split that each is for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_rec.core.errors import UserError
from dist_rec.prepare.lines import find_files
from dist_rec.prepare.ratings.split import FILES_OF, SplitIds


@dataclass(frozen=True)
class SplitFiles:
    """F files: those for training, then those for validation and test."""

    paths: list[str]
    splits: SplitIds
    """The split of each, [F]."""

    @classmethod
    def find(cls, *patterns: Sequence[str]) -> "SplitFiles":
        """The files of training, validation and test, by paths or glob patterns.

        Raises:
            UserError: if there is no such file, or the same one in two splits.
        """
        of_splits = [find_files(of_split, option) for of_split, option in zip(patterns, FILES_OF, strict=True)]
        found: dict[Path, str] = {}
        for option, paths in zip(FILES_OF, of_splits, strict=True):
            for path in paths:
                if (other := found.setdefault(Path(path).resolve(), option)) != option:
                    raise UserError(f"{path} is in both {other} and {option}; remove it from one of them")
        splits = np.repeat(np.arange(len(FILES_OF), dtype=np.int8), [len(paths) for paths in of_splits])
        return cls([path for paths in of_splits for path in paths], splits)
