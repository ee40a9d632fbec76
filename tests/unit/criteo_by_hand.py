"""Criteo's preparation once more, slow and plain: one line at a time, dictionaries, no arrays."""

import math
from collections import Counter
from collections.abc import Sequence

Line = list[str]
CATEGORIES = range(14, 40)


def read(text: str) -> list[Line]:
    return [line.split("\t") for line in text.splitlines()]


def fit(lines: Sequence[Line], min_count: int) -> list[dict[int, int]]:
    """The row of every value that is frequent enough, for each of the 26 categories."""
    vocabularies = []
    for field in CATEGORIES:
        counts = Counter(int(line[field], 16) for line in lines if line[field])
        kept = sorted((value for value in counts if counts[value] >= min_count), key=lambda v: (-counts[v], v))
        vocabularies.append({value: row for row, value in enumerate(kept, start=1)})
    return vocabularies


def encode(lines: Sequence[Line], vocabularies: list[dict[int, int]]) -> dict[str, list[float]]:
    """All columns."""
    columns: dict[str, list[float]] = {"label": [float(line[0]) for line in lines]}
    for index in range(13):
        columns[f"int_{index}"] = [math.log1p(max(int(line[1 + index] or 0), 0)) for line in lines]
    for index, (field, vocabulary) in enumerate(zip(CATEGORIES, vocabularies, strict=True)):
        columns[f"cat_{index}"] = [vocabulary.get(int(line[field], 16), 0) if line[field] else 0 for line in lines]
    return columns
