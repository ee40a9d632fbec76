"""A function over many tasks on several processes: with progress, and without orphans whatever ends the run."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from tqdm import tqdm

from dist_rec.core.errors import UserError

POLL_SECONDS = 0.1
Result = TypeVar("Result", covariant=True)


class Report(Protocol):
    """Told by a running task what it has done since it last told."""

    def __call__(self, work: int, count: int) -> None:
        """Adds to the work done, which is a part of the total, and to the rows (or another unit) it gave."""


class Task(Protocol[Result]):
    """A piece of work that can be sent to another process."""

    def run(self, report: Report) -> Result:
        """Does it."""


def available_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A pool of processes that live no longer than the one that started them.

    Args:
        count: how many; with one, tasks run in the calling process.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._done: Any = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        self._others = set(multiprocessing.active_children())
        if self._count > 1:
            context = multiprocessing.get_context("spawn")
            # Two words for each process, work and count: no lock that a killed process could leave taken.
            self._done = context.RawArray("q", 2 * self._count)
            initial = (self._done, context.Value("i", 0))
            self._pool = ProcessPoolExecutor(self._count, context, initializer=_start, initargs=initial)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        if kind is not None:
            for process in set(multiprocessing.active_children()) - self._others:
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, tasks: Sequence[Task[Result]], title: str, total: int, unit: str = "rows") -> list[Result]:
        """The results of all tasks in their order, with a progress bar on a terminal.

        Args:
            tasks: begun in this order.
            title: of the bar.
            total: the work that all tasks report together.
            unit: what they report beside their work.

        Raises:
            UserError: if a process was killed; and whatever a task raises.
        """
        with _Bar(title, total, unit) as bar:
            if self._pool is None:
                return [task.run(bar.add) for task in tasks]
            return self._gather(self._submit(tasks), bar)

    def _submit(self, tasks: Sequence[Task[Result]]) -> list[Future[Result]]:
        assert self._pool is not None
        # Processes inherit the mask: Ctrl-C is for this one alone, from their first instruction on.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return [self._pool.submit(_run, task) for task in tasks]
        except BrokenProcessPool:
            raise _killed() from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def _gather(self, futures: list[Future[Result]], bar: "_Bar") -> list[Result]:
        before = self._sums()
        pending: set[Future[Result]] = set(futures)
        while pending:
            done, pending = wait(pending, POLL_SECONDS, FIRST_EXCEPTION)
            work, count = self._sums()
            bar.show(work - before[0], count - before[1])
            failed = [future for future in futures if future in done and future.exception()]
            if failed:
                error = failed[0].exception()
                assert error is not None
                raise _killed() if isinstance(error, BrokenProcessPool) else error
        return [future.result() for future in futures]

    def _sums(self) -> tuple[int, int]:
        return sum(self._done[0::2]), sum(self._done[1::2])


def _killed() -> UserError:
    return UserError("a worker process was killed; was memory short? Try fewer --workers")


_report: Report


def _start(done: Any, started: Any) -> None:
    """Begins a worker: finds its words for progress, and ends it when its parent is gone."""
    with started.get_lock():
        slot = 2 * started.value
        started.value += 1

    def report(work: int, count: int) -> None:
        done[slot] += work
        done[slot + 1] += count

    global _report
    _report = report
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _run(task: Task[Any]) -> Any:
    return task.run(_report)


class _Bar:
    """Counts, counts a second and time left on stderr; where that is no terminal, one line at the end."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._unit, self._work, self._count = title, unit, 0, 0
        self._start = time.perf_counter()
        form = "{desc} {percentage:3.0f}% |{bar:30}|{postfix} [{elapsed}, {remaining} left]"
        self._bar = tqdm(desc=title, total=total, disable=not sys.stderr.isatty(), bar_format=form)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._bar.disable and kind is None:
            print(f"{self._title}: {self._speed()}", file=sys.stderr)

    def add(self, work: int, count: int) -> None:
        self.show(self._work + work, self._count + count)

    def show(self, work: int, count: int) -> None:
        self._bar.set_postfix_str(self._speed(), refresh=False)
        self._bar.update(work - self._work)
        self._work, self._count = work, count

    def _speed(self) -> str:
        seconds = time.perf_counter() - self._start
        return f"{self._count:,} {self._unit}, {self._count / max(seconds, 1e-9):,.0f} {self._unit}/s"
