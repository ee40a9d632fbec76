"""Time that a run spends on each of its activities."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """Adds up the seconds spent on each activity."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Adds the time that the block takes."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started

    def each(self, name: str, values: Iterator[T]) -> Iterator[T]:
        """Yields the values, and adds the time that each takes to arrive."""
        while True:
            with self.of(name):
                value = next(values, None)
            if value is None:
                return
            yield value
