"""Long arrays a span at a time, so that what is computed on the way stays small."""

from collections.abc import Iterator

SPAN = 1 << 18


def spans(count: int) -> Iterator[slice]:
    """The places from 0 to `count`, cut into spans."""
    for start in range(0, count, SPAN):
        yield slice(start, min(start + SPAN, count))
