"""An iterator that a thread runs ahead of who takes from it."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(make: Callable[[threading.Event], Iterator[T]], size: int) -> Iterator[T]:
    """The items of `make`, which a thread makes up to `size` ahead; what it raises is raised here.

    Args:
        make: is given an event that is set when no more items will be taken.
        size: items that wait at most.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(size)
    closed = threading.Event()

    def produce() -> None:
        try:
            for item in make(closed):
                _put(ready, (item,), closed)
            _put(ready, None, closed)
        except BaseException as error:
            _put(ready, error, closed)

    thread = threading.Thread(target=produce, name="batches", daemon=True)
    thread.start()
    try:
        while (made := ready.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            yield made[0]
    finally:
        closed.set()
        thread.join()


def _put(ready: "queue.Queue", item: object, closed: threading.Event) -> None:
    while not closed.is_set():
        try:
            return ready.put(item, timeout=0.1)
        except queue.Full:
            continue
